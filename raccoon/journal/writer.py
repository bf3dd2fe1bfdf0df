"""The one thread that writes to the journal, many requests at a time."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import apsw

from raccoon.journal.deadletters import DeadLetters, Letter
from raccoon.journal.files.record import Record, encode
from raccoon.journal.files.store import JournalError, Store

_GROUP_BYTES = 1 << 20
_GROUP_REQUESTS = 500
_GROUP_ITEMS = 4096
_ENOUGH_REQUESTS = 48  # to share a commit: more of them save little
_RETRY_SECONDS = 0.25
_LOAD_SECONDS = 0.1
_REACTORS_PART = 0.5
_NO_DISK = "the journal's disk does not take writes"


class Entry:
    """A request on its way into the journal.

    Attributes:
        record: what is written; None once it was.
        events: how many it holds.
        size: bytes of its body.
        request: the request in memory, or None where the journal alone has it.
        position: where it is in the journal; -1 until it is written.
        settled: its outcome is known: it need not be written any more.
        in_memory: it is on its way to the destination.
        replayed: it came back from disk.
        stored: called once it is on disk, or None.
    """

    __slots__ = (
        "events",
        "in_memory",
        "position",
        "record",
        "replayed",
        "request",
        "settled",
        "size",
        "stored",
    )

    def __init__(self, record: Record, request: Any) -> None:
        self.record: Record | None = record
        self.events = record.events
        self.size = len(record.body)
        self.request = request
        self.position = -1
        self.settled = False
        self.in_memory = False
        self.replayed = False
        self.stored: Callable[[], None] | None = None


class LetterEntry:
    """A dead letter on its way to disk.

    Attributes:
        letter: what is stored.
        position: of the request in the journal, or -1 where it is not there.
        request: the request in memory, which may still wait for its answer.
        size: bytes of its body.
    """

    __slots__ = ("letter", "position", "request", "size")

    def __init__(self, letter: Letter, position: int, request: Any) -> None:
        self.letter = letter
        self.size = len(letter.record.body)
        self.position = position
        self.request = request

    @property
    def events(self) -> int:
        """How many of its request's events were not delivered."""
        return sum(self.letter.failed.values())


class Load:
    """How busy the reactor is.

    Where its thread and the threads beside it have one processor, or one interpreter, the reactor's
    part of a busy one is about 0.6. What a library's own threads take says nothing.

    Args:
        wall: a clock.
        cpu: the processor time that the reactor's thread took.
    """

    def __init__(
        self, wall: Callable[[], float] = time.monotonic, cpu: Callable[[], float] | None = None
    ) -> None:
        self._wall = wall
        self._cpu = cpu or _clock_of(threading.main_thread())
        self._since, self._used = wall(), self._cpu()
        self._share = 0.0

    def share(self) -> float:
        """How much of what it can do it did in the last 0.1 s or more, from 0 to 1."""
        lasted = self._wall() - self._since
        if lasted >= _LOAD_SECONDS:
            used = self._cpu() - self._used
            self._share = min(used / lasted / _REACTORS_PART, 1.0)
            self._since += lasted
            self._used += used
        return self._share


def _clock_of(thread: threading.Thread) -> Callable[[], float]:
    assert thread.ident is not None
    return partial(time.clock_gettime, time.pthread_getcpuclockid(thread.ident))


class Writer:
    """Commits in groups: what has come some time after the first.

    That time is `delay` where the reactor is busy, or less where enough came: a request that has a
    commit of its own costs many times one among fifty, and what is delivered meanwhile is not
    written at all. Where there is time to spare an early answer is worth more, and it is next to
    nothing.

    A group is at most 1 MiB, a request that goes over it included, and 500 requests.
    Results go to `written` and `failed`, called in the writer's thread once for each group.

    Args:
        store: the journal; opened by its owner.
        letters: the dead letters.
        delay: seconds, at most.
        written: takes the entries, the letters and the delivered positions of a commit, the
            position of the first entry, and the seconds that the commit took.
        failed: takes the entries that were not written, the positions whose delivery was not
            noted on disk, and why.
        unburied: takes the letters that were not written, and why.
        recovered: called when the disk takes writes again after a failure.
        broken: the store could not begin a segment yet.
    """

    def __init__(
        self,
        store: Store,
        letters: DeadLetters,
        delay: float,
        written: Callable[
            [Sequence[Entry], Sequence[LetterEntry], Sequence[int], int, float], None
        ],
        failed: Callable[[Sequence[Entry], Sequence[int], str], None],
        unburied: Callable[[Sequence[LetterEntry], str], None],
        recovered: Callable[[], None],
        broken: bool = False,
    ) -> None:
        self._store = store
        self._letters = letters
        self._delay = delay
        self._written = written
        self._failed = failed
        self._unburied = unburied
        self._recovered = recovered
        self._inbox: deque[Entry | LetterEntry | int] = deque()
        self._awake = threading.Event()
        self._enough = threading.Event()
        # About how many requests and letters came, and how many had when the last wait ended.
        self._came = self._seen = 0
        self._stopping = False
        self._broken = broken
        self._to_carry = False
        self._load = Load()
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

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
        """Write what waits."""
        if self._inbox and not self._awake.is_set():
            self._awake.set()

    def carry(self) -> None:
        """Have the newest segment hold what is known of all older ones."""
        self._to_carry = True
        self._awake.set()

    def stop(self) -> None:
        """Write what is left, and end. Blocking."""
        self._stopping = True
        self._enough.set()
        self._awake.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._awake.wait(_RETRY_SECONDS if self._broken else None)
            self._awake.clear()
            stopping = self._stopping
            if self._delay and not (stopping or self._broken):
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

    def _commit(self) -> int:
        """Write one group; gives how many items it was."""
        entries, letters, delivered, taken = self._take()
        if not entries and not letters and not delivered:
            return taken
        if self._broken:
            self._store.mark(delivered)
            self._failed(entries, delivered, _NO_DISK)
            self._unburied(letters, _NO_DISK)
            return taken
        began = time.perf_counter()
        try:
            records = [
                (encode(entry.record), entry.events)
                for entry in entries
                if entry.record is not None
            ]
            first = self._store.write(records, delivered)
        except JournalError as error:
            self._broken = True
            self._failed(entries, delivered, str(error))
            self._unburied(letters, str(error))
            return taken
        if letters:
            try:
                self._letters.add(entry.letter for entry in letters)
            except apsw.Error as error:
                self._unburied(letters, str(error))
                letters = []
        self._written(entries, letters, delivered, first, time.perf_counter() - began)
        return taken

    def _carry(self) -> None:
        self._to_carry = False
        try:
            self._store.carry()
        except JournalError as error:
            self._broken = True  # the next segment will hold it
            self._failed((), (), str(error))

    def _take(self) -> tuple[list[Entry], list[LetterEntry], list[int], int]:
        entries: list[Entry] = []
        letters: list[LetterEntry] = []
        delivered: list[int] = []
        size = items = 0
        inbox = self._inbox
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
            elif not item.settled:
                entries.append(item)
                size += item.size
        return entries, letters, delivered, items

    def _mend(self) -> None:
        try:
            self._store.reopen()
        except JournalError:
            return
        self._broken = False
        self._recovered()
