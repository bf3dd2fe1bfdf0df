"""Gathers events for the same topic or stream into batches, by count, bytes and delay."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from typing import Any


class Batch:
    """Events for one destination.

    Attributes:
        name: of the topic or stream.
        key: what the events are kept in order by, or none.
        owners: to whom each event's outcome is told.
        payloads: the events, in the order of `owners`.
        deadline: when they are given up, in seconds of the monotonic clock.
    """

    __slots__ = ("base", "deadline", "due", "key", "name", "owners", "payloads", "size")

    def __init__(self, name: str, key: str, base: int, due: float, deadline: float) -> None:
        self.name = name
        self.key = key
        self.owners: list[Hashable] = []
        self.payloads: list[Any] = []
        self.base = self.size = base
        self.due = due
        self.deadline = deadline

    def absorb(self, other: Batch) -> None:
        """Append the events of another batch."""
        self.owners += other.owners
        self.payloads += other.payloads
        self.size += other.size - other.base
        self.deadline = min(self.deadline, other.deadline)


class Batcher:
    """Holds one open batch for each name and key until it is full or due.

    Args:
        send: takes a batch; must not block. Those of a name and key come to it in order.
        count: events in a batch at most.
        size: bytes in a batch at most; one event may be larger, and then goes alone.
        delay: seconds that a batch waits for more at most.
        overhead: bytes that each event takes beside its own.
        size_of: gives the bytes of an event.
    """

    def __init__(
        self,
        send: Callable[[Batch], None],
        count: int,
        size: int,
        delay: float,
        overhead: int,
        size_of: Callable[[Any], int] = len,
    ) -> None:
        self._send = send
        self._count = count
        self._size = size
        self._delay = delay
        self._overhead = overhead
        self._size_of = size_of
        # All wait equally long, so the first is due first.
        self._open: dict[tuple[str, str], Batch] = {}
        self._opened = threading.Condition()
        self._closed = False

    def add(
        self,
        name: str,
        owner: Hashable,
        payloads: Sequence[Any],
        deadline: float,
        key: str = "",
    ) -> None:
        """Put events of one owner into batches, in order; send those that are full."""
        place = (name, key)
        with self._opened:
            batch = before = self._open.get(place)
            for payload in payloads:
                cost = self._size_of(payload) + self._overhead
                if batch is not None and batch.size + cost > self._size:
                    self._send(batch)
                    batch = None
                if batch is None:
                    base = len(name) + self._overhead
                    batch = Batch(name, key, base, time.monotonic() + self._delay, deadline)
                batch.owners.append(owner)
                batch.payloads.append(payload)
                batch.size += cost
                batch.deadline = min(batch.deadline, deadline)
                if len(batch.payloads) >= self._count:
                    self._send(batch)
                    batch = None
            if batch is not None and not self._delay:
                self._send(batch)
                batch = None
            if batch is not before:
                self._open.pop(place, None)
                if batch is not None:
                    self._open[place] = batch
                    if len(self._open) == 1:
                        self._opened.notify()

    def send_due(self, patience: float) -> None:
        """Wait until a batch is due, at most `patience` seconds, and send all that are."""
        with self._opened:
            first = next(iter(self._open.values()), None)
            pause = patience if first is None else min(first.due - time.monotonic(), patience)
            if pause > 0 and not self._closed:
                self._opened.wait(pause)
            now = time.monotonic()
            due = [place for place, batch in self._open.items() if batch.due <= now]
            for place in due:
                self._send(self._open.pop(place))

    def hurry(self) -> None:
        """Send what is open, and from now on every batch at once."""
        with self._opened:
            self._delay = 0
            for batch in self._open.values():
                self._send(batch)
            self._open.clear()

    def close(self) -> None:
        """From now on `send_due` does not wait."""
        with self._opened:
            self._closed = True
            self._opened.notify()


class KeyQueue:
    """Sends batches of the same name and key one after the other.

    Batches that wait are merged up to the limits: a busy key would fall behind otherwise.

    Args:
        count: events in a batch at most.
        size: bytes in a batch at most.
    """

    def __init__(self, count: int, size: int) -> None:
        self._count = count
        self._size = size
        self._waiting: dict[tuple[str, str], deque[Batch]] = {}
        self._lock = threading.Lock()

    def enter(self, batch: Batch) -> bool:
        """Whether a batch may go at once; if not, `leave` returns it, or one that absorbed it."""
        if not batch.key:
            return True
        place = (batch.name, batch.key)
        with self._lock:
            waiting = self._waiting.get(place)
            if waiting is None:
                self._waiting[place] = deque()
                return True
            last = waiting[-1] if waiting else None
            if (
                last is not None
                and len(last.payloads) + len(batch.payloads) <= self._count
                and last.size + batch.size - batch.base <= self._size
            ):
                last.absorb(batch)
            else:
                waiting.append(batch)
        return False

    def leave(self, batch: Batch) -> Batch | None:
        """A batch is done; returns the one that may go now."""
        if not batch.key:
            return None
        place = (batch.name, batch.key)
        with self._lock:
            if waiting := self._waiting[place]:
                return waiting.popleft()
            del self._waiting[place]
        return None
