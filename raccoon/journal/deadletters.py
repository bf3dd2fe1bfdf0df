"""Requests that can never be delivered, with the reason, for a person to look at."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import apsw

from raccoon.journal.files.record import Record
from raccoon.journal.files.segment import make_private, transaction

FILE = "dead-letters.db"
_BUSY_MS = 5000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS letters(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    stored_at REAL NOT NULL,
    reason TEXT NOT NULL,
    failed TEXT NOT NULL,
    client TEXT NOT NULL,
    conn_group TEXT NOT NULL,
    received_at REAL NOT NULL,
    events INTEGER NOT NULL,
    form INTEGER NOT NULL,
    wire BLOB NOT NULL, -- the body
    replay INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS letters_by_replay ON letters(replay);
"""

_COLUMNS = (
    "id, stored_at, reason, failed, client, conn_group, received_at, events, form, wire, replay"
)
_CHOSEN = "WHERE id IN (SELECT value FROM json_each(?))"
_ALL = f"SELECT {_COLUMNS} FROM letters ORDER BY id"
_SOME = f"SELECT {_COLUMNS} FROM letters {_CHOSEN} ORDER BY id"
_TO_REPLAY = f"SELECT {_COLUMNS} FROM letters WHERE replay = 1 ORDER BY id LIMIT ?"
_MARK = f"UPDATE letters SET replay = 1 {_CHOSEN}"
_REMOVE = f"DELETE FROM letters {_CHOSEN}"
_NEXT = "SELECT id FROM letters WHERE id > ? AND id <= ? ORDER BY id LIMIT ?"
# By the index alone no page of a letter would be read.
_LOOK_AT_THE_END = "SELECT id FROM letters NOT INDEXED ORDER BY id DESC LIMIT ?"
_LOOKED_AT = 1000
_COUNTING_PAUSE = 100  # times as long as it took
# So many letters are changed at once: what they take is in the file's log again until it is over.
_PIECE = 1000
_PAGE_BYTES = 16_384
_LOG_PAGES = 256


class Letter(NamedTuple):
    """A request that was given up.

    Attributes:
        stored_at: Unix seconds.
        reason: why, for people.
        failed: how many events of each type were not delivered; the others were.
        record: the request.
        replay: whether it is to be sent again.
    """

    stored_at: float
    reason: str
    failed: Mapping[str, int]
    record: Record
    replay: bool = False

    def includes(self, event_type: str) -> bool:
        """Whether events of a type were not delivered; those of no type stand for all."""
        return event_type in self.failed or "" in self.failed


class DeadLetters:
    """The file of dead letters in a journal's directory; safe beside other processes. Blocking.

    It is opened when it is first needed, and then every method raises apsw.Error where it cannot
    be read or written.

    Args:
        directory: the journal's.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._opened: apsw.Connection | None = None
        self._counted = 0
        self._count_at = 0.0

    @property
    def _connection(self) -> apsw.Connection:
        if self._opened is None:
            new = not self._path.exists()
            if new:
                make_private(self._path)
            connection = apsw.Connection(str(self._path))
            connection.set_busy_timeout(_BUSY_MS)
            if new:
                connection.pragma("page_size", _PAGE_BYTES)
                connection.pragma("auto_vacuum", "full")  # so that what is purged frees the disk
            connection.pragma("journal_mode", "wal")
            connection.pragma("synchronous", "FULL")
            connection.pragma("wal_autocheckpoint", _LOG_PAGES)
            with transaction(connection):
                connection.execute(_SCHEMA)
            self._opened = connection
        return self._opened

    def set_aside_if_damaged(self) -> Path | None:
        """Keep a file under another name that is no database, or whose end is damaged.

        Letters are added at the end. All of a large file would take long to look through.

        Returns:
            The other name, or None.
        """
        try:
            self._connection.execute(_LOOK_AT_THE_END, (_LOOKED_AT,)).fetchall()
        except (apsw.CorruptError, apsw.NotADBError):
            self.close()
            aside = self._path.with_name(f"{FILE}.{time.time_ns()}.damaged")
            for ending in ("-wal", "-shm", ""):
                with suppress(FileNotFoundError):
                    self._path.with_name(FILE + ending).rename(f"{aside}{ending}")
            return aside
        except apsw.Error:
            return None  # it may be readable later
        return None

    def add(self, letters: Iterable[Letter]) -> None:
        """Store letters; on disk on return."""
        rows = [
            (
                letter.stored_at,
                letter.reason,
                json.dumps(dict(letter.failed)),
                letter.record.client,
                letter.record.group,
                letter.record.received_at,
                letter.record.events,
                letter.record.form,
                letter.record.body,
                letter.replay,
            )
            for letter in letters
        ]
        with transaction(self._connection):
            self._connection.executemany(
                "INSERT INTO letters(stored_at, reason, failed, client, conn_group, received_at,"
                " events, form, wire, replay) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

    def size(self) -> int:
        """Bytes on disk, but for some MB in the file's log."""
        pragma = self._connection.pragma
        # In files of the first form free pages stay.
        size = (pragma("page_count") - pragma("freelist_count")) * pragma("page_size")
        assert isinstance(size, int)
        return size

    def count(self) -> tuple[int, int]:
        """How many letters there are, and how many of them are to be sent again."""
        rows = self._connection.execute("SELECT count(*), coalesce(sum(replay), 0) FROM letters")
        letters, replay = next(iter(rows))
        return letters, replay

    def recent_count(self) -> int:
        """How many letters there were lately: counting takes a hundredth of the time at most."""
        began = time.monotonic()
        if began >= self._count_at:
            self._counted, _ = self.count()
            self._count_at = began + _COUNTING_PAUSE * (time.monotonic() - began)
        return self._counted

    def reasons(self) -> list[tuple[str, int]]:
        """How many letters there are for each reason, the most frequent first."""
        return list(
            self._connection.execute(
                "SELECT reason, count(*) FROM letters GROUP BY 1 ORDER BY 2 DESC, 1"
            )
        )

    def all(self, ids: Sequence[int] = ()) -> Iterator[tuple[int, Letter]]:
        """Letters with their numbers, oldest first; those of `ids`, or all."""
        if ids:
            return self._letters(self._connection.execute(_SOME, (json.dumps(ids),)))
        return self._letters(self._connection.execute(_ALL))

    def oldest(self, limit: int) -> list[tuple[int, Letter]]:
        """The oldest letters, at most `limit`."""
        return list(self._letters(self._connection.execute(f"{_ALL} LIMIT ?", (limit,))))

    def to_replay(self, limit: int) -> list[tuple[int, Letter]]:
        """The oldest letters that are to be sent again, at most `limit`."""
        return list(self._letters(self._connection.execute(_TO_REPLAY, (limit,))))

    def mark_for_replay(self, ids: Sequence[int] = ()) -> int:
        """Have letters sent again by the server; those of `ids`, or all. Gives how many."""
        return self._change(_MARK, ids)

    def remove(self, ids: Sequence[int] = ()) -> int:
        """Delete letters; those of `ids`, or all. Gives how many."""
        removed = self._change(_REMOVE, ids)
        # The file is cut when its log is written back; where others use it, that is later.
        with suppress(apsw.Error):
            self._connection.wal_checkpoint()
        return removed

    def close(self) -> None:
        """Close the file."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _change(self, statement: str, ids: Sequence[int]) -> int:
        changed = 0
        for piece in self._pieces(ids):
            with transaction(self._connection):
                self._connection.execute(statement, (json.dumps(piece),))
            changed += self._connection.changes()
        return changed

    def _pieces(self, ids: Sequence[int]) -> Iterator[Sequence[int]]:
        """The numbers given, or all there are now, so many at a time."""
        if ids:
            for start in range(0, len(ids), _PIECE):
                yield ids[start : start + _PIECE]
            return
        [(last,)] = self._connection.execute("SELECT coalesce(max(id), 0) FROM letters")
        after = 0
        while found := [id for (id,) in self._connection.execute(_NEXT, (after, last, _PIECE))]:
            yield found
            after = found[-1]

    @staticmethod
    def _letters(rows: Iterable[Any]) -> Iterator[tuple[int, Letter]]:
        for (
            number,
            stored_at,
            reason,
            failed,
            client,
            group,
            received_at,
            events,
            form,
            body,
            replay,
        ) in rows:
            record = Record(client, group, received_at, events, form, body)
            yield number, Letter(stored_at, reason, json.loads(failed), record, bool(replay))
