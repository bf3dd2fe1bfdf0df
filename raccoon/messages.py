"""What clients send and are answered, whatever the protocol and the encoding."""

from __future__ import annotations

from typing import NamedTuple

STATUS_SUCCESS = 1
STATUS_ERROR = 2

CODE_OK = 1
CODE_BAD_REQUEST = 2
CODE_INTERNAL_ERROR = 3
CODE_MAX_CONNECTION_LIMIT_REACHED = 4
CODE_MAX_USER_LIMIT_REACHED = 5


class Identifier(NamedTuple):
    """A client: two live WebSocket connections never share one."""

    id: str
    group: str


class Batch(NamedTuple):
    """A decoded SendEventRequest.

    Attributes:
        guid: its req_guid.
        sent_time: Unix seconds, or None where the client sent none.
        types: each event's type, in order.
        payloads: each event's bytes, in order.
    """

    guid: str
    sent_time: float | None
    types: list[str]
    payloads: list[bytes]


class Response(NamedTuple):
    """A SendEventResponse.

    Attributes:
        status: STATUS_SUCCESS or STATUS_ERROR.
        code: one of the CODE_ numbers.
        sent_time: Unix seconds.
        reason: what went wrong, or "".
        guid: the request's guid, in `data`; None leaves `data` out.
    """

    status: int
    code: int
    sent_time: int
    reason: str
    guid: str | None


def success(guid: str, now: float) -> Response:
    """The answer to a request that reached its acknowledgement level."""
    return Response(STATUS_SUCCESS, CODE_OK, int(now), "", guid)


def failure(code: int, reason: str, now: float, guid: str | None = None) -> Response:
    """The answer to a request that was refused or failed."""
    return Response(STATUS_ERROR, code, int(now), reason, guid)
