"""Every error that Raccoon raises on purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_DISTINCT_REASONS = 3
_REASON_LENGTH = 200


class RaccoonError(Exception):
    """The root of Raccoon's own errors."""


class ConfigError(RaccoonError):
    """The configuration cannot be used; one problem a line."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class StartError(RaccoonError):
    """The service cannot start: a port is taken, a publisher refuses its options."""


class BadRequestError(RaccoonError):
    """A client sent what cannot be accepted; the message names the field or the limit.

    Attributes:
        guid: the request's guid where it could be read, or empty.
    """

    guid = ""


class UnidentifiedError(BadRequestError):
    """A client of a protocol that requires an id sent none."""


class DeserializationError(BadRequestError):
    """The bytes are not a request."""


class LimitError(BadRequestError):
    """The request is larger, longer or deeper than a limit allows."""


class Overloaded(RaccoonError):  # noqa: N818 - a state that passes, not a fault
    """Admission was refused: nothing was kept, and the client may retry.

    Args:
        reason: what there is no room in, or none for the queue.
    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(f"overloaded, retry: {reason}" if reason else "overloaded, retry")


class PublishError(RaccoonError):
    """Some events of one request were not delivered.

    Args:
        failed: how many events failed.
        total: how many events the request holds.
        reasons: one text for each failed event, repeated texts allowed; the message shows
            the first few distinct ones.
        lasting: how many events of each type failed, where no attempt can ever deliver any of
            them; else none.
    """

    def __init__(
        self,
        failed: int,
        total: int,
        reasons: Sequence[str],
        lasting: Mapping[str, int] | None = None,
    ) -> None:
        distinct = list(dict.fromkeys(reasons))
        shown = "; ".join(reason[:_REASON_LENGTH] for reason in distinct[:_DISTINCT_REASONS])
        if len(distinct) > _DISTINCT_REASONS:
            shown += f"; and {len(distinct) - _DISTINCT_REASONS} more"
        super().__init__(f"{failed} of {total} events failed: {shown}")
        self.failed = failed
        self.total = total
        self.lasting = lasting or {}
