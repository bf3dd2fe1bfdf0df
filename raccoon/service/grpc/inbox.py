"""Calls that other threads put down for the reactor, which is woken once for many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import inlineCallbacks
from twisted.internet.task import deferLater

from raccoon.supervision import Supervisor

_LOOK_SECONDS = 0.001


class Inbox:
    """Runs functions in the reactor's thread, in the order in which they were put down.

    As a context it says that something is about to be put down: until the block's end, `emptied`
    waits for it.

    Args:
        reactor: takes calls from threads.
        supervisor: is told of faults.
    """

    def __init__(self, reactor: Any, supervisor: Supervisor) -> None:
        self._reactor = reactor
        self._supervisor = supervisor
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._coming: deque[None] = deque()  # one for each block: no lock is needed to count them
        self._woken = False

    def __enter__(self) -> None:
        self._coming.append(None)

    def __exit__(self, *error: object) -> None:
        self._coming.pop()

    def put(self, function: Callable[..., None], *args: Any) -> None:
        """Have `function(*args)` called in the reactor's thread; from any thread."""
        self._calls.append((function, args))
        if not self._woken:
            self._woken = True
            self._reactor.callFromThread(self._empty)

    @inlineCallbacks
    def emptied(self) -> Any:
        """Fires once all that was put down has run, and all that was about to be."""
        while self._coming or self._calls:
            yield deferLater(self._reactor, _LOOK_SECONDS)

    def _empty(self) -> None:
        self._woken = False  # first: what is put down from here on wakes the reactor again
        for _ in range(len(self._calls)):
            function, args = self._calls.popleft()
            try:
                function(*args)
            except Exception as error:
                self._supervisor.failed("the inbox of gRPC", error)
