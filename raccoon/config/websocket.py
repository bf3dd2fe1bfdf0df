"""Options of the HTTP port and of the WebSocket connections on it."""

from __future__ import annotations

from typing import Any

import attrs

from raccoon.config.options import COUNT, PORT, boolean, header, integer, option, text


def _required_header(value: Any) -> str:
    if not header(value):
        raise ValueError("the name of an HTTP header")
    return str(value)


@attrs.frozen(kw_only=True)
class WebSocketSettings:
    """The HTTP port and the WebSocket connections on it."""

    port: int = option("SERVER_WEBSOCKET_PORT", 8080, "HTTP port (REST and WebSocket)", PORT)
    max_conn: int = option(
        "SERVER_WEBSOCKET_MAX_CONN", 30000, "live WebSocket connections at most", COUNT
    )
    read_buffer_size: int = option(
        "SERVER_WEBSOCKET_READ_BUFFER_SIZE", 10240, "accepted for compatibility", COUNT
    )
    write_buffer_size: int = option(
        "SERVER_WEBSOCKET_WRITE_BUFFER_SIZE", 10240, "accepted for compatibility", COUNT
    )
    conn_id_header: str = option(
        "SERVER_WEBSOCKET_CONN_ID_HEADER",
        "X-User-ID",
        "header (gRPC: metadata key) that identifies a client",
        _required_header,
    )
    conn_group_header: str = option(
        "SERVER_WEBSOCKET_CONN_GROUP_HEADER", "", "header that names a client's group", header
    )
    conn_group_default: str = option(
        "SERVER_WEBSOCKET_CONN_GROUP_DEFAULT",
        "--default--",
        "group of a client without that header",
        text,
    )
    ping_interval_ms: int = option(
        "SERVER_WEBSOCKET_PING_INTERVAL_MS",
        30000,
        "a ping to each WebSocket client this often",
        integer(10, 3_600_000),
    )
    pong_wait_interval_ms: int = option(
        "SERVER_WEBSOCKET_PONG_WAIT_INTERVAL_MS",
        60000,
        "a client from which no pong came for this long is dropped",
        integer(10, 3_600_000),
    )
    write_wait_interval_ms: int = option(
        "SERVER_WEBSOCKET_WRITE_WAIT_INTERVAL_MS",
        5000,
        "a client that does not read its answers for this long is dropped",
        integer(10, 3_600_000),
    )
    pinger_size: int = option(
        "SERVER_WEBSOCKET_PINGER_SIZE", 1, "accepted for compatibility", COUNT
    )
    check_origin: bool = option(
        "SERVER_WEBSOCKET_CHECK_ORIGIN",
        True,
        "refuse an upgrade whose Origin is another host",
        boolean,
    )
    dedup_enabled: bool = option(
        "SERVER_BATCH_DEDUP_IN_CONNECTION_ENABLED",
        False,
        "answer a req_guid seen before on the same connection without publishing it again",
        boolean,
    )
    dedup_max_guids: int = option(
        "SERVER_BATCH_DEDUP_MAX_GUIDS",
        1000,
        "the latest guids that each connection remembers",
        COUNT,
    )
