"""One table of WebSocket connections for all workers: the parent's, and a worker's view of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from raccoon.interfaces import IMetrics
from raccoon.messages import Identifier
from raccoon.service.rest.websocket.connections import Connection, ConnectionTable, RefusedError

# A client that comes back at once, to another worker, may be ahead of the word that it left.
_ASK_AGAIN_SECONDS = 0.1


class Claims:
    """Which worker has which client's connection, in the parent.

    Args:
        max_connections: how many at most, over all workers.
    """

    def __init__(self, max_connections: int) -> None:
        self._max = max_connections
        self._owners: dict[Identifier, int] = {}

    def __len__(self) -> int:
        return len(self._owners)

    def claim(self, worker: int, identifier: Identifier) -> str | None:
        """Give a client to a worker; returns None, or why not as RefusedError has it."""
        if len(self._owners) >= self._max:
            return "serverlimit"
        if identifier in self._owners:
            return "exists"
        self._owners[identifier] = worker
        return None

    def release(self, worker: int, identifier: Identifier) -> None:
        """A worker's connection is gone."""
        if self._owners.get(identifier) == worker:
            del self._owners[identifier]

    def release_all(self, worker: int) -> None:
        """A worker is gone."""
        for identifier in [who for who, owner in self._owners.items() if owner == worker]:
            del self._owners[identifier]


class SharedTable(ConnectionTable):
    """The live connections of one worker; the parent says who may enter.

    Args:
        ask: sends a claim to the parent.
        release: tells the parent that a client is gone.
        metrics: connections_count_current.
        call_later: the reactor's.
    """

    def __init__(
        self,
        ask: Callable[[Identifier], None],
        release: Callable[[Identifier], None],
        metrics: IMetrics,
        call_later: Callable[..., Any],
    ) -> None:
        super().__init__(0, metrics)
        self._ask = ask
        self._release = release
        self._call_later = call_later
        # In the order of their claims, which is that of the verdicts; and whether it is the last.
        self._asking: deque[tuple[Connection, Identifier, Deferred[None], bool]] = deque()
        self._gone: set[Connection] = set()
        self._to_ask_again: set[Connection] = set()
        self._verdicts: dict[Connection, str | None] = {}

    def claim(self, connection: Connection) -> Deferred[None]:
        """Ask the parent; fires when it has answered, and never if the connection is gone then."""
        asked: Deferred[None] = Deferred()
        self._put(connection, asked, False)
        return asked

    def verdict(self, reason: str | None) -> None:
        """The parent's answer to the oldest claim: None, or why not."""
        connection, identifier, asked, last = self._asking.popleft()
        if connection in self._gone:
            self._gone.discard(connection)
            if reason is None:
                self._release(identifier)
            return
        if reason == "exists" and not last:
            self._to_ask_again.add(connection)
            self._call_later(_ASK_AGAIN_SECONDS, self._ask_again, connection, asked)
            return
        self._verdicts[connection] = reason
        asked.callback(None)

    def add(self, connection: Connection) -> None:
        """Take a connection whose claim was answered.

        Raises:
            RefusedError: as the parent said.
        """
        reason = self._verdicts.pop(connection)
        if reason is not None:
            raise RefusedError(reason)
        self._enter(connection)

    def remove(self, connection: Connection) -> None:
        """Forget a connection, and its claim."""
        if connection in self._to_ask_again:
            self._to_ask_again.remove(connection)
        elif any(asking is connection for asking, *_ in self._asking):
            self._gone.add(connection)
        elif connection in self._verdicts:
            if self._verdicts.pop(connection) is None:
                self._release(connection.identifier)
        elif self._leave(connection):
            self._release(connection.identifier)

    def _put(self, connection: Connection, asked: Deferred[None], last: bool) -> None:
        self._asking.append((connection, connection.identifier, asked, last))
        self._ask(connection.identifier)

    def _ask_again(self, connection: Connection, asked: Deferred[None]) -> None:
        if connection in self._to_ask_again:
            self._to_ask_again.remove(connection)
            self._put(connection, asked, True)
