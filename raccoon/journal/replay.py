"""Waiting requests come back from disk into the queue, oldest first, beside what comes in."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence, Set
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred

from raccoon.errors import LimitError
from raccoon.interfaces import IPublisher
from raccoon.journal.entry import Entry, State
from raccoon.journal.files.body import UnreadableError, decode_body
from raccoon.journal.files.record import Record
from raccoon.journal.files.store import Store
from raccoon.messages import Batch, Identifier
from raccoon.request import CollectRequest, Requests

# On their way at once, and as much again as a commit holds; read in pieces, so that there is always
# a group to publish next.
_REQUESTS = 1600
_BYTES = 8 << 20
_PIECE_REQUESTS = 400
_PIECE_BYTES = 2 << 20
_QUEUED_BESIDE = 600

_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0
_DOUBLINGS = 16


class Unreadable(NamedTuple):
    """A request whose events cannot be read, or may not be sent any more.

    Attributes:
        position: where it is in the journal.
        record: as it is stored.
        problem: what is wrong with it.
    """

    position: int
    record: Record
    problem: str


class Return(NamedTuple):
    """What came back from disk in one read.

    Attributes:
        positions: of all.
        requests: each with its entry.
        unreadable: the others.
    """

    positions: list[int]
    requests: Requests
    unreadable: list[Unreadable]


class Replay:
    """Goes through the journal for what waits, pass by pass, and keeps the pace.

    A bounded number of requests is on its way at once, and after failures there are pauses that
    grow, with jitter, to half a minute.

    Attributes:
        on_way: requests that came back and are neither delivered nor failed.
        on_way_bytes: the memory they are charged with.

    Args:
        store: what is read.
        check: gives a batch back, or raises LimitError where it may not be sent any more.
        publisher: nothing comes back while its destination does not answer.
        seconds: the clock.
        in_keeper: calls in the keeper's thread.
        resident: positions of requests that are in memory.
        until: the position of the newest request that may come back now, or -1.
        admit: given what comes back, in the reactor's thread; `ended` or `failed` follows for
            each. What it raises means that it took nothing.
        failed: given the Failure of a read.
    """

    def __init__(
        self,
        store: Store,
        check: Callable[[Batch], Batch],
        publisher: IPublisher,
        seconds: Callable[[], float],
        in_keeper: Callable[..., Deferred[Any]],
        resident: Set[int],
        until: Callable[[], int],
        admit: Callable[[Return], None],
        failed: Callable[[Any], None],
    ) -> None:
        self._store = store
        self._check = check
        self._publisher = publisher
        self._seconds = seconds
        self._in_keeper = in_keeper
        self._resident = resident
        self._until = until
        self._admit = admit
        self._failed = failed
        self._queued: Callable[[], int] = lambda: 0
        self._cursor = self._end = -1
        self._reading = False
        self.on_way = 0
        self.on_way_bytes = 0
        self._failures = 0
        self._not_before = 0.0
        self._oldest: float | None = None

    def attach(self, queued: Callable[[], int]) -> None:
        """Say how many requests wait in the queue."""
        self._queued = queued

    def rewind(self) -> None:
        """Begin again with the oldest, when what is on its way has ended."""
        self._end = -1

    def pump(self) -> None:
        """Read on, if it is time for that."""
        until = self._until()
        if (
            until < 0
            or self._reading
            or not self._publisher.reachable
            or self._seconds() < self._not_before
            or self.on_way > _REQUESTS - _PIECE_REQUESTS
            or self.on_way_bytes > _BYTES - _PIECE_BYTES
            or min(self._queued(), self.on_way) > _QUEUED_BESIDE
        ):
            return
        if self._cursor >= self._end:
            if self.on_way:
                return
            # Its end stays, whatever comes: what fails meanwhile has its turn in the next pass.
            self._cursor, self._end = -1, until
        self._reading = True
        reading = self._in_keeper(self._read, self._cursor, self._end)
        reading.addBoth(self._read_ended)
        reading.addCallback(self._has_read)
        reading.addErrback(self._failed)

    def ended(self, requests: Sequence[CollectRequest]) -> None:
        """Requests that came back were delivered, or never can be."""
        self._leave(requests)
        self._failures = 0
        self.pump()

    def failed(self, request: CollectRequest) -> None:
        """A request that came back is to be tried again."""
        self._leave([request])
        if self._seconds() >= self._not_before:
            pause = min(_FIRST_PAUSE * 2**self._failures, _LONGEST_PAUSE)
            self._failures = min(self._failures + 1, _DOUBLINGS)
            jitter = random.uniform(0.5, 1)  # noqa: S311 - not for secrets
            self._not_before = self._seconds() + pause * jitter

    def oldest_age(self, waiting: int) -> float:
        """Seconds since the request that came back last was received; 0 where none waits."""
        if not waiting:
            self._oldest = None
        return 0.0 if self._oldest is None else self._seconds() - self._oldest

    def _read(self, after: int, upto: int) -> tuple[Return, int]:
        """In the keeper's thread."""
        found, cursor = self._store.read(after, upto, self._resident, _PIECE_REQUESTS, _PIECE_BYTES)
        requests: list[CollectRequest] = []
        unreadable: list[Unreadable] = []
        now = self._seconds()
        for position, record in found:
            try:
                requests.append(self._request(position, record, now))
            except (UnreadableError, LimitError) as error:
                unreadable.append(Unreadable(position, record, str(error)))
        positions = [position for position, _ in found]
        return Return(positions, Requests.of(requests), unreadable), cursor

    def _request(self, position: int, record: Record, now: float) -> CollectRequest:
        batch = self._check(decode_body(record.form, record.body))
        if len(batch.types) != record.events:
            raise UnreadableError(f"{len(batch.types)} events instead of {record.events}")
        request = CollectRequest(Identifier(record.client, record.group), batch, record.received_at)
        request.queued_at = now
        # The entry does not have the request: a cycle would wait for the collector.
        request.entry = entry = Entry(record, None, State.RETURNED)
        entry.record = None
        entry.position = position
        return request

    def _leave(self, requests: Sequence[CollectRequest]) -> None:
        self.on_way -= len(requests)
        self.on_way_bytes -= sum([request.size for request in requests])
        for request in requests:
            request.entry.state = State.STORED

    def _read_ended(self, read: Any) -> Any:
        self._reading = False
        return read

    def _has_read(self, read: tuple[Return, int]) -> None:
        came, cursor = read
        if self._until() < 0:
            return
        if came.requests.each:
            self._oldest = came.requests.each[0].received_at
        # Before: some may end at once. What cannot be admitted is read again.
        self.on_way += len(came.requests.each)
        self.on_way_bytes += came.requests.size
        try:
            self._admit(came)
        except Exception:
            self.on_way -= len(came.requests.each)
            self.on_way_bytes -= came.requests.size
            raise
        self._cursor = cursor
        if came.positions:
            self.pump()
