"""What can be read of a damaged file of the journal, before the damage and past it.

SQLite ends reading the log of a file at the first frame whose checksum does not hold, whatever
follows: checksums go on from frame to frame. Each record has a checksum of its own, so all that is
in the log is looked through here. The form of the log:
https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import array
import os
import shutil
import struct
import sys
from collections.abc import Iterator, Set
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, NamedTuple

import apsw

from raccoon.journal.files.record import Record, decode_intact

# Two writes a page: larger pages than SQLite's 4 KiB cost a large commit less time, and a small one
# more bytes.
PAGE_BYTES = 8_192

_LITTLE_ENDIAN = 0x377F0682
_LOG_HEAD = struct.Struct(">I4xI12xII")  # magic number, bytes of a page, checksum
_FRAME_HEAD = struct.Struct(">II8xII")  # page, pages of the file after a commit or 0, checksum
_CHECKED = 8  # bytes of a frame's head
_PAGE_SIZES = frozenset(512 << power for power in range(8))
_WORD = 0xFFFFFFFF
# Where a file says whether it has a log, and how it says that it has none.
_FILE_VERSIONS_AT, _FILE_WITHOUT_LOG = 18, b"\x01\x01"
# Where it says how many pages it has, and how it says: as many as there are.
_FILE_PAGES_AT, _FILE_PAGES_THERE = 28, bytes(4)
# More rows than a page has.
_UNREADABLE_ROWS = 1000
# Indexes of requests of which the index is not known: no segment has so many.
_UNKNOWN = 1 << 31


class _Frame(NamedTuple):
    """The head of a page in a log.

    Attributes:
        number: of the frame, from 1.
        page: the number of its page.
        pages_after_commit: that the file has, where it ends a commit; else 0.
        checksum: of it and all before it.
        checked: what of the head it is of.
        at: where the page is in the log.
        size: of the page.
    """

    number: int
    page: int
    pages_after_commit: int
    checksum: list[int]
    checked: bytes
    at: int
    size: int


class _Row(NamedTuple):
    number: int
    first: int
    requests: int
    body: bytes


def is_damage(error: apsw.Error) -> bool:
    """Whether a file is not what was written; other errors, such as of a full disk, pass."""
    if isinstance(error, apsw.IOError):
        code: int = getattr(error, "extendedresult", 0)
        return code == apsw.SQLITE_IOERR_SHORT_READ
    return isinstance(error, (apsw.CorruptError, apsw.NotADBError, apsw.SQLError))


def commits_in(log: Path) -> list[int]:
    """The frames of a log that end a commit, from 1."""
    if not log.exists():
        return []
    with open(log, "rb") as file:
        return [frame.number for frame in _frames(file) if frame.pages_after_commit]


def salvage(path: Path, log: Path, copy: Path) -> list[tuple[int, Record]]:
    """The requests of a file whose checksums hold, with their indexes, as far as those are known.

    Args:
        path: of the file.
        log: of its log, if there is one.
        copy: made meanwhile. Where there is no room for it, it is made among temporary files.

    Returns:
        In the order of their indexes; those of which it is not known come last.

    Raises:
        apsw.Error: it cannot be read now.
        OSError: likewise; or there is no room for the copy.
    """
    if not log.exists():
        log = Path(os.devnull)
    try:
        return _salvage(path, log, copy)
    except OSError:
        with TemporaryDirectory(prefix="raccoon-journal-") as directory:
            return _salvage(path, log, Path(directory) / copy.name)


def _salvage(path: Path, log: Path, copy: Path) -> list[tuple[int, Record]]:
    """By intact frames alone, and by all: a damaged page may hold other rows that are not."""
    last = max(commits_in(log), default=0)
    with open(log, "rb") as source:
        damaged = _damaged(source, last)
        try:
            _write_copy(path, source, copy, last, damaged)
            saved = _read(copy)
            if damaged:
                _write_copy(path, source, copy, last, frozenset())
                known = {record for _, record in saved}
                saved += [found for found in _read(copy) if found[1] not in known]
        finally:
            copy.unlink(missing_ok=True)
    return sorted(saved, key=lambda found: found[0])


def _write_copy(path: Path, log: BinaryIO, copy: Path, last: int, without: Set[int]) -> None:
    """A file with the pages of its log up to the frame `last`, but those of some frames.

    It has whole pages, whatever was cut off, and says of none that it has it: SQLite reads nothing
    of a file that should be longer.
    """
    os.close(os.open(copy, os.O_CREAT | os.O_WRONLY, 0o600))
    shutil.copyfile(path, copy)
    most = path.stat().st_size + os.fstat(log.fileno()).st_size
    with open(copy, "r+b") as file:
        for frame in islice(_frames(log), last):
            end = frame.page * frame.size
            if frame.number not in without and 0 < end <= most:
                file.seek(end - frame.size)
                file.write(_page(log, frame))
        file.seek(_FILE_VERSIONS_AT)
        file.write(_FILE_WITHOUT_LOG)
        file.seek(_FILE_PAGES_AT)
        file.write(_FILE_PAGES_THERE)
        pages = -(-file.seek(0, os.SEEK_END) // PAGE_BYTES)
        file.truncate(pages * PAGE_BYTES)


def _damaged(log: BinaryIO, last: int) -> set[int]:
    """The frames up to `last` whose checksums do not hold, given that of the frame before."""
    head = log.read(_LOG_HEAD.size)
    if len(head) < _LOG_HEAD.size:
        return set()
    magic, _, *before = _LOG_HEAD.unpack(head)
    swapped = (magic == _LITTLE_ENDIAN) != (sys.byteorder == "little")
    damaged = set()
    for frame in islice(_frames(log), last):
        page = _page(log, frame)
        whole = len(page) == frame.size
        if not whole or _checksum(frame.checked + page, before, swapped) != frame.checksum:
            damaged.add(frame.number)
        before = frame.checksum
    return damaged


def _frames(log: BinaryIO) -> Iterator[_Frame]:
    log.seek(0)
    head = log.read(_LOG_HEAD.size)
    size: int = _LOG_HEAD.unpack(head)[1] if len(head) == _LOG_HEAD.size else 0
    if size not in _PAGE_SIZES:
        size = PAGE_BYTES
    for number in count(1):
        at = _LOG_HEAD.size + number * _FRAME_HEAD.size + (number - 1) * size
        log.seek(at - _FRAME_HEAD.size)
        head = log.read(_FRAME_HEAD.size)
        if len(head) < _FRAME_HEAD.size:
            return
        page, pages_after_commit, *checksum = _FRAME_HEAD.unpack(head)
        yield _Frame(number, page, pages_after_commit, checksum, head[:_CHECKED], at, size)


def _page(log: BinaryIO, frame: _Frame) -> bytes:
    log.seek(frame.at)
    return log.read(frame.size)


def _checksum(content: bytes, before: list[int], swapped: bool) -> list[int]:
    words = array.array("I", content)
    if swapped:
        words.byteswap()
    one, two = before
    pairs = iter(words)
    for first, second in zip(pairs, pairs, strict=True):
        one = (one + first + two) & _WORD
        two = (two + second + one) & _WORD
    return [one, two]


def _read(path: Path) -> list[tuple[int, Record]]:
    with closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as connection:
        rows = _rows(connection)
    saved: list[tuple[int, Record]] = []
    unknown = _UNKNOWN
    for at, row in enumerate(rows):
        before = rows[at - 1].first + rows[at - 1].requests if at else 0
        after = rows[at + 1].first if at + 1 < len(rows) else None
        fits = row.first == before or row.first + row.requests == after
        for number, record in decode_intact(row.body):
            if fits and number is not None:
                saved.append((row.first + number, record))
            else:
                saved.append((unknown, record))
                unknown += 1
    return saved


def _rows(connection: apsw.Connection) -> list[_Row]:
    """The rows that can be read; those of a page that cannot are passed over one by one."""
    rows: dict[int, _Row] = {}
    after = failed = 0
    while failed < _UNREADABLE_ROWS:
        try:
            for found in connection.execute(
                "SELECT id, first, length(events) / 4, body FROM commits WHERE id > ?"
                " AND typeof(first) = 'integer' AND typeof(body) = 'blob' ORDER BY id",
                (after,),
            ):
                row = _Row(*found)
                if row.number not in rows:
                    rows[row.number] = row
                    failed = 0
                # Numbers are consecutive: another one is damaged.
                if after < row.number <= after + _UNREADABLE_ROWS:
                    after = row.number
        except apsw.Error as error:
            if not is_damage(error):
                raise
            after += 1
            failed += 1
        else:
            break
    return list(rows.values())
