"""One table of WebSocket connections for all workers: the parent's, and a worker's view of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail

from raccoon.interfaces import IMetrics
from raccoon.messages import Identifier
from raccoon.service.rest.websocket.connections import Connection, ConnectionTable, RefusedError

# A client that comes back at once, to another worker, may be ahead of the word that it left.
_ASK_AGAIN_SECONDS = 0.1
_ANSWERED_WITHIN_SECONDS = 3.0
_WAITING_CLAIMS = 10_000
_UNANSWERED = "the parent process does not answer"


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


class _Claim:
    """A claim on its way to the parent and back.

    Attributes:
        connection: whose it is; None once it is gone or was told that there is no answer.
        identifier: what is claimed.
        asked: fires when the parent has answered.
        last: whether it is not asked for again.
        overdue: the call at its deadline.
    """

    __slots__ = ("asked", "connection", "identifier", "last", "overdue")

    def __init__(self, connection: Connection) -> None:
        self.connection: Connection | None = connection
        self.identifier = connection.identifier
        self.asked: Deferred[None] = Deferred()
        self.last = False
        self.overdue: Any = None


class SharedTable(ConnectionTable):
    """The live connections of one worker process; the parent says who may enter.

    A parent that hangs holds no upgrade for ever: without an answer in time a claim fails, and so
    does one beyond so many that wait. What the parent grants later is given back.

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
        # In the order in which they were sent, which is that of the verdicts.
        self._sent: deque[_Claim] = deque()
        self._claims: dict[Connection, _Claim] = {}
        self._verdicts: dict[Connection, str | None] = {}

    def claim(self, connection: Connection) -> Deferred[None]:
        """Ask the parent.

        Returns:
            Fires when it has answered, and never if the connection is gone then. Fails with
            RefusedError if it does not answer in time.
        """
        if len(self._sent) >= _WAITING_CLAIMS:
            return fail(RefusedError(_UNANSWERED))
        claim = self._claims[connection] = _Claim(connection)
        claim.overdue = self._call_later(_ANSWERED_WITHIN_SECONDS, self._no_answer, claim)
        self._send(claim)
        return claim.asked

    def verdict(self, reason: str | None) -> None:
        """The parent's answer to the oldest claim: None, or why not."""
        claim = self._sent.popleft()
        if claim.connection is None:
            if reason is None:
                self._release(claim.identifier)
        elif reason == "exists" and not claim.last:
            claim.last = True
            self._call_later(_ASK_AGAIN_SECONDS, self._send, claim)
        else:
            self._verdicts[claim.connection] = reason
            self._forget(claim)
            claim.asked.callback(None)

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
        if connection in self._claims:
            self._forget(self._claims[connection])
        elif connection in self._verdicts:
            if self._verdicts.pop(connection) is None:
                self._release(connection.identifier)
        elif self._leave(connection):
            self._release(connection.identifier)

    def _send(self, claim: _Claim) -> None:
        if claim.connection is not None:
            self._sent.append(claim)
            self._ask(claim.identifier)

    def _no_answer(self, claim: _Claim) -> None:
        self._forget(claim)
        claim.asked.errback(RefusedError(_UNANSWERED))

    def _forget(self, claim: _Claim) -> None:
        """Nobody waits for it any more."""
        assert claim.connection is not None
        del self._claims[claim.connection]
        claim.connection = None
        if claim.overdue.active():
            claim.overdue.cancel()
