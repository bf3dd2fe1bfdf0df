"""Calls that other threads put down for the reactor, which is woken once for many."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.logger import Logger


class Inbox:
    """Runs functions in the reactor's thread, in the order in which they were put down.

    Args:
        reactor: takes calls from threads.
    """

    _logger = Logger()

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._calls: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._woken = False

    def put(self, function: Callable[..., None], *args: Any) -> None:
        """Have `function(*args)` called in the reactor's thread; from any thread."""
        self._calls.append((function, args))
        if not self._woken:
            self._woken = True
            self._reactor.callFromThread(self._empty)

    def _empty(self) -> None:
        self._woken = False  # first: what is put down from here on wakes the reactor again
        for _ in range(len(self._calls)):
            function, args = self._calls.popleft()
            try:
                function(*args)
            except Exception:
                self._logger.failure("a request from gRPC failed")
