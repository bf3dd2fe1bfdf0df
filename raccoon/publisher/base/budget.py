"""Bounds the events and bytes in flight: a thread that wants to send more waits."""

from __future__ import annotations

import threading
import time


class InFlightBudget:
    """A budget of events and bytes in flight. It blocks: for worker threads only.

    Args:
        events: in flight at most.
        size: bytes in flight at most; one request may be larger, and then goes alone.
    """

    def __init__(self, events: int, size: int) -> None:
        self._events_max = events
        self._size_max = size
        self._events = 0
        self._size = 0
        self._closed = False
        self._changed = threading.Condition()

    def acquire(self, events: int, size: int, deadline: float) -> bool:
        """Charge a request, waiting until `deadline` (monotonic seconds); whether that was done."""
        with self._changed:
            while not self._closed:
                if not self._events or (
                    self._events + events <= self._events_max
                    and self._size + size <= self._size_max
                ):
                    self._events += events
                    self._size += size
                    return True
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
        return False

    def release(self, events: int, size: int) -> None:
        """Give back what a request was charged with."""
        with self._changed:
            self._events -= events
            self._size -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Charge no more; those who wait are refused."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_until_empty(self, timeout: float) -> bool:
        """Wait until nothing is in flight, at most `timeout` seconds; whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._events, timeout)
