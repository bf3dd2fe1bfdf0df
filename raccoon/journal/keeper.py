"""The thread for blocking calls of the journal: all but the commits."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from raccoon.errors import RaccoonError
from raccoon.supervision import Supervisor


class KeeperEndedError(RaccoonError):
    """The keeper's thread has ended, and runs nothing any more."""


class _Call(NamedTuple):
    function: Callable[..., Any]
    args: tuple[Any, ...]
    done: Deferred[Any]


class Keeper:
    """Runs blocking calls one after the other in a thread of its own.

    Args:
        reactor: results are given in its thread.
        supervisor: of the thread.
    """

    def __init__(self, reactor: Any, supervisor: Supervisor) -> None:
        self._reactor = reactor
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._ended: str | None = None
        self._stopped = False
        self._thread = supervisor.thread("journal-keeper", self._run, self._failed)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def call(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """Call it in the thread, after all calls before.

        Returns:
            Fires with the result, or fails with what was raised; never fires after `stop`.
        """
        done: Deferred[Any] = Deferred()
        if self._stopped:
            return done  # what would follow is not to happen any more
        self._calls.put(_Call(function, args, done))
        if self._ended is not None:
            self._fail_all(self._ended)
        return done

    def stop(self) -> None:
        """Take no more calls, and end after those that wait."""
        self._stopped = True
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            self._run_one(call)

    def _run_one(self, call: _Call) -> None:
        try:
            result = call.function(*call.args)
        except BaseException:
            self._reactor.callFromThread(call.done.errback, Failure())
        else:
            self._reactor.callFromThread(call.done.callback, result)

    def _failed(self, error: BaseException) -> None:
        self._ended = str(error) or type(error).__name__
        self._fail_all(self._ended)

    def _fail_all(self, reason: str) -> None:
        """Fail each call that waits; from any thread."""
        while True:
            try:
                call = self._calls.get_nowait()
            except Empty:
                return
            if call is not None:
                error = KeeperEndedError(f"the journal's keeper ended: {reason}")
                self._reactor.callFromThread(call.done.errback, Failure(error))
