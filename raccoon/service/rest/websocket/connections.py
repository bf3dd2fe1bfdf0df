"""The table of live WebSocket connections: who is connected, and when each is next looked at."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from raccoon.interfaces import IMetrics
from raccoon.messages import Identifier
from raccoon.supervision import Supervisor

_TICK = 0.05
_PER_TICK = 200


class Connection(Protocol):
    """What the table needs of a connection."""

    identifier: Identifier
    last_pong: float

    def ping(self) -> None:
        """Send a ping."""

    def pong_missing(self) -> None:
        """No pong came in time: drop the connection, or set `last_pong` anew."""

    def go_away(self) -> None:
        """Close in an orderly way."""

    def stop_reading(self) -> None:
        """Take no further message."""

    def abort(self) -> None:
        """Drop the connection at once."""


class RefusedError(Exception):
    """The table does not take a connection; `reason` is that of user_connection_failure_total."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ConnectionTable:
    """Live connections by identifier.

    Args:
        max_connections: how many at most.
        metrics: connections_count_current.
    """

    def __init__(self, max_connections: int, metrics: IMetrics) -> None:
        self._max = max_connections
        self._metrics = metrics
        self._live: dict[Identifier, Connection] = {}

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._live.values()))

    def claim(self, connection: Connection) -> Deferred[None] | None:
        """Ask for a place before `add`, where another process must be asked; else None.

        It fails with RefusedError where there is no answer.
        """
        return None

    def add(self, connection: Connection) -> None:
        """Take a connection.

        Raises:
            RefusedError: `serverlimit` when the table is full, `exists` when the identifier is.
        """
        if len(self._live) >= self._max:
            raise RefusedError("serverlimit")
        if connection.identifier in self._live:
            raise RefusedError("exists")
        self._enter(connection)

    def remove(self, connection: Connection) -> None:
        """Forget a connection, whether it was taken or not."""
        self._leave(connection)

    def _enter(self, connection: Connection) -> None:
        self._live[connection.identifier] = connection
        self._metrics.adjust("connections_count_current", 1, (connection.identifier.group,))

    def _leave(self, connection: Connection) -> bool:
        """Returns whether it was there."""
        if self._live.get(connection.identifier) is not connection:
            return False
        del self._live[connection.identifier]
        self._metrics.adjust("connections_count_current", -1, (connection.identifier.group,))
        return True


class KeepAlive:
    """Pings each connection at its own time, and drops those that answer no more.

    One heap and one timer serve all connections: a timer for each would cost each a timer. At
    most 200 are served in 50 ms, so that many connections of one moment do not block the rest.

    Args:
        reactor: gives time.
        ping_interval: seconds between pings to a connection.
        pong_wait: seconds without a pong after which it is dropped.
        supervisor: is told of faults.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        ping_interval: float,
        pong_wait: float,
        supervisor: Supervisor,
    ) -> None:
        self._reactor = reactor
        self._supervisor = supervisor
        self._interval = ping_interval
        self._wait = pong_wait
        self._heap: list[list[Any]] = []
        self._sequence = 0
        self._timer: IDelayedCall | None = None

    def watch(self, connection: Connection) -> Callable[[], None]:
        """Begin with a connection; its `last_pong` is set to now.

        Returns:
            Stops watching.
        """
        now = self._reactor.seconds()
        connection.last_pong = now
        entry: list[Any] = []
        self._push(entry, now + self._interval, connection)
        if self._timer is None:
            self._timer = self._reactor.callLater(_TICK, self._tick)

        def stop() -> None:
            entry[2] = None

        return stop

    def stop(self) -> None:
        """Watch nothing any more."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _push(self, entry: list[Any], next_ping: float, connection: Connection) -> None:
        """An entry is [due, sequence, connection or None, time of the next ping]."""
        self._sequence += 1
        due = min(next_ping, connection.last_pong + self._wait)
        entry[:] = [due, self._sequence, connection, next_ping]
        heapq.heappush(self._heap, entry)

    def _tick(self) -> None:
        now = self._reactor.seconds()
        served = 0
        while self._heap and self._heap[0][0] <= now and served < _PER_TICK:
            entry = heapq.heappop(self._heap)
            connection, next_ping = entry[2], entry[3]
            if connection is None:
                continue
            served += 1
            if now >= connection.last_pong + self._wait:
                self._supervisor.call("keep-alive", connection.pong_missing)
                if now >= connection.last_pong + self._wait:
                    continue  # it is about to end
            elif now >= next_ping:
                self._supervisor.call("keep-alive", connection.ping)
                next_ping = now + self._interval
            if entry[2] is not None:
                self._push(entry, next_ping, connection)
        self._timer = self._reactor.callLater(_TICK, self._tick) if self._heap else None
