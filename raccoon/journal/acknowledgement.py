"""The answer that a request's client gets from the journal."""

from __future__ import annotations

from raccoon.errors import Overloaded, PublishError
from raccoon.request import CollectRequest


class Acknowledgement:
    """Fires a request's Deferred once, for all parts of the journal.

    Args:
        ack_level: at level 1 the disk is not what an answer waits for.
    """

    def __init__(self, ack_level: int) -> None:
        self._by_the_disk = ack_level != 1

    def stored(self, request: CollectRequest | None) -> None:
        """A request is on disk."""
        if request is None or not self._by_the_disk:
            return
        acknowledged, request.acknowledged = request.acknowledged, None
        if acknowledged is not None:
            acknowledged.callback(None)

    def refused(self, request: CollectRequest, reason: str) -> None:
        """The disk takes no writes now."""
        self._fail(request, Overloaded(f"the journal cannot be written: {reason}"))

    def failed(self, request: CollectRequest, reason: str) -> None:
        """A request cannot be kept, whatever the disk does."""
        events = len(request.types)
        self._fail(request, PublishError(events, events, [reason]))

    def _fail(self, request: CollectRequest, error: Overloaded | PublishError) -> None:
        acknowledged, request.acknowledged = request.acknowledged, None
        if acknowledged is not None:
            acknowledged.errback(error)
