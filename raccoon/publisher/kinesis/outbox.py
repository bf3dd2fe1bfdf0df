"""What waits for each stream: which records go into its next request, and when."""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any, NamedTuple

from raccoon.publisher.base.delivery import Failure


class Record:
    """One event on its way.

    Attributes:
        owner: to whom its outcome is told.
        payload: the event's bytes.
        key: its partition key; with an empty one, each attempt chooses one.
        size: bytes that it takes in a request.
        deadline: when it is given up, in seconds of the monotonic clock.
        attempts: how often it was refused or not answered.
        failure: why, the last time.
    """

    __slots__ = ("attempts", "deadline", "failure", "key", "owner", "payload", "size")

    def __init__(self, owner: Any, payload: bytes, key: str, size: int, deadline: float) -> None:
        self.owner = owner
        self.payload = payload
        self.key = key
        self.size = size
        self.deadline = deadline
        self.attempts = 0
        self.failure: Failure | None = None


class Parcel(NamedTuple):
    """Records of one stream, taken out.

    Attributes:
        stream: its name.
        records: for one request. Where there are any, `done` must follow.
        expired: whose deadline has passed.
    """

    stream: str
    records: list[Record]
    expired: list[Record]


class _Lane:
    """One stream's records.

    `again` is a heap of (when, number, records) that were refused.
    """

    __slots__ = ("again", "flying", "hold_until", "open_to_send", "opened", "size", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Record] = deque()
        self.size = 0
        self.opened = 0.0
        self.again: list[tuple[float, int, list[Record]]] = []
        self.flying = 0
        self.hold_until = 0.0
        self.open_to_send = False


class Outbox:
    """Keeps a lane for each stream. Safe from any thread; one thread takes.

    Args:
        records: in a request at most.
        size: bytes in a request at most.
        alone: a larger record goes in a request of its own.
        delay: seconds that a record waits for others.
        in_flight: requests of one stream at once.
        senders: requests of all streams at once.
        seconds: the clock.
    """

    def __init__(
        self,
        *,
        records: int,
        size: int,
        alone: int,
        delay: float,
        in_flight: int,
        senders: int,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._records_max = records
        self._size_max = size
        self._alone = alone
        self._delay = delay
        self._in_flight = in_flight
        self._free = senders
        self._seconds = seconds
        self._lanes: dict[str, _Lane] = {}
        self._numbers = count()
        self._closed = False
        self._changed = threading.Condition()

    def add(self, stream: str, records: Sequence[Record]) -> bool:
        """Put records behind those that wait.

        Returns:
            Whether the lane is new: nothing of it is sent until `open` is called.
        """
        size = sum(record.size for record in records)
        with self._changed:
            lane = self._lanes.get(stream)
            new = lane is None
            if lane is None:
                lane = self._lanes[stream] = _Lane()
            first = not lane.waiting
            if first:
                lane.opened = self._seconds()
            lane.waiting.extend(records)
            lane.size += size
            if lane.open_to_send and (first or self._is_full(lane)):
                self._changed.notify()
        return new

    def open(self, stream: str) -> None:
        """Let a lane's records be sent."""
        with self._changed:
            if lane := self._lanes.get(stream):
                lane.open_to_send = True
                self._changed.notify()

    def remove(self, stream: str) -> list[Record]:
        """Remove a lane that was not opened yet, and return its records."""
        with self._changed:
            lane = self._lanes.pop(stream, None)
            return [] if lane is None else list(lane.waiting)

    def take(self) -> Parcel | None:
        """Wait until something can be sent or is expired; None once closed."""
        with self._changed:
            while not self._closed:
                now = self._seconds()
                stream, ready = self._next()
                if ready <= now:
                    return self._load(stream, now)
                self._changed.wait(None if ready == _NEVER else ready - now)
        return None

    def done(self, stream: str, again: list[Record], pause: float, hold: bool) -> None:
        """A parcel's request has ended.

        Args:
            stream: the parcel's.
            again: which of its records are to be sent again, in order.
            pause: after so many seconds.
            hold: whether nothing else of the stream is sent before.
        """
        with self._changed:
            lane = self._lanes[stream]
            lane.flying -= 1
            self._free += 1
            if again:
                due = self._seconds() + pause
                heapq.heappush(lane.again, (due, next(self._numbers), again))
                if hold:
                    lane.hold_until = max(lane.hold_until, due)
            self._drop_if_empty(stream, lane)
            self._changed.notify()

    def hurry(self) -> None:
        """From now on let no record wait for others."""
        with self._changed:
            self._delay = 0
            self._changed.notify()

    def close(self) -> None:
        """Let nothing more be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _next(self) -> tuple[str, float]:
        """The stream that is ready first, and when."""
        first, best = "", _NEVER
        if self._free:
            for stream, lane in self._lanes.items():
                if lane.open_to_send and lane.flying < self._in_flight:
                    ready = self._ready(lane)
                    if ready < best:
                        first, best = stream, ready
        return first, best

    def _ready(self, lane: _Lane) -> float:
        ready = _NEVER
        if lane.waiting:
            ready = lane.opened if self._is_full(lane) else lane.opened + self._delay
        if lane.again:
            ready = min(ready, lane.again[0][0])
        return max(ready, lane.hold_until)

    def _is_full(self, lane: _Lane) -> bool:
        return len(lane.waiting) >= self._records_max or lane.size >= self._size_max

    def _load(self, stream: str, now: float) -> Parcel:
        """Take a request's worth; refused records go first."""
        lane = self._lanes[stream]
        due = []
        while lane.again and lane.again[0][0] <= now:
            due += heapq.heappop(lane.again)[2]
        lane.waiting.extendleft(reversed(due))
        lane.size += sum(record.size for record in due)
        parcel = Parcel(stream, [], [])
        size = 0
        while lane.waiting and len(parcel.records) < self._records_max:
            record = lane.waiting[0]
            if record.deadline > now:
                large = record.size > self._alone
                if parcel.records and (large or size + record.size > self._size_max):
                    break
                parcel.records.append(record)
                size += record.size
            else:
                large = False
                parcel.expired.append(record)
            lane.waiting.popleft()
            lane.size -= record.size
            if large:
                break
        if parcel.records:
            lane.flying += 1
            self._free -= 1
        self._drop_if_empty(stream, lane)
        return parcel

    def _drop_if_empty(self, stream: str, lane: _Lane) -> None:
        if not lane.waiting and not lane.again and not lane.flying:
            del self._lanes[stream]


_NEVER = float("inf")
