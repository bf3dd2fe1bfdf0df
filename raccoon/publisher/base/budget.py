"""Bounds what is on its way: who wants to send more waits."""

from __future__ import annotations

import threading
import time


class Room:
    """Room for so many events and bytes. It blocks: for worker threads only.

    Args:
        events: on their way at most.
        size: bytes on their way at most; one request may be larger, and then goes alone.
    """

    def __init__(self, events: int, size: int) -> None:
        self._events_max = events
        self._size_max = size
        self._events = 0
        self._size = 0
        self._closed = False
        self._changed = threading.Condition()

    def take(self, events: int, size: int, deadline: float) -> bool:
        """Wait for room until `deadline` (monotonic seconds); False where there was none."""
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

    def give(self, events: int, size: int) -> None:
        """Give back what was taken."""
        with self._changed:
            self._events -= events
            self._size -= size
            self._changed.notify_all()

    def close(self) -> None:
        """Give no more; those who wait get none."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wait_until_empty(self, timeout: float) -> bool:
        """Wait until all was given back, at most `timeout` seconds; whether it was."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._events, timeout)
