"""What all WebSocket connections share, and the resource that upgrades to them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.web.http import Request

from raccoon.config import LimitSettings, WebSocketSettings
from raccoon.identification import Identification
from raccoon.interfaces import ICollector, IMetrics
from raccoon.logs import Throttle
from raccoon.service.rest.resource import Codec
from raccoon.service.rest.websocket.connections import ConnectionTable, KeepAlive
from raccoon.service.rest.websocket.protocol import EventWebSocketProtocol


class EventWebSocketFactory(WebSocketServerFactory):  # type: ignore[misc]
    """Builds EventWebSocketProtocols and holds what they share.

    Args:
        reactor: gives time.
        collector: where requests go.
        json: codec of text messages.
        protobuf: codec of binary messages.
        identification: reads the client's id and group.
        settings: connections, keep-alive, deduplication.
        limits: message size and requests in flight.
        metrics: counts.
        table: of live connections, if not one of this process alone.
    """

    protocol = EventWebSocketProtocol
    noisy = False
    logger = Logger()

    def __init__(
        self,
        reactor: Any,
        collector: ICollector,
        json: Codec,
        protobuf: Codec,
        identification: Identification,
        settings: WebSocketSettings,
        limits: LimitSettings,
        metrics: IMetrics,
        table: ConnectionTable | None = None,
    ) -> None:
        super().__init__(reactor=reactor, server="Raccoon")
        # Autobahn's own is on the global reactor.
        self._batched_timer = SimpleNamespace(call_later=reactor.callLater)
        self.collector = collector
        self.json = json
        self.protobuf = protobuf
        self.identification = identification
        self.metrics = metrics
        self.check_origin = settings.check_origin
        self.dedup_size = settings.dedup_max_guids if settings.dedup_enabled else 0
        self.write_wait = settings.write_wait_interval_ms / 1000
        self.max_in_flight = limits.in_flight
        self.max_message = limits.request_bytes
        self.table = ConnectionTable(settings.max_conn, metrics) if table is None else table
        self.keep_alive = KeepAlive(
            reactor, settings.ping_interval_ms / 1000, settings.pong_wait_interval_ms / 1000
        )
        self.throttle = Throttle(self.logger, reactor.seconds)
        self._closed: Deferred[None] | None = None
        self._to_flush: list[EventWebSocketProtocol] = []
        self._answered: list[tuple[float, float, float]] = []

    def buildProtocol(self, addr: Any) -> EventWebSocketProtocol:
        """A connection with the limits of the configuration."""
        protocol: EventWebSocketProtocol = super().buildProtocol(addr)
        protocol.maxFramePayloadSize = self.max_message
        protocol.maxMessagePayloadSize = self.max_message
        return protocol

    def upgrade_failed(self, group: str | None, reason: str) -> None:
        """Count and log an upgrade that was refused, by its group header."""
        labels = (self.identification.group(group), "ugfailure")
        self.metrics.count("user_connection_failure_total", 1, labels)
        self.throttle.warn("WebSocket upgrade refused: {reason}", reason=reason)

    def stop_reading(self) -> None:
        """Take no further message on any connection."""
        for connection in self.table:
            connection.stop_reading()

    def close_all(self) -> Deferred[None]:
        """Close every connection in an orderly way; fires when the last one is gone."""
        self.keep_alive.stop()
        if not len(self.table):
            return succeed(None)
        self._closed = Deferred()
        for connection in self.table:
            connection.go_away()
        return self._closed

    def flush_soon(self, connection: EventWebSocketProtocol) -> None:
        """Have a connection send its answers at the end of the reactor's turn."""
        if not self._to_flush:
            self.reactor.callLater(0, self._flush)
        self._to_flush.append(connection)

    def answered(self, received_at: float, published_at: float, now: float) -> None:
        """Record how long a request took, with all others that are answered in this turn."""
        if not self._answered:
            self.reactor.callLater(0, self._observe)
        self._answered.append((received_at, published_at, now))

    def connection_closed(self) -> None:
        """A connection left the table."""
        if self._closed is not None and not len(self.table):
            closed, self._closed = self._closed, None
            closed.callback(None)

    def _flush(self) -> None:
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            connection.flush()

    def _observe(self) -> None:
        answered, self._answered = self._answered, []
        acks, all_in_all = [], []
        for received_at, published_at, now in answered:
            acks.append((now - published_at) * 1000)
            all_in_all.append((now - received_at) * 1000)
        self.metrics.observe_all("ack_event_rtt_ms", acks)
        self.metrics.observe_all("event_rtt_ms", all_in_all)


class UpgradeResource(WebSocketResource):  # type: ignore[misc]
    """Hands the transport of an upgrade request over to a WebSocket connection."""

    def render(self, request: Request) -> Any:
        """Check the origin, then take the transport; its HTTP channel lets go of it first."""
        headers = request.requestHeaders
        origin = headers.getRawHeaders("origin", [""])[0]
        if self._factory.check_origin and not _same_host(
            origin, headers.getRawHeaders("host", [""])[0]
        ):
            name = self._factory.identification.group_header
            group = headers.getRawHeaders(name, [None])[0] if name else None
            self._factory.upgrade_failed(group, "the origin is not this host")
            request.setResponseCode(403)
            request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
            return b"the origin is not this host (SERVER_WEBSOCKET_CHECK_ORIGIN)\n"
        headers.removeHeader("origin")  # checked; Autobahn takes only what it can parse
        channel: Any = request.channel
        channel.let_go()
        return super().render(request)


def _same_host(origin: str, host: str) -> bool:
    """Whether an Origin header, where there is one, names the host of the request."""
    if not origin:
        return True
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
