"""Requests that can never be delivered, and for which the dead letters have no room."""

from __future__ import annotations

import random
from array import array
from collections import deque
from collections.abc import Callable

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_MOST = 100_000


class Postponed:
    """Keeps requests out of the replay for a while, so that they delay no others.

    They wait in the journal. The pause doubles, up to half a minute, until a dead letter can be
    stored again. Up to 100,000 requests are remembered.

    Args:
        resident: the positions that the replay passes over.
        seconds: the clock.
    """

    def __init__(self, resident: set[int], seconds: Callable[[], float]) -> None:
        self._resident = resident
        self._seconds = seconds
        # Positions with the time when they may be read again, in the order of these times.
        self._batches: deque[tuple[float, array[int]]] = deque()
        self._pause = _FIRST_PAUSE
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, position: int) -> bool:
        """Have the replay pass over a request for the pause; False: there are too many."""
        if self._count >= _MOST:
            return False
        now = self._seconds()
        if not self._batches or self._batches[-1][0] - now < self._pause / 2:
            jitter = random.uniform(0.5, 1)  # noqa: S311 - not for secrets
            due = now + self._pause * (0.5 + jitter)
            self._batches.append((due, array("q")))
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        self._batches[-1][1].append(position)
        self._resident.add(position)
        self._count += 1
        return True

    def release_due(self) -> None:
        """Let the replay read those whose pause is over."""
        while self._batches and self._batches[0][0] <= self._seconds():
            self._release()

    def release_all(self) -> None:
        """Let the replay read all of them."""
        while self._batches:
            self._release()

    def has_room_again(self) -> None:
        """A dead letter was stored: the next pause is the first again."""
        self._pause = _FIRST_PAUSE

    def _release(self) -> None:
        _, positions = self._batches.popleft()
        self._resident.difference_update(positions)
        self._count -= len(positions)
