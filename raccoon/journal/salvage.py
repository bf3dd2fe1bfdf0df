"""What can be read of a damaged file of the journal, before the damage and past it.

SQLite ends reading the log of a file at the first frame whose checksum does not hold, whatever
follows: checksums go on from frame to frame. Each record has a checksum of its own, so all that is
in the log is looked through here. The form of the log:
https://www.sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import array
import shutil
import struct
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, NamedTuple

import apsw

from raccoon.journal.record import Record, decode_intact

# Two writes a page: larger pages than SQLite's 4 KiB cost a large commit less time, and a small one
# more bytes.
PAGE_BYTES = 8_192
# What else can go wrong, such as no file descriptor being free, passes.
DAMAGE = (apsw.CorruptError, apsw.NotADBError, apsw.SQLError)

_LITTLE_ENDIAN = 0x377F0682
_LOG_HEAD = struct.Struct(">I4xI12xII")  # magic number, bytes of a page, checksum
_FRAME_HEAD = struct.Struct(">II8xII")  # page, pages of the file after a commit or 0, checksum
_CHECKED = 8  # bytes of a frame's head
_PAGE_SIZES = frozenset(512 << power for power in range(8))
_WORD = 0xFFFFFFFF
# Where a file says whether it has a log, and how it says that it has none.
_FILE_VERSIONS_AT, _FILE_WITHOUT_LOG = 18, b"\x01\x01"
# More rows than a page has.
_UNREADABLE_ROWS = 1000
# Indexes of requests of which the index is not known: no segment has so many.
_UNKNOWN = 1 << 31


class Frame(NamedTuple):
    """A page in a log.

    Attributes:
        page: its number.
        ends_commit: the file is whole with it.
        content: its bytes.
        intact: its checksum holds, given that of the frame before.
    """

    page: int
    ends_commit: bool
    content: bytes
    intact: bool


class _Row(NamedTuple):
    number: int
    first: int
    requests: int
    body: bytes


def commits_in(log: Path) -> list[int]:
    """The frames of a log that end a commit, from 1."""
    if not log.exists():
        return []
    with open(log, "rb") as file:
        size = _page_bytes(file.read(_LOG_HEAD.size))
        found = []
        number = 0
        while len(head := file.read(_FRAME_HEAD.size)) == _FRAME_HEAD.size:
            number += 1
            if _FRAME_HEAD.unpack(head)[1]:
                found.append(number)
            file.seek(_LOG_HEAD.size + number * (_FRAME_HEAD.size + size))
        return found


def salvage(path: Path, log: Path, copy: Path) -> list[tuple[int, Record]]:
    """The requests of a file whose checksums hold, with their indexes, as far as those are known.

    Args:
        path: of the file.
        log: of its log, if there is one.
        copy: made meanwhile. Where there is no room for it, it is made among temporary files.

    Raises:
        apsw.Error: it cannot be read now.
        OSError: likewise; or there is no room for the copy.
    """
    if not log.exists():
        return _salvage_file(path)
    try:
        return _salvage_log(path, log, copy)
    except OSError:
        with TemporaryDirectory(prefix="raccoon-journal-") as directory:
            return _salvage_log(path, log, Path(directory) / copy.name)


def _salvage_log(path: Path, log: Path, copy: Path) -> list[tuple[int, Record]]:
    """By intact frames alone, and by all: a damaged page may hold other rows that are not."""
    try:
        whole = _write_copy(path, log, copy, damaged_too=False)
        saved = _salvage_file(copy)
        if not whole:
            _write_copy(path, log, copy, damaged_too=True)
            known = {record for _, record in saved}
            saved += [found for found in _salvage_file(copy) if found[1] not in known]
        return sorted(saved, key=lambda found: found[0])
    finally:
        copy.unlink(missing_ok=True)


def _write_copy(path: Path, log: Path, copy: Path, *, damaged_too: bool) -> bool:
    """A file with all commits of its log; gives whether every frame was intact."""
    shutil.copyfile(path, copy)
    most = path.stat().st_size + log.stat().st_size
    last = max(commits_in(log), default=0)
    whole = True
    with open(copy, "r+b") as file, open(log, "rb") as source:
        for _, frame in zip(range(last), _frames(source), strict=False):
            whole = whole and frame.intact
            end = frame.page * len(frame.content)
            if (frame.intact or damaged_too) and 0 < end <= most:
                file.seek(end - len(frame.content))
                file.write(frame.content)
        file.seek(_FILE_VERSIONS_AT)
        file.write(_FILE_WITHOUT_LOG)
    return whole


def _frames(log: BinaryIO) -> Iterator[Frame]:
    head = log.read(_LOG_HEAD.size)
    size = _page_bytes(head)
    if len(head) < _LOG_HEAD.size:
        return
    magic, _, *checksum = _LOG_HEAD.unpack(head)
    swapped = (magic == _LITTLE_ENDIAN) != (sys.byteorder == "little")
    while len(frame := log.read(_FRAME_HEAD.size + size)) == _FRAME_HEAD.size + size:
        page, pages_after_commit, *said = _FRAME_HEAD.unpack_from(frame)
        content = frame[_FRAME_HEAD.size :]
        intact = _checksum(frame[:_CHECKED] + content, checksum, swapped) == said
        yield Frame(page, bool(pages_after_commit), content, intact)
        checksum = said


def _page_bytes(head: bytes) -> int:
    size: int = _LOG_HEAD.unpack(head)[1] if len(head) == _LOG_HEAD.size else 0
    return size if size in _PAGE_SIZES else PAGE_BYTES


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


def _salvage_file(path: Path) -> list[tuple[int, Record]]:
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
        except DAMAGE:
            after += 1
            failed += 1
        else:
            break
    return list(rows.values())
