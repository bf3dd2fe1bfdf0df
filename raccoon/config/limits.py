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
    """Limits on what one client may send; each refusal names its limit."""

    request_bytes: int = option(
        "LIMIT_REQUEST_BYTES", 4_194_304, "maximum size of a request, on all protocols", BYTES
    )
    events: int = option("LIMIT_EVENTS", 10_000, "maximum number of events in a request", COUNT)
    id_length: int = option(
        "LIMIT_ID_LENGTH",
        256,
        "maximum length of a client's id or group, in characters",
        integer(1, 8192),
    )
    guid_length: int = option(
        "LIMIT_GUID_LENGTH", 256, "maximum length of a req_guid, in characters", integer(1, 8192)
    )
    json_depth: int = option(
        "LIMIT_JSON_DEPTH", 32, "maximum nesting depth of a JSON request", integer(1, 200)
    )
    header_bytes: int = option(
        "LIMIT_HEADER_BYTES",
        16_384,
        "maximum size of request line and headers together",
        integer(1024, 1 << 20),
    )
    headers: int = option(
        "LIMIT_HEADERS", 100, "maximum number of headers in a request", integer(8, 10_000)
    )
    header_timeout_ms: int = option(
        "LIMIT_HEADER_TIMEOUT_MS",
        10_000,
        "deadline from the first byte of a request to its last header",
        COUNT,
    )
    body_timeout_ms: int = option(
        "LIMIT_BODY_TIMEOUT_MS",
        60_000,
        "deadline from the last header of a request to its last byte",
        COUNT,
    )
    idle_timeout_ms: int = option(
        "LIMIT_IDLE_TIMEOUT_MS",
        60_000,
        "close an HTTP connection that has had no request for this long",
        COUNT,
    )
    http_connections: int = option(
        "LIMIT_HTTP_CONNECTIONS",
        10_000,
        "maximum number of open HTTP connections, WebSocket not included",
        COUNT,
    )
    in_flight: int = option(
        "LIMIT_REQUESTS_IN_FLIGHT",
        256,
        "unanswered requests of a WebSocket connection or gRPC stream; beyond this, reading pauses",
        COUNT,
    )


def largest_request(limits: LimitSettings) -> int:
    """Bytes of memory that the largest allowed request is charged with."""
    for_events = (EVENT_OVERHEAD + TYPE_OVERHEAD) * limits.events
    return limits.request_bytes + REQUEST_OVERHEAD + for_events
