"""Takes over what a journal holds that no process has any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
from twisted.internet.defer import Deferred, DeferredList, inlineCallbacks
from twisted.logger import Logger

from raccoon.interfaces import IMetrics
from raccoon.journal.deadletters import FILE, DeadLetters, Letter
from raccoon.journal.entry import Entry
from raccoon.journal.files.record import Record
from raccoon.journal.files.segment import SUFFIX, Segment
from raccoon.journal.files.store import Found, InUseError, JournalError, Store

_PART = "worker-"
_AT_ONCE = 500
_BYTES_AT_ONCE = 1 << 20
_ALL = 1 << 62
_LETTERS_AT_ONCE = 100
_FIRST_REST = 5.0
_LONGEST_REST = 300.0

_logger = Logger()


def part_of(directory: Path, workers: int, index: int) -> Path:
    """Where a worker's journal is: one alone has the directory itself."""
    return directory if workers == 1 else directory / f"{_PART}{index}"


def left_parts(directory: Path, workers: int, index: int) -> list[Path]:
    """The journals in a directory that no worker has and that this one is to adopt.

    They stay behind when the number of workers changes. The first worker adopts them.
    """
    if index:
        return []
    own = {part_of(directory, workers, other) for other in range(workers)}
    parts = [directory, *sorted(directory.glob(f"{_PART}*"))]
    return [part for part in parts if part not in own and _holds_something(part)]


def _holds_something(part: Path) -> bool:
    return part.is_dir() and (any(part.glob(f"*{SUFFIX}")) or (part / FILE).exists())


class Adoption:
    """A journal whose requests go over to another, piece by piece. Blocking.

    Args:
        directory: of the journal that was left.
        segment_bytes: see Store.
        damaged: see Store.
    """

    def __init__(
        self,
        directory: Path,
        segment_bytes: int,
        damaged: Callable[[Segment, str, list[Found]], None],
    ) -> None:
        self.directory = directory
        self._store = Store(directory, segment_bytes, damaged)
        self._after = -1

    def open(self) -> None:
        """Take the directory and read what is there.

        Raises:
            InUseError: a process has it after all.
            JournalError: it cannot be used now.
        """
        self._store.open()
        self._store.recover()
        if self._store.unread:
            raise JournalError(f"{self.directory}: a file of it cannot be read now")
        self._store.carry()

    def next(self) -> list[Found]:
        """The next requests; none when all were given."""
        found, self._after = self._store.read(
            self._after, _ALL, frozenset(), _AT_ONCE, _BYTES_AT_ONCE
        )
        return found

    def taken(self, positions: Sequence[int]) -> None:
        """These requests are on disk elsewhere.

        Raises:
            JournalError: that could not be noted; they may come twice.
        """
        self._store.write([], positions)

    def letters(self) -> list[tuple[int, Letter]]:
        """Its oldest dead letters, a bounded number; none when all were taken.

        The file goes with the last of them. One that is damaged is set aside.
        """
        if not (self.directory / FILE).exists():
            return []
        with closing(DeadLetters(self.directory)) as letters:
            aside = letters.set_aside_if_damaged()
            if aside is not None:
                _logger.error(
                    "the dead letters of an adopted part are damaged and were set aside as {path}",
                    path=str(aside),
                )
                return []
            oldest = letters.oldest(_LETTERS_AT_ONCE)
        if not oldest:
            for ending in ("", "-wal", "-shm"):
                (self.directory / f"{FILE}{ending}").unlink(missing_ok=True)
        return oldest

    def letters_taken(self, numbers: Sequence[int]) -> None:
        """These dead letters are on disk elsewhere."""
        with closing(DeadLetters(self.directory)) as letters:
            letters.remove(numbers)

    def close(self) -> None:
        """Remove what was taken, and give the directory back."""
        self._store.close()


class Adopter:
    """Takes over journals that no process has any more, a piece at a time.

    Args:
        left_parts: finds them.
        adoption: makes an Adoption of a directory.
        in_keeper: calls in the keeper's thread.
        put: has an entry written.
        add_letters: stores dead letters; in the keeper's thread.
        may: whether this is a time to adopt.
        metrics: counts.
        seconds: the clock.
    """

    _logger = Logger()

    def __init__(
        self,
        left_parts: Callable[[], Sequence[Path]],
        adoption: Callable[[Path], Adoption],
        in_keeper: Callable[..., Deferred[Any]],
        put: Callable[[Entry], None],
        add_letters: Callable[[Sequence[Letter]], None],
        may: Callable[[], bool],
        metrics: IMetrics,
        seconds: Callable[[], float],
    ) -> None:
        self._left_parts = left_parts
        self._adoption = adoption
        self._in_keeper = in_keeper
        self._put = put
        self._add_letters = add_letters
        self._may = may
        self._metrics = metrics
        self._seconds = seconds
        # What could not be taken over: until when it rests, and for how long the next time.
        self._rests: dict[Path, tuple[float, float]] = {}
        self._adopting = False

    @inlineCallbacks
    def adopt(self) -> Any:
        """Take over all that there is; nothing where that is under way."""
        if self._adopting or not self._may():
            return
        self._adopting = True
        try:
            for directory in (yield self._in_keeper(self._left_parts)):
                until, pause = self._rests.get(directory, (0.0, _FIRST_REST))
                if self._seconds() >= until:
                    yield self._adopt(directory, pause)
        finally:
            self._adopting = False

    @inlineCallbacks
    def _adopt(self, directory: Path, pause: float) -> Any:
        """Take over one part; where that fails it is said once, and tried again after a pause."""
        adoption = self._adoption(directory)
        try:
            try:
                yield self._in_keeper(adoption.open)
                yield self._take_over(adoption)
            except InUseError:
                return  # its process has not ended yet
            finally:
                yield self._in_keeper(adoption.close)
        except (JournalError, apsw.Error, OSError) as error:
            if directory not in self._rests:
                self._logger.warn(
                    "a part of the journal is not adopted: {reason}; retrying", reason=str(error)
                )
            self._rests[directory] = self._seconds() + pause, min(pause * 2, _LONGEST_REST)
        else:
            self._rests.pop(directory, None)

    @inlineCallbacks
    def _take_over(self, adoption: Adoption) -> Any:
        events = 0
        while found := (yield self._in_keeper(adoption.next)):
            if not self._may():
                return
            came = sum(record.events for _, record in found)
            events += came
            self._metrics.count("journal_recovered_events_total", came)
            yield DeferredList([self._put_and_wait(record) for _, record in found])
            yield self._in_keeper(adoption.taken, [position for position, _ in found])
        letters = 0
        while piece := (yield self._in_keeper(adoption.letters)):
            if not self._may():
                return
            letters += len(piece)
            yield self._in_keeper(self._add_letters, [letter for _, letter in piece])
            yield self._in_keeper(adoption.letters_taken, [number for number, _ in piece])
        self._logger.info(
            "{events} waiting events and {letters} dead letters of {directory} were adopted",
            events=events,
            letters=letters,
            directory=str(adoption.directory),
        )

    def _put_and_wait(self, record: Record) -> Deferred[None]:
        stored: Deferred[None] = Deferred()
        entry = Entry(record, None)
        entry.stored = lambda: stored.callback(None)
        self._put(entry)
        return stored
