"""Limits on what one client may send, and the memory that the largest request is charged with."""

from __future__ import annotations

import attrs

from raccoon.config.options import BYTES, COUNT, integer, option

# Bytes of memory that a request, each of its events and each of their types are charged with
# besides the payloads.
REQUEST_OVERHEAD = 1024
EVENT_OVERHEAD = 128
TYPE_OVERHEAD = 128


@attrs.frozen(kw_only=True)
class LimitSettings:
    """What one client may send; each refusal names its limit."""

    request_bytes: int = option(
        "LIMIT_REQUEST_BYTES", 4_194_304, "a body or message, on all protocols", BYTES
    )
    events: int = option("LIMIT_EVENTS", 10_000, "events in a request", COUNT)
    id_length: int = option(
        "LIMIT_ID_LENGTH", 256, "characters of a connection id or group", integer(1, 8192)
    )
    guid_length: int = option(
        "LIMIT_GUID_LENGTH", 256, "characters of a req_guid", integer(1, 8192)
    )
    json_depth: int = option(
        "LIMIT_JSON_DEPTH", 32, "nesting of JSON that a request may carry", integer(1, 200)
    )
    header_bytes: int = option(
        "LIMIT_HEADER_BYTES", 16_384, "request line and headers together", integer(1024, 1 << 20)
    )
    headers: int = option("LIMIT_HEADERS", 100, "headers of a request", integer(8, 10_000))
    header_timeout_ms: int = option(
        "LIMIT_HEADER_TIMEOUT_MS", 10_000, "from a request's first byte to its last header", COUNT
    )
    body_timeout_ms: int = option(
        "LIMIT_BODY_TIMEOUT_MS", 60_000, "from a request's last header to its last byte", COUNT
    )
    idle_timeout_ms: int = option(
        "LIMIT_IDLE_TIMEOUT_MS", 60_000, "an HTTP connection without a request", COUNT
    )
    http_connections: int = option(
        "LIMIT_HTTP_CONNECTIONS", 10_000, "open HTTP connections besides WebSocket ones", COUNT
    )
    in_flight: int = option(
        "LIMIT_REQUESTS_IN_FLIGHT",
        256,
        "unanswered requests of one WebSocket connection or gRPC stream; past it it is not read",
        COUNT,
    )


def largest_request(limits: LimitSettings) -> int:
    """Bytes of memory that the largest allowed request is charged with."""
    for_events = (EVENT_OVERHEAD + TYPE_OVERHEAD) * limits.events
    return limits.request_bytes + REQUEST_OVERHEAD + for_events
