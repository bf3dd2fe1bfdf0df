"""The segments of one journal: written at one end, read and removed at the other."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import apsw
from twisted.logger import Logger

from raccoon.config import EVENT_OVERHEAD, REQUEST_OVERHEAD
from raccoon.errors import RaccoonError
from raccoon.journal.files import segment as files
from raccoon.journal.files.record import DamagedError, Record
from raccoon.journal.files.segment import Delivered, LogDamagedError, Segment

_logger = Logger()

LOCK = "lock"
_INSPECTIONS = 5
_LOCK_TRIES = 3
_LOCK_PAUSE = 0.01
_COMMIT_BYTES = 32_768
_ODD_SHOWN = 10
_FIRST_REST = 0.5
_LONGEST_REST = 30.0

# A request that waits: its position in the journal, and the request.
Found = tuple[int, Record]


class JournalError(RaccoonError):
    """The disk did not take what was to be written."""


class InUseError(RaccoonError):
    """Another process has this journal."""


class Recovered(NamedTuple):
    """What a start found of earlier runs.

    Attributes:
        requests: that wait.
        events: in them.
        last: the position of the newest request, or -1.
    """

    requests: int
    events: int
    last: int


class NotedDeliveries:
    """What segments say of deliveries, united as they are read.

    Each segment has a bit map of every older one: together they grow with the square of their
    number, and are not to be kept or gone through one by one.
    """

    def __init__(self) -> None:
        self._carried: dict[int, bytes] = {}
        self._ranges: list[tuple[int, int]] = []

    def add(self, delivered: Delivered) -> None:
        """Take in what one segment says."""
        for number, done in delivered.carried:
            known = self._carried.get(number)
            self._carried[number] = done if known is None else files.either(known, done)
        self._ranges += delivered.ranges

    def mark(self, segments: Mapping[int, Segment]) -> None:
        """Mark it in those of these segments that it is about."""
        for number, done in self._carried.items():
            if number in segments:
                segments[number].mark_all(done)
        for low, high in self._ranges:
            number, first = files.place(low)
            if number in segments:
                segments[number].mark_range(first, first + high - low)


class Unreadable:
    """Segments that cannot be read for now: said once, and tried again after growing pauses."""

    def __init__(self, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        # By number: until when it rests, and for how long.
        self._rests: dict[int, tuple[float, float]] = {}

    def rests(self, segment: Segment) -> bool:
        """Whether it is not to be tried yet."""
        rest = self._rests.get(segment.number)
        return rest is not None and self._seconds() < rest[0]

    def failed(self, segment: Segment, error: Exception) -> None:
        """It could not be read."""
        known = self._rests.get(segment.number)
        pause = _FIRST_REST if known is None else min(known[1] * 2, _LONGEST_REST)
        self._rests[segment.number] = self._seconds() + pause, pause
        if known is None:
            _logger.warn(
                "{path} cannot be read now: {reason}", path=str(segment.path), reason=_text(error)
            )

    def was_read(self, segment: Segment) -> None:
        """It could be read."""
        if self._rests.pop(segment.number, None) is not None:
            _logger.info("{path} can be read again", path=str(segment.path))


class Store:
    """The files in one directory. Blocking.

    `write`, `reopen`, `carry` and `close` are for one writer thread; `recover`, `read` and `tidy`
    for one keeper thread. The newest segment alone holds what is known of all older ones, so that
    any closed one can go.

    Args:
        directory: made if it is missing.
        segment_bytes: a segment of this size is closed, and a new one begun.
        damaged: told, in the keeper's thread, of each segment that is not what was written, why,
            and what could be read of its requests that were not delivered, which may still be on
            their way. It is out of the journal, and stays on disk until `set_aside` is called.
    """

    def __init__(
        self,
        directory: Path,
        segment_bytes: int,
        damaged: Callable[[Segment, str, list[Found]], None],
    ) -> None:
        self.directory = directory
        self._segment_bytes = segment_bytes
        self._damaged = damaged
        self._segments: dict[int, Segment] = {}
        # Damaged while requests of them were on their way.
        self._apart: dict[int, Segment] = {}
        self._unread: list[Segment] = []
        self._noted = NotedDeliveries()
        self._unreadable = Unreadable()
        self._interrupted = threading.Event()
        self._lock = threading.Lock()
        self._lock_file = -1
        self._active: Segment | None = None
        self._connection: apsw.Connection | None = None
        self._next_number = 1
        self._carried = False
        self._wrote = False  # to the newest segment

    @property
    def size(self) -> int:
        """Bytes on disk."""
        with self._lock:
            return sum(segment.size for segment in (*self._segments.values(), *self._unread))

    def open(self) -> bool:
        """Take the directory and begin a new segment; `recover` reads what is there.

        Returns:
            False where the disk is full: `reopen` is to be called until it is not.

        Raises:
            InUseError: another process has it.
            JournalError: it cannot be written.
        """
        try:
            files.make_directory(self.directory)
            self._lock_file = os.open(
                self.directory / LOCK, os.O_RDWR | os.O_CREAT, files.FILE_MODE
            )
            if not _locked(self._lock_file):
                os.close(self._lock_file)
                self._lock_file = -1
                raise InUseError(f"{self.directory}: another process uses this journal")
            files.narrow(self.directory)
            numbers = files.segment_numbers(self.directory)
            if odd := files.odd_files(self.directory):
                _logger.warn(
                    "{directory}: passed over what is no file of the journal: {names}",
                    directory=str(self.directory),
                    names=", ".join(odd[:_ODD_SHOWN]),
                )
            files.remove_orphans(self.directory, numbers)
        except OSError as error:
            raise JournalError(f"{self.directory}: {error.strerror}") from error
        self._next_number = max(numbers, default=0) + 1
        self._unread = [
            segment
            for number in numbers
            if (segment := Segment(self.directory, number)).path.is_file()
        ]
        for segment in self._unread:
            segment.measure()
        try:
            self._begin()
        except (apsw.Error, OSError) as error:
            if not _is_full(error):
                raise JournalError(f"{self.directory}: {_text(error)}") from error
            return False
        return True

    def recover(self) -> Recovered:
        """Read what earlier runs left; to be called again while `unread` says so.

        It ends early once `interrupt` was called: what it has not read then is unread.
        """
        loaded: list[Segment] = []
        broken: list[tuple[Segment, str]] = []
        unread: list[Segment] = []
        for segment in self._unread:
            if self._interrupted.is_set():
                unread.append(segment)
                continue
            try:
                self._noted.add(segment.load())
                loaded.append(segment)
                self._unreadable.was_read(segment)
            except DamagedError as error:
                broken.append((segment, str(error)))
                if isinstance(error, LogDamagedError):
                    self._noted.add(error.delivered)
            except (apsw.Error, OSError) as error:
                self._unreadable.failed(segment, error)
                unread.append(segment)
        self._noted.mark(
            {one.number: one for one in (*loaded, *(segment for segment, _ in broken))}
        )
        with self._lock:
            self._segments.update({segment.number: segment for segment in loaded})
        for segment, why in broken:
            saved = self._salvage(segment)
            if saved is None:
                unread.append(segment)
            else:
                self._damaged(segment, why, saved)
        with self._lock:
            self._unread = unread
        if not unread:
            self._noted = NotedDeliveries()
        waiting = [segment.events[index] for segment in loaded for index in segment.waiting()]
        ends = [files.position(segment.number, segment.total - 1) for segment in loaded]
        return Recovered(len(waiting), sum(waiting), max(ends, default=-1))

    def interrupt(self) -> None:
        """End `recover` before its time, from any thread: the directory is to be given back."""
        self._interrupted.set()

    @property
    def unread(self) -> bool:
        """Whether there are segments that could not be read yet."""
        return bool(self._unread)

    def write(self, records: Sequence[tuple[bytes, int]], delivered: Iterable[int]) -> int:
        """Write records, each with its number of events, and note the positions of deliveries.

        Returns:
            The position of the first record, once all is on disk.

        Raises:
            JournalError: the disk did not take it. The deliveries are known all the same, and
                will be noted when it does; of the records nothing counts. `reopen` is next.
        """
        runs = self.mark(delivered)
        try:
            if self._active is None or self._connection is None:
                raise JournalError("the journal is not open")
            if self._active.size >= self._segment_bytes:
                self._begin()
            segment, connection = self._active, self._connection
            self._wrote = True
            files.insert(connection, segment.total, records, runs)
            first = files.position(segment.number, segment.total)
            segment.events.extend([count for _, count in records])
            segment.total += len(records)
            # About what it takes in whole pages; `tidy` and the next segment measure.
            segment.size += sum([len(encoded) for encoded, _ in records]) + _COMMIT_BYTES
        except (apsw.Error, OSError) as error:
            self._abandon()
            raise JournalError(_text(error)) from error
        return first

    def reopen(self) -> None:
        """Begin a new segment after a failure.

        Raises:
            JournalError: the disk still does not take it.
        """
        try:
            self._begin()
        except (apsw.Error, OSError) as error:
            self._abandon()
            raise JournalError(_text(error)) from error

    def mark(self, delivered: Iterable[int]) -> list[tuple[int, int]]:
        """These positions were delivered; gives them as ranges."""
        runs = list(files.ranges(delivered))
        for low, high in runs:
            number, index = files.place(low)
            segment = self._segments.get(number) or self._apart.get(number)
            if segment is not None:
                segment.mark_range(index, index + high - low)
        return runs

    def has(self, position: int) -> bool:
        """Whether a request is in the journal, delivered or not."""
        return files.place(position)[0] in self._segments

    def read(
        self, after: int, upto: int, skip: Set[int], requests: int, size: int
    ) -> tuple[list[Found], int]:
        """The oldest requests that wait.

        Args:
            after: only later positions; -1 for all.
            upto: only positions up to this one.
            skip: positions that are not to be given.
            requests: reading ends with the commit in which there were so many.
            size: or so many bytes of memory, by what requests are charged with.

        Returns:
            The requests, and the position to go on from; `upto` once all was read.
        """
        found: list[Found] = []
        with self._lock:
            segments = [self._segments[number] for number in sorted(self._segments)]
        for segment in segments:
            origin = files.position(segment.number, 0)
            if segment.delivered >= segment.total or origin + segment.total - 1 <= after:
                continue
            if self._unreadable.rests(segment):
                continue
            before = len(found)
            try:
                for start, records in segment.read(max(after + 1 - origin, 0)):
                    # Past the total is what a failed commit may have left.
                    del records[max(segment.total - start, 0) :]
                    end = origin + start + len(records) - 1
                    commit = _waiting(segment, start, records, after, upto, skip)
                    found += commit
                    size -= REQUEST_OVERHEAD * len(commit)
                    size -= sum([len(one.body) + one.events * EVENT_OVERHEAD for _, one in commit])
                    if end >= upto:
                        return found, upto
                    if len(found) >= requests or size <= 0:
                        return found, end
            except DamagedError as error:
                if segment.closed and (saved := self._salvage(segment)) is not None:
                    with self._lock:
                        self._apart[segment.number] = segment
                        del self._segments[segment.number]
                    del found[before:]  # it is among what is saved
                    self._damaged(segment, str(error), saved)
            except apsw.Error as error:
                self._unreadable.failed(segment, error)
            else:
                self._unreadable.was_read(segment)
        return found, upto

    def tidy(self) -> None:
        """Seal closed segments, and remove those of which everything was delivered."""
        # On a full disk, room comes before what a kill would have delivered twice.
        self._tidy(self._carried or self._active is None)

    def close(self) -> None:
        """Give the directory back."""
        active = self._active
        self._abandon()
        if active is not None and not self._carried and not self._wrote:
            # All that it says is in the others, too.
            active.remove()
            with self._lock:
                del self._segments[active.number]
        self._tidy(self._carried)
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    def _tidy(self, may_remove: bool) -> None:
        with self._lock:
            segments = [self._segments[number] for number in sorted(self._segments)]
        for segment in segments:
            if not segment.closed:
                continue
            # What the newest one says of the others is needed as long as there are others.
            last = segment is segments[-1] and len(self._segments) > 1
            if segment.complete and not last and may_remove:
                segment.remove()
                with self._lock:
                    del self._segments[segment.number]
            elif not segment.sealed:
                try:
                    segment.seal()
                except (apsw.Error, OSError):
                    continue  # a full disk; it can be read as it is, and is tried again

    def _begin(self) -> None:
        self._abandon()
        with self._lock:
            known = list(self._segments.values())
            knows_all = not self._unread
        segment = Segment(self.directory, self._next_number)
        self._next_number += 1
        try:
            connection = segment.create()
        except (apsw.Error, OSError):
            segment.remove()
            raise
        try:
            with files.transaction(connection):
                for older in known:
                    done = bytes(older.done)
                    connection.execute("INSERT INTO carried VALUES(?, ?)", (older.number, done))
            segment.measure()
        except (apsw.Error, OSError):
            connection.close()
            segment.remove()
            raise
        self._active, self._connection = segment, connection
        self._carried = knows_all
        self._wrote = False
        with self._lock:
            self._segments[segment.number] = segment

    def carry(self) -> None:
        """Note in the newest segment what is known of all older ones, once they were recovered.

        Raises:
            JournalError: the disk did not take it.
        """
        if self._active is None or self._connection is None:
            return
        with self._lock:
            known = [segment for segment in self._segments.values() if segment.closed]
        try:
            with files.transaction(self._connection):
                for older in known:
                    self._connection.execute(
                        "INSERT OR REPLACE INTO carried VALUES(?, ?)",
                        (older.number, bytes(older.done)),
                    )
        except (apsw.Error, OSError) as error:
            self._abandon()
            raise JournalError(_text(error)) from error
        self._carried = True

    def _abandon(self) -> None:
        """Close the newest segment, whatever state it is in."""
        segment, connection = self._active, self._connection
        self._active = self._connection = None
        if connection is not None:
            with suppress(apsw.Error):
                connection.close(True)
        if segment is not None:
            segment.closed = True

    def _salvage(self, segment: Segment) -> list[Found] | None:
        """What is there of a damaged segment and was not delivered; None if unreadable now."""
        try:
            saved = segment.salvage()
        except (apsw.Error, OSError) as error:
            self._unreadable.failed(segment, error)
            return None
        return [
            (files.position(segment.number, index), record)
            for index, record in saved
            if not segment.is_done(index)
        ]


def _waiting(
    segment: Segment, start: int, records: list[Record], after: int, upto: int, skip: Set[int]
) -> list[Found]:
    """What of a commit, whose first request has the index `start`, is to be given; see `read`."""
    first = files.position(segment.number, start)
    last = first + len(records) - 1
    # What leaves `skip` when it is delivered is marked as delivered before.
    if (
        after < first
        and last <= upto
        and skip.isdisjoint(range(first, last + 1))
        and segment.all_wait(start, start + len(records) - 1)
    ):
        return list(enumerate(records, first))
    return [
        (place, record)
        for index, (place, record) in enumerate(enumerate(records, first), start)
        if after < place <= upto and place not in skip and not segment.is_done(index)
    ]


class Seen(NamedTuple):
    """What a journal holds.

    Attributes:
        segments: oldest first.
        unreadable: files that are not what was written, and why.
    """

    segments: list[Segment]
    unreadable: list[tuple[Path, str]]


def inspect(directory: Path) -> Seen:
    """Look at a journal that a server may be using: nothing is locked, checked or changed.

    Segments that are removed meanwhile are left out: all that was in them is delivered.
    """
    for _ in range(_INSPECTIONS):
        numbers = files.segment_numbers(directory)
        seen: list[Segment] = []
        delivered: list[Delivered] = []
        unreadable: list[tuple[Path, str]] = []
        for number in numbers:
            segment = Segment(directory, number)
            try:
                segment.measure()
                said = segment.look()
            except (DamagedError, apsw.Error, FileNotFoundError) as error:
                if segment.path.exists():
                    unreadable.append((segment.path, str(error)))
                continue
            seen.append(segment)
            delivered.append(said)
        # A newer one may hold deliveries that a removed one noted.
        if files.segment_numbers(directory)[-1:] == numbers[-1:]:
            break
    noted = NotedDeliveries()
    for said in delivered:
        noted.add(said)
    noted.mark({segment.number: segment for segment in seen})
    return Seen(seen, unreadable)


def in_use(directory: Path) -> bool:
    """Whether a process has this journal."""
    try:
        lock_file = os.open(directory / LOCK, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        # Shared, and for an instant: a server that starts in that very instant would be refused.
        fcntl.flock(lock_file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock_file)
    return False


def _locked(lock_file: int) -> bool:
    """Lock it; `in_use` may have it for an instant."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(_LOCK_PAUSE)
        else:
            return True
    return False


def _is_full(error: Exception) -> bool:
    return isinstance(error, apsw.FullError) or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    )


def _text(error: Exception) -> str:
    if isinstance(error, apsw.FullError):
        return "the disk is full"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error)
