"""Threads that do not hold up the end of the process."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

_log = logging.getLogger(__name__)


class DaemonThreads:
    """A fixed number of threads that run calls in the order they come.

    For calls that wait for a peer which may be dead, and cannot be ended from outside: the threads
    of a ThreadPoolExecutor are waited for when the process ends.

    Args:
        count: how many.
        name: of each, before its number.
    """

    def __init__(self, count: int, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{i}", daemon=True)
            for i in range(count)
        ]

    def start(self) -> None:
        """Start them."""
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[..., object], *args: Any) -> None:
        """Run a call when a thread is free."""
        self._calls.put(partial(call, *args))

    def stop(self) -> None:
        """End them after the calls that wait; does not wait for it."""
        for _ in self._threads:
            self._calls.put(None)

    def join(self, deadline: float) -> None:
        """Wait for their end, until `deadline` in seconds of the monotonic clock."""
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception:
                _log.exception("a call failed; its thread goes on")
