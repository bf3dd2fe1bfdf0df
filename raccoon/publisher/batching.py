"""Gathers events for the same topic or stream into batches, by count, bytes and delay."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence


class Batch:
    """Events for one destination.

    Attributes:
        name: of the topic or stream.
        owners: to whom each event's outcome is told.
        payloads: the events' bytes, in the order of `owners`.
        deadline: when they are given up, in seconds of the monotonic clock.
    """

    __slots__ = ("deadline", "due", "name", "owners", "payloads", "size")

    def __init__(self, name: str, size: int, due: float, deadline: float) -> None:
        self.name = name
        self.owners: list[Hashable] = []
        self.payloads: list[bytes] = []
        self.size = size
        self.due = due
        self.deadline = deadline


class Batcher:
    """Holds one open batch for each name until it is full or due.

    Args:
        send: takes a batch; must not block.
        count: events in a batch at most.
        size: bytes in a batch at most; one event may be larger, and then goes alone.
        delay: seconds that a batch waits for more at most.
        overhead: bytes that each event takes beside its own.
    """

    def __init__(
        self, send: Callable[[Batch], None], count: int, size: int, delay: float, overhead: int
    ) -> None:
        self._send = send
        self._count = count
        self._size = size
        self._delay = delay
        self._overhead = overhead
        # All wait equally long, so the first is due first.
        self._open: dict[str, Batch] = {}
        self._opened = threading.Condition()

    def add(self, name: str, owner: Hashable, payloads: Sequence[bytes], deadline: float) -> None:
        """Put events of one owner into batches, in order; send those that are full."""
        full = []
        with self._opened:
            batch = before = self._open.get(name)
            for payload in payloads:
                cost = len(payload) + self._overhead
                if batch is not None and batch.size + cost > self._size:
                    full.append(batch)
                    batch = None
                if batch is None:
                    base = len(name) + self._overhead
                    batch = Batch(name, base, time.monotonic() + self._delay, deadline)
                batch.owners.append(owner)
                batch.payloads.append(payload)
                batch.size += cost
                batch.deadline = min(batch.deadline, deadline)
                if len(batch.payloads) >= self._count:
                    full.append(batch)
                    batch = None
            if batch is not None and not self._delay:
                full.append(batch)
                batch = None
            if batch is not before:
                self._open.pop(name, None)
                if batch is not None:
                    self._open[name] = batch
                    if len(self._open) == 1:
                        self._opened.notify()
        for batch in full:
            self._send(batch)

    def send_due(self, patience: float) -> None:
        """Wait until a batch is due, at most `patience` seconds, and send all that are."""
        with self._opened:
            first = next(iter(self._open.values()), None)
            pause = patience if first is None else min(first.due - time.monotonic(), patience)
            if pause > 0:
                self._opened.wait(pause)
            now = time.monotonic()
            due = [batch for batch in self._open.values() if batch.due <= now]
            for batch in due:
                del self._open[batch.name]
        for batch in due:
            self._send(batch)

    def hurry(self) -> None:
        """Send what is open, and from now on every batch at once."""
        with self._opened:
            self._delay = 0
            waiting = list(self._open.values())
            self._open.clear()
        for batch in waiting:
            self._send(batch)
