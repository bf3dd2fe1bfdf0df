"""What is read of damaged files of the journal."""

from __future__ import annotations

import errno
import shutil
import struct
from pathlib import Path
from typing import Any

import apsw

from raccoon.journal.files import segment as files
from raccoon.journal.files.record import DamagedError, Record
from raccoon.journal.files.salvage import commits_in
from raccoon.journal.files.segment import LogDamagedError, Segment
from tests.integration.torture import long_or_short
from tests.journal.fakes import DirectoryCase, make_record, stored

PAGE = 8192
FRAME = 24 + PAGE


class LogCase(DirectoryCase):
    """A file of commits that were not sealed, and its log."""

    def make(self, commits: int = 12, requests: int = 1, size: int = 5000) -> list[Record]:
        """Write so many commits of so many requests; gives those."""
        records = [make_record(f"{number:03d}", size) for number in range(commits * requests)]
        segment = Segment(self.directory, 7)
        connection = segment.create()
        for first in range(0, len(records), requests):
            group = stored(records[first : first + requests])
            files.insert(connection, first, group, [])
        connection.close()
        self.log = segment.path.with_name(segment.path.name + "-wal")
        self.whole = self.log.read_bytes()
        return records

    def again(self) -> Segment:
        """The file to a process that knows nothing of it."""
        return Segment(self.directory, 7)

    def change(self, at: int, *to: int) -> None:
        """Have these bytes in the log at a place that counts from its end where it is negative."""
        content = bytearray(self.whole)
        at %= len(content)
        content[at : at + len(to)] = bytes(to)
        self.log.write_bytes(content)

    def flip(self, at: int) -> None:
        """Flip a bit of the log."""
        self.change(at, self.whole[at] ^ 4)

    def frames(self) -> list[tuple[int, int]]:
        """Of each frame in the log its place and the number of its page."""
        places = range(32, len(self.whole), FRAME)
        return [(at, struct.unpack_from(">I", self.whole, at)[0]) for at in places]

    def saved(self) -> list[int]:
        """The requests that are saved, by their bytes."""
        saved = self.again().salvage()
        self.assertEqual([], [name for name in self.names() if "copy" in name])
        return sorted(int(record.client) for _, record in saved)


class LogTests(LogCase):
    """Damage in the log."""

    def test_past_the_damage(self) -> None:
        """All is saved but what was where the damage is."""
        records = self.make()
        at, _ = self.frames()[6]
        self.change(at + 24, *bytes(PAGE))
        self.assertRaises(LogDamagedError, self.again().load)
        saved = self.again().salvage()
        self.assertIn(len(saved), range(9, 12))
        self.assertEqual([(index, records[index]) for index, _ in saved], saved)
        self.assertEqual("011", saved[-1][1].client)

    def test_bit_in_each_page(self) -> None:
        """Whichever page of the file it is in, one bit costs a request, or some rows of a page."""
        self.check_flips(24 + 104)

    def test_bit_in_each_number_of_a_page(self) -> None:
        """Likewise where it is not known which page it is."""
        self.check_flips(3)

    def check_flips(self, offset: int) -> None:
        """Flip a bit at this place of each frame in turn."""
        self.make(60, 2, 1500)
        lost = []
        for at, _ in list(self.frames())[:: long_or_short(1, 7)]:
            self.flip(at + offset)
            lost.append(120 - len(self.saved()))
        self.assertLessEqual(max(lost), 8)
        self.assertLess(sum(lost), len(lost))

    def test_bit_in_each_checksum(self) -> None:
        """A checksum that is damaged costs nothing."""
        self.make()
        for at, _ in self.frames():
            self.flip(at + 20)
            self.assertEqual([*range(12)], self.saved())

    def test_head_of_the_log(self) -> None:
        """A log with a damaged head has all that it had."""
        self.make()
        for at in range(32):
            self.flip(at)
            self.assertEqual([*range(12)], self.saved(), at)

    def test_ends_within_a_commit(self) -> None:
        """What was written of a commit that was not finished is passed over."""
        self.make()
        at, _ = self.frames()[6]
        self.flip(at + 24 + 1000)
        self.log.write_bytes(self.log.read_bytes()[:-FRAME])
        saved = self.saved()
        self.assertEqual(10, saved[-1])
        self.assertIn(len(saved), (10, 11))

    def test_last_commit_not_finished(self) -> None:
        """A last commit of which nothing is left was not finished."""
        self.make()
        content = bytearray(self.whole)
        for at, _ in self.frames()[-2:]:
            content[at + 24 : at + FRAME] = bytes(PAGE)
        self.log.write_bytes(content)
        segment = self.again()
        segment.load()
        self.assertEqual(11, segment.total)

    def test_last_commit_is_there(self) -> None:
        """Of one that SQLite does not read what is there is kept: it may have been finished."""
        records = self.make(4, 3)
        self.flip(self.whole.rindex(b"010" * 100))
        for segment in (self.again(), self.again()):
            segment.load()
            self.assertEqual((11, True), (segment.total, segment.sealed))
            read = [record for _, group in segment.read(0) for record in group]
            self.assertEqual(records[:10] + records[11:], read)

    def test_ends_within_a_page(self) -> None:
        """Wherever a full disk cut the last commit off, what was before is read."""
        totals = set()
        for size in (3000, 5000, 20_000):
            records = self.make(5, 3, size)
            before = 32 + FRAME * commits_in(self.log)[-2]
            for end in range(before, len(self.whole), long_or_short(1000, 3000)):
                self.again().remove()
                self.make(5, 3, size)
                self.log.write_bytes(self.whole[:end])
                segment = self.again()
                segment.load()
                read = [record for _, group in segment.read(0) for record in group]
                self.assertEqual(records[: segment.total], read)
                totals.add(segment.total)
            self.again().remove()
        self.assertEqual({12, 13, 14}, totals)

    def test_last_commit_on_a_full_disk(self) -> None:
        """Where it cannot be written again the file is not sealed: it is looked at later."""
        self.make(4, 3)
        self.flip(self.whole.rindex(b"010" * 100))

        def full(*_: object) -> None:
            raise apsw.FullError("database or disk is full")

        insert = files.insert
        self.patch(files, "insert", full)
        with self.assertRaises(apsw.FullError):
            self.again().load()
        self.patch(files, "insert", insert)
        segment = self.again()
        segment.load()
        self.assertEqual(11, segment.total)

    def test_file_of_the_log_is_empty(self) -> None:
        """All is in the log, which stays there when somebody looks."""
        self.make()
        path = self.again().path
        path.write_bytes(b"")
        self.assertRaises(DamagedError, self.again().look)
        self.assertRaises(DamagedError, self.again().load)
        self.assertEqual([*range(12)], self.saved())

    def test_first_that_is_damaged(self) -> None:
        """A request whose index does not fit its neighbours' has none that could be delivered."""
        self.make(5)
        connection = self.again()._open(6)
        connection.execute("UPDATE commits SET first = 0 WHERE first = 3")
        connection.close(True)
        saved = self.again().salvage()
        self.assertEqual([0, 1, 2], [index for index, _ in saved[:3]])
        self.assertEqual(["003", "004"], [record.client for _, record in saved[3:]])
        self.assertGreater(saved[3][0], 1 << 30)


class FileTests(LogCase):
    """Damage in a file without a log."""

    def test_ends_within_a_page(self) -> None:
        """Wherever it was cut off it is damaged, and all before is saved."""
        self.make(6, 1, 20_000)
        segment = self.again()
        segment.load()
        whole = segment.path.read_bytes()
        for end in range(len(whole) - 2 * PAGE, len(whole), long_or_short(1000, 5000)):
            segment.path.write_bytes(whole[:end])
            self.assertRaises(DamagedError, self.again().load)
            self.assertRaises(DamagedError, list, segment.read(0))
            self.assertEqual([*range(5)], self.saved(), end)


class RoomTests(LogCase):
    """The copy that is looked through."""

    def refuse(self, *directories: Path) -> None:
        """Let no file be copied into these directories; into none, where none is given."""
        copyfile: Any = shutil.copyfile

        def full(source: Path, target: Path) -> None:
            if not directories or target.parent in directories:
                raise OSError(errno.ENOSPC, "No space left on device")
            copyfile(source, target)

        self.patch(shutil, "copyfile", full)

    def test_elsewhere(self) -> None:
        """Where there is no room beside the file it is made among temporary files."""
        self.make()
        self.flip(self.frames()[6][0] + 100)
        self.refuse(self.directory)
        self.assertIn(len(self.saved()), (11, 12))

    def test_nowhere(self) -> None:
        """Without any room the file cannot be read now, and stays as it is."""
        self.make()
        self.flip(-100)
        self.refuse()
        with self.assertRaises(OSError):
            self.again().load()
        self.assertEqual(len(self.whole), self.log.stat().st_size)

    def test_left_by_a_kill(self) -> None:
        """One that is there is overwritten, and removed with its segment."""
        self.make()
        left = self.directory / "0000000007.copy"
        left.touch()
        self.assertEqual(12, len(self.saved()))
        left.touch()
        self.again().remove()
        self.assertEqual([], self.names())
