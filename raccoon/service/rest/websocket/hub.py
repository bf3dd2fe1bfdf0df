"""What all WebSocket connections share."""

from __future__ import annotations

import select
from typing import Any, Protocol

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from raccoon.admission import ArrivingBytes
from raccoon.config import LimitSettings, WebSocketSettings
from raccoon.identification import Identification
from raccoon.intake import Codec, Intake
from raccoon.interfaces import IMetrics
from raccoon.logs import Throttle
from raccoon.service.rest.websocket.connections import ConnectionTable, KeepAlive
from raccoon.supervision import Supervisor

_LOOK_SECONDS = 1.0


class Flushed(Protocol):
    """A connection whose answers wait for others."""

    def flush(self) -> None:
        """Send them."""


class Unfinished(Protocol):
    """A connection with a message that is not whole.

    Attributes:
        looks: how often the hub has looked since it began.
    """

    looks: int

    def not_whole(self) -> None:
        """It does not come whole in time."""


class Unread(Protocol):
    """A connection that is not read."""

    def descriptor(self) -> int:
        """Of its socket; -1 where it has none."""

    def abort(self) -> None:
        """Drop it."""


class WebSocketHub:
    """The table of connections, their keep-alive, and what is done once for many of them.

    Args:
        reactor: gives time.
        intake: takes the requests.
        json: codec of text messages.
        protobuf: codec of binary messages.
        identification: names the headers of a client's id and group.
        settings: connections, keep-alive, deduplication.
        limits: message size and requests in flight.
        metrics: counts.
        supervisor: is told of faults.
        arriving: counts messages that are not whole yet.
        table: of live connections, if not one of this process alone.
    """

    logger = Logger()

    def __init__(
        self,
        reactor: Any,
        intake: Intake,
        json: Codec,
        protobuf: Codec,
        identification: Identification,
        settings: WebSocketSettings,
        limits: LimitSettings,
        metrics: IMetrics,
        supervisor: Supervisor,
        arriving: ArrivingBytes,
        table: ConnectionTable | None = None,
    ) -> None:
        self.reactor = reactor
        self.intake = intake
        self.json = json
        self.protobuf = protobuf
        self.identification = identification
        self.metrics = metrics
        self.supervisor = supervisor
        self.arriving = arriving
        self._message_looks = max(limits.body_timeout_ms / 1000 / _LOOK_SECONDS, 1)
        # Those with a message that is not whole: a timer for each would cost more than a message.
        self.unfinished: set[Unfinished] = set()
        # Those that are not read, and so do not notice that their client has gone.
        self.unread: set[Unread] = set()
        self._watch = supervisor.loop("watching unread connections", self._look, reactor)
        self.check_origin = settings.check_origin
        self.dedup_size = settings.dedup_max_guids if settings.dedup_enabled else 0
        self.write_wait = settings.write_wait_interval_ms / 1000
        self.max_in_flight = limits.in_flight
        self.max_message = limits.request_bytes
        self.table = ConnectionTable(settings.max_conn, metrics) if table is None else table
        self.keep_alive = KeepAlive(
            reactor,
            settings.ping_interval_ms / 1000,
            settings.pong_wait_interval_ms / 1000,
            supervisor,
        )
        self.throttle = Throttle(self.logger, reactor.seconds)
        self._closed: Deferred[None] | None = None
        self._to_flush: list[Flushed] = []
        self._answered: list[tuple[float, float, float]] = []

    def start(self) -> None:
        """Begin to look after connections that are not read."""
        self._watch.start(_LOOK_SECONDS, now=False)

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
        self._watch.stop()
        if not len(self.table):
            return succeed(None)
        self._closed = Deferred()
        for connection in self.table:
            self.supervisor.call("closing a WebSocket connection", connection.go_away)
        return self._closed

    def connection_closed(self) -> None:
        """A connection left the table."""
        if self._closed is not None and not len(self.table):
            closed, self._closed = self._closed, None
            closed.callback(None)

    def flush_soon(self, connection: Flushed) -> None:
        """Have a connection send its answers at the end of the reactor's turn."""
        if not self._to_flush:
            self.reactor.callLater(0, self._flush)
        self._to_flush.append(connection)

    def answered(self, received_at: float, published_at: float, now: float) -> None:
        """Record how long a request took, with all others that are answered in this turn."""
        if not self._answered:
            self.reactor.callLater(0, self._observe)
        self._answered.append((received_at, published_at, now))

    def _look(self) -> None:
        """Look after messages that do not come whole, and clients that have gone unnoticed."""
        for slow in list(self.unfinished):
            slow.looks += 1
            if slow.looks > self._message_looks:
                self.supervisor.call("refusing a slow message", slow.not_whole)
        self._drop_the_gone()

    def _drop_the_gone(self) -> None:
        """Drop the connections that are not read and whose client has gone."""
        poll = select.poll()
        watched: dict[int, Unread] = {}
        for connection in self.unread:
            if (descriptor := connection.descriptor()) >= 0:
                watched[descriptor] = connection
                poll.register(descriptor, select.POLLRDHUP)
        for descriptor, _ in poll.poll(0) if watched else ():
            self.supervisor.call("dropping a connection", watched[descriptor].abort)

    def _flush(self) -> None:
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            try:
                connection.flush()
            except Exception as error:
                self.supervisor.failed("sending WebSocket answers", error)

    def _observe(self) -> None:
        answered, self._answered = self._answered, []
        acks, all_in_all = [], []
        for received_at, published_at, now in answered:
            acks.append((now - published_at) * 1000)
            all_in_all.append((now - received_at) * 1000)
        for name, values in (("ack_event_rtt_ms", acks), ("event_rtt_ms", all_in_all)):
            self.supervisor.call("the hub's metrics", self.metrics.observe_all, name, values)
