"""The one thread that writes to the journal, many requests at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Protocol

import apsw

from raccoon.journal.deadletters import DeadLetters
from raccoon.journal.entry import Entry, LetterEntry, State
from raccoon.journal.files.record import encode
from raccoon.journal.files.store import JournalError, Store
from raccoon.journal.load import ReactorLoad
from raccoon.supervision import Supervisor

_GROUP_BYTES = 1 << 20
_GROUP_REQUESTS = 500
_GROUP_ITEMS = 4096
_ENOUGH_REQUESTS = 48  # to share a commit: more of them save little
_RETRY_SECONDS = 0.25
_NO_DISK = "the journal's disk does not take writes"
_NAME = "journal-writer"

_Group = tuple[list[Entry], list[LetterEntry], list[int]]


class Results(Protocol):
    """Told by the writer what became of each item. Called in the writer's thread."""

    def written(
        self,
        entries: Sequence[Entry],
        letters: Sequence[LetterEntry],
        delivered: Sequence[int],
        first: int,
        took: float,
    ) -> None:
        """A commit is on disk.

        Args:
            entries: requests, in order.
            letters: dead letters.
            delivered: positions whose delivery was noted.
            first: the position of the first entry.
            took: seconds of the commit.
        """

    def not_written(self, entries: Sequence[Entry], delivered: Sequence[int], reason: str) -> None:
        """The disk took neither these requests nor the note of these deliveries."""

    def letters_not_written(self, letters: Sequence[LetterEntry], reason: str) -> None:
        """The disk did not take these dead letters."""

    def unstorable(self, item: Entry | LetterEntry, reason: str) -> None:
        """The disk works, but this request or letter can never be written."""

    def disk_works(self) -> None:
        """The disk takes writes again after a failure."""


class Writer:
    """Group commit.

    After the first request it waits up to `delay` for company; the wait shrinks to nothing as the
    reactor gets idle. A commit for one request costs many times its share of a commit for fifty,
    and what is delivered during the wait is not written at all.

    A group is at most 500 requests, and ends with the request that brings it to 1 MiB.

    Args:
        store: the journal; opened by its owner.
        letters: the dead letters.
        delay: seconds.
        supervisor: of the thread.
    """

    def __init__(
        self,
        store: Store,
        letters: DeadLetters,
        delay: float,
        supervisor: Supervisor,
    ) -> None:
        self._store = store
        self._letters = letters
        self._delay = delay
        self._supervisor = supervisor
        self._inbox: deque[Entry | LetterEntry | int] = deque()
        self._in_hand: _Group = [], [], []
        self._awake = threading.Event()
        self._enough = threading.Event()
        # About how many requests and letters came, and how many had when the last wait ended.
        self._came = self._seen = 0
        self._stopping = False
        self._broken = False
        self._to_carry = False
        self._gone = ""
        self._load: ReactorLoad | None = None
        self._thread = supervisor.thread(_NAME, self._run, self._failed)

    def start(self, results: Results, broken: bool) -> None:
        """Begin.

        Args:
            results: told what became of each item.
            broken: the store could not begin a segment yet.
        """
        self._begin(results, broken)
        self._load = self._load or ReactorLoad()  # of the process that this is now
        self._thread.start()

    def _begin(self, results: Results, broken: bool) -> None:
        self._results = results
        self._broken = broken

    @property
    def running(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def put(self, item: Entry | LetterEntry) -> None:
        """Have a request or a letter written."""
        self._inbox.append(item)
        self._came += 1
        if not self._awake.is_set():
            self._awake.set()
        if self._came - self._seen >= _ENOUGH_REQUESTS and not self._enough.is_set():
            self._enough.set()

    def note(self, positions: Iterable[int]) -> None:
        """Have deliveries noted together with what is written next, or when `flush` is called."""
        self._inbox.extend(positions)

    def flush(self) -> None:
        """Write what waits. After the thread's end: give it back, as not written."""
        if self._gone:
            self.give_back(self._gone)
        elif self._inbox and not self._awake.is_set():
            self._awake.set()

    def carry(self) -> None:
        """Have the newest segment hold what is known of all older ones."""
        self._to_carry = True
        self._awake.set()

    def stop(self) -> None:
        """Write what is left, and end; `running` says when."""
        self._stopping = True
        self._enough.set()
        self._awake.set()

    def give_back(self, reason: str, results: Results | None = None) -> None:
        """Report all that is in hand or waits as not written: the thread has ended, or hangs.

        Args:
            reason: why.
            results: told; None: those of `start`.
        """
        results = results or self._results
        in_hand, self._in_hand = self._in_hand, ([], [], [])
        if any(in_hand):
            _report(results, in_hand, reason)
        while self._inbox:
            entries, letters, delivered, _ = self._next_group()
            _report(results, (entries, letters, delivered), reason)

    def _run(self) -> None:
        while True:
            self._awake.wait(_RETRY_SECONDS if self._broken else None)
            self._awake.clear()
            stopping = self._stopping
            if self._delay and self._load and not (stopping or self._broken):
                self._enough.wait(self._delay * self._load.share() ** 4)
            self._enough.clear()
            self._seen = self._came
            if self._broken:
                self._mend()
            if self._to_carry and not self._broken:
                self._carry()
            # What comes meanwhile waits for the next commit, or each would be of a few.
            waiting = len(self._inbox)
            while waiting > 0 or (stopping and self._inbox):
                waiting -= self._commit()
            if stopping:
                return

    def _failed(self, error: BaseException) -> None:
        """The thread ends: nothing is written any more."""
        self._gone = f"its writer ended: {str(error) or type(error).__name__}"
        self.give_back(self._gone)

    def _commit(self) -> int:
        """Write one group; gives how many items it was."""
        entries, letters, delivered, taken = self._next_group()
        if not entries and not letters and not delivered:
            return taken
        self._in_hand = entries, letters, delivered
        if self._broken:
            self._store.mark(delivered)
            _report(self._results, self._in_hand, _NO_DISK)
        else:
            self._write(entries, letters, delivered)
        self._in_hand = [], [], []
        return taken

    def _write(
        self, entries: list[Entry], letters: list[LetterEntry], delivered: list[int]
    ) -> None:
        began = time.perf_counter()
        try:
            records = [
                (encode(entry.record), entry.events)
                for entry in entries
                if entry.record is not None
            ]
        except Exception:
            entries, records = self._storable(entries)
        try:
            first = self._store.write(records, delivered)
        except Exception as error:
            self._disk_failed(error)
            _report(self._results, (entries, letters, delivered), _text(error))
            return
        if letters:
            letters = self._write_letters(letters)
        self._results.written(entries, letters, delivered, first, time.perf_counter() - began)

    def _storable(self, entries: Sequence[Entry]) -> tuple[list[Entry], list[tuple[bytes, int]]]:
        """Those that can be encoded, with their bytes; each of the others has an outcome."""
        good: list[Entry] = []
        records: list[tuple[bytes, int]] = []
        for entry in entries:
            if entry.record is None:
                continue
            try:
                records.append((encode(entry.record), entry.events))
                good.append(entry)
            except Exception as error:
                self._results.unstorable(entry, _text(error))
        self._in_hand = good, self._in_hand[1], self._in_hand[2]
        return good, records

    def _write_letters(self, letters: list[LetterEntry]) -> list[LetterEntry]:
        """Those that are on disk then; each of the others has an outcome."""
        try:
            self._letters.add(entry.letter for entry in letters)
        except apsw.Error as error:
            self._results.letters_not_written(letters, str(error))
            return []
        except Exception:
            return [entry for entry in letters if self._write_letter(entry)]
        return letters

    def _write_letter(self, entry: LetterEntry) -> bool:
        try:
            self._letters.add([entry.letter])
        except apsw.Error as error:
            self._results.letters_not_written([entry], str(error))
        except Exception as error:
            self._results.unstorable(entry, _text(error))
        else:
            return True
        return False

    def _disk_failed(self, error: Exception) -> None:
        self._broken = True
        if not isinstance(error, JournalError):
            self._supervisor.failed(_NAME, error)

    def _carry(self) -> None:
        self._to_carry = False
        try:
            self._store.carry()
        except Exception as error:
            self._disk_failed(error)  # the next segment will hold it
            self._results.not_written((), (), _text(error))

    def _next_group(self) -> tuple[list[Entry], list[LetterEntry], list[int], int]:
        entries: list[Entry] = []
        letters: list[LetterEntry] = []
        delivered: list[int] = []
        size = items = 0
        inbox = self._inbox
        settled = State.SETTLED
        while (
            inbox
            and size < _GROUP_BYTES
            and len(entries) < _GROUP_REQUESTS
            and items < _GROUP_ITEMS
        ):
            item = inbox.popleft()
            items += 1
            if isinstance(item, int):
                delivered.append(item)
            elif isinstance(item, LetterEntry):
                letters.append(item)
                size += item.size
            elif item.state is not settled:
                entries.append(item)
                size += item.size
        return entries, letters, delivered, items

    def _mend(self) -> None:
        try:
            self._store.reopen()
        except JournalError:
            return
        except Exception as error:
            self._supervisor.failed(_NAME, error)
            return
        self._broken = False
        self._results.disk_works()


def _report(results: Results, group: _Group, reason: str) -> None:
    entries, letters, delivered = group
    results.not_written(entries, delivered, reason)
    results.letters_not_written(letters, reason)


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
