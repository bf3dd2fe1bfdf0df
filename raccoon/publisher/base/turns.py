"""Lets groups through in the order in which they left the queue, whichever thread comes first."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """One group at a time, in the order of `expect`.

    The thread pool starts groups in order, but does not say which thread gets on first.
    """

    def __init__(self) -> None:
        self._expected: deque[object] = deque()
        self._changed = threading.Condition()

    def expect(self, group: object) -> None:
        """The next in order is this one; its `take` is to follow, from any thread."""
        with self._changed:
            self._expected.append(group)

    @contextmanager
    def take(self, group: object) -> Iterator[None]:
        """Wait for the end of all that were expected before; a group that was not is next."""
        with self._changed:
            if not any(expected is group for expected in self._expected):
                self._expected.append(group)
            self._changed.wait_for(lambda: self._expected[0] is group)
        try:
            yield
        finally:
            with self._changed:
                self._expected.popleft()
                self._changed.notify_all()
