"""One file of the journal: requests as they were written, and what is known to be delivered."""

from __future__ import annotations

import array
import hashlib
import os
import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import apsw

from raccoon.journal.files.record import DamagedError, Record, decode, encode
from raccoon.journal.files.salvage import PAGE_BYTES, commits_in, is_damage, salvage

SUFFIX = ".journal"
_SUM = ".sum"
_DAMAGED = ".damaged"
_COPY = ".copy"
_NUMBER_BITS = 32
_INDEX_MASK = (1 << _NUMBER_BITS) - 1
_DIGEST_CHUNK = 1 << 20
_BUSY_MS = 5000
_ALL_DONE = 0xFF
# What may be read of clients' events is for the owner alone.
FILE_MODE, DIRECTORY_MODE = 0o600, 0o700
_NAME = re.compile(rf"(\d{{10}}){re.escape(SUFFIX)}(?:{re.escape(_DAMAGED)})?")
# A file that was made to the end takes more, its log included.
_UNMADE_BYTES = 5 * PAGE_BYTES

_SCHEMA = """
CREATE TABLE commits(
    id INTEGER PRIMARY KEY,
    first INTEGER NOT NULL,
    events BLOB NOT NULL,
    delivered BLOB NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE carried(segment INTEGER PRIMARY KEY, done BLOB NOT NULL);
"""


def position(number: int, index: int) -> int:
    """Where a request is: its segment's number and its index there, in one integer."""
    return number << _NUMBER_BITS | index


def place(position: int) -> tuple[int, int]:
    """A position's segment number and index."""
    return position >> _NUMBER_BITS, position & _INDEX_MASK


class Delivered(NamedTuple):
    """What a segment's file says of deliveries, of any segment's requests.

    Attributes:
        ranges: (low, high) positions, both included.
        carried: a bit map for each older segment, as it was when this segment was begun.
    """

    ranges: list[tuple[int, int]]
    carried: list[tuple[int, bytes]]


class LogDamagedError(DamagedError):
    """A part of a segment's log cannot be read.

    Attributes:
        delivered: what the rest of the file says.
    """

    def __init__(self, why: str, delivered: Delivered) -> None:
        super().__init__(why)
        self.delivered = delivered


class Segment:
    """What is known of a file of the journal.

    Attributes:
        number: part of its name, and of its requests' positions.
        path: of the file.
        total: requests in it.
        delivered: how many of them are.
        size: bytes on disk.
        closed: nothing more will be written to it.
        events: of each request, in order.
        sealed: it is in its last form, and its bytes are those that were sealed.
    """

    def __init__(self, directory: Path, number: int) -> None:
        self.number = number
        self.path = directory / f"{number:010d}{SUFFIX}"
        self.total = 0
        self.delivered = 0
        self.size = 0
        self.closed = False
        self.sealed = False
        self.done = bytearray()
        self._log_frames = 0
        # Up to which index `read` came, and the row that ends there.
        self._read_to = (0, 0)
        self.events = array.array("I")

    @property
    def complete(self) -> bool:
        """Whether it is closed and every request in it was delivered."""
        return self.closed and self.delivered >= self.total

    def is_done(self, index: int) -> bool:
        """Whether a request was delivered."""
        byte = index >> 3
        return byte < len(self.done) and bool(self.done[byte] >> (index & 7) & 1)

    def all_wait(self, low: int, high: int) -> bool:
        """Whether none of these requests was delivered; False also where one next to them was."""
        return not any(self.done[low >> 3 : (high >> 3) + 1])

    def waiting(self) -> list[int]:
        """The indexes of the requests that were not delivered."""
        found: list[int] = []
        for first in range(0, self.total, 8):
            byte = self.done[first >> 3] if first >> 3 < len(self.done) else 0
            if byte != _ALL_DONE:
                last = min(first + 8, self.total)
                found += [index for index in range(first, last) if not byte >> (index & 7) & 1]
        return found

    def mark(self, index: int) -> None:
        """A request was delivered."""
        byte = index >> 3
        if byte >= len(self.done):
            self.done.extend(bytes(byte + 1 - len(self.done)))
        bit = 1 << (index & 7)
        if not self.done[byte] & bit:
            self.done[byte] |= bit
            self.delivered += 1

    def mark_range(self, low: int, high: int) -> None:
        """These requests were delivered; both ends included."""
        whole, end = (low + 7) >> 3, (high + 1) >> 3
        if whole >= end:
            for index in range(low, high + 1):
                self.mark(index)
            return
        for index in range(low, whole << 3):
            self.mark(index)
        if len(self.done) < end:
            self.done.extend(bytes(end - len(self.done)))
        before = int.from_bytes(self.done[whole:end], "little").bit_count()
        self.done[whole:end] = b"\xff" * (end - whole)
        self.delivered += ((end - whole) << 3) - before
        for index in range(end << 3, high + 1):
            self.mark(index)

    def mark_all(self, done: bytes) -> None:
        """Mark by a bit map."""
        self.done = bytearray(either(self.done, done))
        self.delivered = int.from_bytes(self.done, "little").bit_count()

    def create(self) -> apsw.Connection:
        """Make the file, and open it for writing."""
        make_private(self.path)  # SQLite gives its log the same mode
        connection = self._open(apsw.SQLITE_OPEN_READWRITE)
        connection.pragma("page_size", PAGE_BYTES)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "FULL")
        # Not while requests wait: `seal` does it.
        connection.pragma("wal_autocheckpoint", 0)
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        with transaction(connection):
            connection.execute(_SCHEMA)
        _sync_directory(self.path.parent)
        return connection

    def load(self) -> Delivered:
        """Read a closed file, and what it says of deliveries.

        An unsealed file is read whole, and sealed. SQLite ends reading its log at the first frame
        that is not what was written. A last commit may not have been finished when power failed, or
        it is damaged: what there is of its requests is kept. Two show that the log is damaged.

        Raises:
            LogDamagedError: what lies behind a place in its log cannot be read.
            DamagedError: its bytes are not those that were written.
            apsw.Error: it cannot be read now.
            OSError: likewise.
        """
        unsealed = not self._sum_path.exists()
        if unsealed:
            commits = commits_in(self._wal_path)
        else:
            self.verify()
        # A process that was killed while it sealed leaves a change to be rolled back.
        delivered = self.look(apsw.SQLITE_OPEN_READWRITE)
        if unsealed:
            unread = sum(frame > self._log_frames for frame in commits)
            if unread == 1:
                self._keep_last_commit()
            elif unread:
                raise LogDamagedError(
                    f"its log cannot be read past {len(commits) - unread} commits", delivered
                )
            if self.total:
                self._check_records()
            # Where somebody reads it or the disk is full, it stays as it is for now.
            with suppress(apsw.BusyError, apsw.FullError, OSError):
                self.seal()
        self.closed = True
        return delivered

    def look(self, flags: int = apsw.SQLITE_OPEN_READONLY) -> Delivered:
        """What `load` gives, of a file in any state, which is neither checked nor changed.

        Args:
            flags: how it is opened.

        Raises:
            DamagedError: it is not what was written.
            apsw.Error: it cannot be read now.
        """
        if not _size(self.path) and _size(self._wal_path):
            # SQLite would delete the log.
            raise DamagedError("the file is empty, and its log is not")
        with _telling_damage(), closing(self._open(flags)) as connection:
            # What cannot be read of the log is kept for whoever looks into it.
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            made = connection.pragma("schema_version")  # opens the log, too
            self._log_frames, _ = connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_NOOP)
            if self.size <= _UNMADE_BYTES and not made:
                return Delivered([], [])  # it ended while it was made
            self.events = self._load_events(connection)
            delivered = Delivered(
                [
                    one
                    for (packed,) in connection.execute("SELECT delivered FROM commits")
                    for one in _pairs(packed)
                ],
                list(connection.execute("SELECT segment, done FROM carried")),
            )
        self.total = len(self.events)
        return delivered

    def seal(self) -> None:
        """Bring a file that is written no more into its last form, and note its checksum."""
        connection = self._open(apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            connection.pragma("journal_mode", "delete")
        finally:
            connection.close()
        temporary = self._sum_path.with_suffix(".tmp")
        make_private(temporary)
        with open(temporary, "w", encoding="ascii") as file:
            file.write(_digest(self.path))
            file.flush()
            os.fsync(file.fileno())
        # Before the checksum has its name: a log that came back would belong to a sealed file.
        _sync_directory(self.path.parent)
        temporary.rename(self._sum_path)
        _sync_directory(self.path.parent)
        self.size = self.path.stat().st_size
        self.sealed = True

    def verify(self) -> None:
        """Compare a sealed file with its checksum.

        Raises:
            DamagedError: they differ.
        """
        if self._sum_path.read_bytes() != _digest(self.path).encode():
            raise DamagedError("the file does not match its checksum")
        self.size = self.path.stat().st_size
        self.sealed = True

    def read(self, first: int) -> Generator[tuple[int, list[Record]]]:
        """The groups that end after index `first`: the index of the first record, and all.

        Raises:
            DamagedError: a group is not what was written.
            apsw.Error: the file cannot be read now.
        """
        with _telling_damage(), closing(self._open(apsw.SQLITE_OPEN_READONLY)) as connection:
            read, row = self._read_to
            rows = connection.execute(
                "SELECT id, first, body FROM commits"
                " WHERE id > ? AND length(body) AND first + length(events) / 4 > ? ORDER BY id",
                (row if first >= read else 0, first),
            )
            for row, start, body in rows:
                records = decode(body)
                self._read_to = start + len(records), row
                yield start, records

    def salvage(self) -> list[tuple[int, Record]]:
        """What can still be read of a damaged file: (index, record), as far as checksums hold.

        Raises:
            apsw.Error: it cannot be read now.
            OSError: likewise.
        """
        return salvage(self.path, self._wal_path, self.path.with_suffix(_COPY))

    def set_aside(self) -> Path:
        """Take a damaged file out of the journal, kept under another name; gives that."""
        aside = self.path.with_suffix(SUFFIX + _DAMAGED)
        if self._wal_path.exists():
            self._wal_path.rename(aside.with_name(aside.name + "-wal"))
        self.path.rename(aside)
        self.remove_companions()
        return aside

    def remove(self) -> None:
        """Delete the file and what belongs to it."""
        self.path.unlink(missing_ok=True)
        self.remove_companions()

    def remove_companions(self) -> None:
        """Delete what belongs to the file."""
        for path in (
            self._sum_path,
            self._wal_path,
            self.path.with_name(self.path.name + "-shm"),
            self.path.with_name(self.path.name + "-journal"),
            self._sum_path.with_suffix(".tmp"),
            self.path.with_suffix(_COPY),
        ):
            path.unlink(missing_ok=True)

    def measure(self) -> None:
        """Look up how many bytes the file and its log take."""
        self.size = _size(self.path) + _size(self._wal_path)

    @property
    def _sum_path(self) -> Path:
        return self.path.with_suffix(_SUM)

    @property
    def _wal_path(self) -> Path:
        return self.path.with_name(self.path.name + "-wal")

    def _open(self, flags: int) -> apsw.Connection:
        connection = apsw.Connection(str(self.path), flags=flags)
        connection.set_busy_timeout(_BUSY_MS)
        return connection

    def _keep_last_commit(self) -> None:
        """Write again what is left of a commit that SQLite does not read, before it is cut off."""
        left = [record for index, record in self.salvage() if index >= self.total]
        if not left:
            return
        connection = self._open(apsw.SQLITE_OPEN_READWRITE)
        try:
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            connection.pragma("synchronous", "FULL")
            insert(connection, self.total, [(encode(record), record.events) for record in left], [])
        finally:
            connection.close()
        self.events.extend(record.events for record in left)
        self.total += len(left)

    def _check_records(self) -> None:
        expected = 0
        for start, records in self.read(0):
            if start != expected:
                raise DamagedError(f"request {expected} is missing")
            expected += len(records)

    def _load_events(self, connection: apsw.Connection) -> array.array[int]:
        events = array.array("I")
        for first, packed in connection.execute("SELECT first, events FROM commits ORDER BY id"):
            if first != len(events):
                raise DamagedError(f"request {len(events)} is missing")
            counts = array.array("I")
            counts.frombytes(packed)
            events += counts
        return events


@contextmanager
def _telling_damage() -> Iterator[None]:
    try:
        yield
    except (apsw.Error, ValueError) as error:
        if isinstance(error, ValueError) or is_damage(error):
            raise DamagedError(str(error)) from error
        raise


@contextmanager
def transaction(connection: apsw.Connection) -> Iterator[None]:
    """All or nothing of what is executed within.

    A connection's own context hides why a commit failed behind the failure to roll it back, where
    SQLite has done so already.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(apsw.Error):
            connection.execute("ROLLBACK")
        raise


def insert(
    connection: apsw.Connection,
    first: int,
    records: Sequence[tuple[bytes, int]],
    delivered: Iterable[tuple[int, int]],
) -> None:
    """Write a commit: encoded records with their numbers of events, and ranges of deliveries.

    It is one statement, so that the writer's thread waits for the interpreter once and not at each
    step of a transaction.
    """
    connection.execute(
        "INSERT INTO commits(first, events, delivered, body) VALUES(?, ?, ?, ?)",
        (
            first,
            array.array("I", [count for _, count in records]).tobytes(),
            array.array("q", chain.from_iterable(delivered)).tobytes(),
            b"".join([encoded for encoded, _ in records]),
        ),
    )


def _pairs(packed: bytes) -> Iterator[tuple[int, int]]:
    numbers = array.array("q")
    numbers.frombytes(packed)
    return zip(numbers[::2], numbers[1::2], strict=True)


def ranges(positions: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Runs of consecutive numbers: (low, high), both included."""
    low = high = None
    for number in sorted(positions):
        if high is not None and number == high + 1:
            high = number
            continue
        if low is not None and high is not None:
            yield low, high
        low = high = number
    if low is not None and high is not None:
        yield low, high


def segment_numbers(directory: Path) -> list[int]:
    """The numbers of the segments in a directory, damaged ones included."""
    return sorted(
        int(named[1])
        for path in directory.iterdir()
        if (named := _NAME.fullmatch(path.name)) is not None
    )


def odd_files(directory: Path) -> list[str]:
    """The names of what looks like a segment and is none: it is passed over."""
    return sorted(
        path.name
        for path in directory.iterdir()
        if SUFFIX in path.name
        and not path.name.endswith(("-wal", "-shm", "-journal"))
        and (_NAME.fullmatch(path.name) is None or not path.is_file())
    )


def remove_orphans(directory: Path, numbers: Iterable[int]) -> None:
    """Delete what belongs to segments that were being removed when their process was killed.

    Args:
        directory: of the journal.
        numbers: of the segments that are there.
    """
    named = {int(path.name[:10]) for path in directory.iterdir() if path.name[:10].isdigit()}
    for number in named.difference(numbers):
        Segment(directory, number).remove_companions()


def make_directory(directory: Path) -> None:
    """Make a directory where it is missing, as lasting as what is synced in it.

    Raises:
        OSError: it cannot be made.
    """
    for path in reversed((directory, *directory.absolute().parents)):
        if not path.exists():
            path.mkdir(DIRECTORY_MODE, exist_ok=True)
    # All of them: a process may have been killed when it had made them. Some cannot be synced: a
    # directory that may not be read, or one of a read-only file system.
    for path in directory.absolute().parents:
        with suppress(OSError):
            _sync_directory(path)


def make_private(path: Path) -> None:
    """Make an empty file that its owner alone may read, where there is none.

    Raises:
        OSError: it cannot be made.
    """
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, FILE_MODE))


def narrow(directory: Path) -> None:
    """Have the owner alone read a journal that an earlier version, or a wide umask, left open."""
    for path in (directory, *directory.iterdir()):
        if path.is_symlink() or not (path.is_file() or path == directory):
            continue
        with suppress(OSError):  # another's
            path.chmod(DIRECTORY_MODE if path == directory else FILE_MODE)


def either(one: bytes | bytearray, other: bytes | bytearray) -> bytes:
    """The bits that are set in one of two bit maps, or in both."""
    length = max(len(one), len(other))
    united = int.from_bytes(one, "little") | int.from_bytes(other, "little")
    return united.to_bytes(length, "little")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _digest(path: Path) -> str:
    digest = hashlib.blake2b()
    with open(path, "rb") as file:
        while chunk := file.read(_DIGEST_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
