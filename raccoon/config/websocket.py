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
    """HTTP port and WebSocket connections."""

    port: int = option("SERVER_WEBSOCKET_PORT", 8080, "HTTP port (REST and WebSocket)", PORT)
    max_conn: int = option(
        "SERVER_WEBSOCKET_MAX_CONN", 30000, "maximum number of open WebSocket connections", COUNT
    )
    read_buffer_size: int = option(
        "SERVER_WEBSOCKET_READ_BUFFER_SIZE", 10240, "no effect; accepted for compatibility", COUNT
    )
    write_buffer_size: int = option(
        "SERVER_WEBSOCKET_WRITE_BUFFER_SIZE", 10240, "no effect; accepted for compatibility", COUNT
    )
    conn_id_header: str = option(
        "SERVER_WEBSOCKET_CONN_ID_HEADER",
        "X-User-ID",
        "header (gRPC: metadata key) with the client's id",
        _required_header,
    )
    conn_group_header: str = option(
        "SERVER_WEBSOCKET_CONN_GROUP_HEADER",
        "",
        "header (gRPC: metadata key) with the client's group",
        header,
    )
    conn_group_default: str = option(
        "SERVER_WEBSOCKET_CONN_GROUP_DEFAULT",
        "--default--",
        "group of clients that send no such header",
        text,
    )
    ping_interval_ms: int = option(
        "SERVER_WEBSOCKET_PING_INTERVAL_MS",
        30000,
        "interval between pings to each WebSocket client",
        integer(10, 3_600_000),
    )
    pong_wait_interval_ms: int = option(
        "SERVER_WEBSOCKET_PONG_WAIT_INTERVAL_MS",
        60000,
        "drop a WebSocket client that sends no pong for this long",
        integer(10, 3_600_000),
    )
    write_wait_interval_ms: int = option(
        "SERVER_WEBSOCKET_WRITE_WAIT_INTERVAL_MS",
        5000,
        "drop a client that does not read its answers for this long",
        integer(10, 3_600_000),
    )
    pinger_size: int = option(
        "SERVER_WEBSOCKET_PINGER_SIZE", 1, "no effect; accepted for compatibility", COUNT
    )
    check_origin: bool = option(
        "SERVER_WEBSOCKET_CHECK_ORIGIN",
        True,
        "refuse WebSocket upgrades whose Origin is another host",
        boolean,
    )
    dedup_enabled: bool = option(
        "SERVER_BATCH_DEDUP_IN_CONNECTION_ENABLED",
        False,
        "do not publish a batch again if its req_guid was already seen on the same connection",
        boolean,
    )
    dedup_max_guids: int = option(
        "SERVER_BATCH_DEDUP_MAX_GUIDS",
        1000,
        "number of recent req_guids remembered for each connection",
        COUNT,
    )
