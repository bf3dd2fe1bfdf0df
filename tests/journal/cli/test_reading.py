"""Tests of raccoon.journal.cli.reading, and of what the journal's files bear beside a reader."""

from __future__ import annotations

import shutil
from pathlib import Path

import apsw
from twisted.trial.unittest import SynchronousTestCase

from raccoon.journal.cli.reading import ReadingError, oldest, parts_of, salvage, waiting
from raccoon.journal.deadletters import Letter
from raccoon.journal.files import segment as files
from raccoon.journal.files.body import MESSAGEPACK, decode_body, encode_body
from raccoon.journal.files.record import Record, encode
from raccoon.journal.files.store import Store, in_use, inspect
from raccoon.messages import Batch

SEGMENT_BYTES = 16 << 20


def make_record(guid: str, received_at: float = 0.0, payload: bytes = b"{}") -> Record:
    """A request of one event."""
    body = encode_body(Batch(guid, None, ["click"], [payload]))
    return Record("client", "group", received_at, 1, MESSAGEPACK, body)


def guid(record: Record) -> str:
    """The req_guid of a record's request."""
    return decode_body(record.form, record.body).guid


class ReadingCase(SynchronousTestCase):
    """A journal that is open, as in a running server."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.damaged: list[Path] = []
        self.store = self.open(self.directory)

    def open(self, directory: Path, segment_bytes: int = SEGMENT_BYTES) -> Store:
        store = Store(directory, segment_bytes, lambda path, *_: self.damaged.append(path))
        store.open()
        store.recover()
        store.carry()
        self.addCleanup(store.close)
        return store

    def write(self, *records: Record) -> list[int]:
        first = self.store.write([(encode(record), record.events) for record in records], ())
        return list(range(first, first + len(records)))

    def deliver(self, *positions: int) -> None:
        self.store.write([], positions)

    def guids(self) -> list[str]:
        return [guid(record) for _, record in waiting(inspect(self.directory))]

    def as_after_a_kill(self) -> Path:
        """The directory as a process that was killed leaves it."""
        left = Path(self.mktemp())
        shutil.copytree(self.directory, left)
        return left

    def sizes(self, directory: Path) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in directory.iterdir()}


class WaitingTests(ReadingCase):
    """What is not delivered yet."""

    def test_delivered_ones_are_left_out(self) -> None:
        """What waits is given oldest first, without what was delivered, in old segments too."""
        first = self.write(make_record("1"), make_record("2"), make_record("3"))
        self.store.reopen()
        second = self.write(make_record("4"), make_record("5"))
        self.deliver(first[1], second[0])
        self.assertEqual(["1", "3", "5"], self.guids())
        names = [name for name, _ in waiting(inspect(self.directory))]
        self.assertEqual(["1:0", "1:2", "2:1"], names)

    def test_deliveries_of_removed_segments_count(self) -> None:
        """A delivery that a removed segment noted is known from the newest one."""
        first = self.write(make_record("1"), make_record("2"))
        self.store.reopen()
        second = self.write(make_record("3"))
        self.deliver(first[0], *second)
        self.store.reopen()
        self.store.tidy()
        self.assertEqual(["1", "3"], [name[:10].lstrip("0") for name in self.segments()])
        self.assertEqual(["2"], self.guids())

    def segments(self) -> list[str]:
        return sorted(path.name for path in self.directory.glob("*.journal"))

    def test_many_groups(self) -> None:
        """Reading goes on behind each part that was read, whatever the groups hold."""
        for number in range(0, 60, 3):
            self.write(*(make_record(str(number + i), payload=b"x" * 100_000) for i in range(3)))
        self.assertEqual([str(number) for number in range(60)], self.guids())

    def test_oldest(self) -> None:
        """The oldest is the first that is not delivered."""
        self.assertIsNone(oldest(inspect(self.directory)))
        positions = self.write(make_record("1", 10.0), make_record("2", 20.0))
        self.assertEqual(10.0, oldest(inspect(self.directory)))
        self.deliver(positions[0])
        self.assertEqual(20.0, oldest(inspect(self.directory)))

    def test_after_a_kill(self) -> None:
        """The files that a killed process left are read, and left as they are."""
        self.write(make_record("1"), make_record("2"))
        left = self.as_after_a_kill()
        before = self.sizes(left)
        self.assertEqual(["1", "2"], [guid(record) for _, record in waiting(inspect(left))])
        self.assertEqual(before, self.sizes(left))
        self.directory, self.store = left, self.open(left)
        self.assertEqual([], self.damaged)
        self.assertEqual(["1", "2"], self.guids())

    def test_vanishing_segment(self) -> None:
        """A segment that goes while it is read was delivered: the rest is read."""
        first = [
            *self.write(make_record("1", payload=b"x" * 2_000_000)),
            *self.write(make_record("2")),
        ]
        self.store.reopen()
        self.write(make_record("3"))
        records = waiting(inspect(self.directory))
        self.assertEqual("1", guid(next(records)[1]))
        self.deliver(*first)
        self.store.tidy()
        self.assertEqual(["3"], [guid(record) for _, record in records])

    def test_unreadable_segment(self) -> None:
        """A segment that cannot be read is named, after the others were read."""
        self.write(make_record("1"))
        self.store.reopen()
        self.write(make_record("2"))
        self.store.tidy()
        path = self.directory / "0000000001.journal"
        path.write_bytes(b"\xff" * path.stat().st_size)
        records = waiting(inspect(self.directory))
        self.assertEqual("2", guid(next(records)[1]))
        with self.assertRaisesRegex(ReadingError, "0000000001.journal: cannot be read"):
            next(records)

    def test_damaged_group(self) -> None:
        """A group whose checksum does not hold is named; other segments are read."""
        self.write(make_record("1", payload=b"y" * 100_000))
        self.store.reopen()
        self.write(make_record("2"))
        self.store.tidy()
        path = self.directory / "0000000001.journal"
        path.write_bytes(path.read_bytes().replace(b"yyyy", b"yyzy", 1))
        records = waiting(inspect(self.directory))
        self.assertEqual("2", guid(next(records)[1]))
        with self.assertRaisesRegex(ReadingError, "checksum"):
            next(records)


class ServerTests(ReadingCase):
    """A reader holds nobody up."""

    def test_segments_are_sealed_beside_a_reader(self) -> None:
        """A reader that stands still keeps no segment from its last form."""
        self.write(*(make_record(str(number)) for number in range(10)))
        self.store.reopen()
        records = waiting(inspect(self.directory))
        next(records)
        self.store.tidy()
        self.assertTrue((self.directory / "0000000001.sum").exists())
        self.assertEqual(9, len(list(records)))

    def test_start_beside_a_reader(self) -> None:
        """A start finds nothing damaged where another process reads what a killed one left."""
        self.patch(files, "_BUSY_MS", 1)
        self.write(make_record("1"))
        left = self.as_after_a_kill()
        reader = apsw.Connection(str(left / "0000000001.journal"), flags=apsw.SQLITE_OPEN_READONLY)
        rows = reader.execute("SELECT body FROM commits")
        next(rows)
        self.directory, self.store = left, self.open(left)
        self.assertEqual([], self.damaged)
        self.assertEqual(["1"], self.guids())
        self.assertFalse((left / "0000000001.sum").exists())
        reader.close(True)
        self.store.tidy()
        self.assertTrue((left / "0000000001.sum").exists())

    def test_unmade_segment(self) -> None:
        """A file that a killed process had only begun to make holds nothing and is no damage."""
        left = Path(self.mktemp())
        left.mkdir()
        (left / "0000000001.journal").touch()
        self.assertEqual([], inspect(left).unreadable)
        self.open(left).tidy()
        self.assertEqual([], self.damaged)
        self.assertFalse((left / "0000000001.journal").exists())

    def test_in_use(self) -> None:
        """A journal is in use while a store has it, whoever asks."""
        self.assertTrue(in_use(self.directory))
        self.assertTrue(in_use(self.directory))
        self.store.close()
        self.assertFalse(in_use(self.directory))
        self.assertEqual(["lock"], list(self.sizes(self.directory)))
        self.assertFalse(in_use(Path(self.mktemp())))

    def test_asking_leaves_no_lock(self) -> None:
        """A start after the question gets its directory."""
        self.store.close()
        in_use(self.directory)
        self.open(self.directory)


class PartTests(ReadingCase):
    """Where journals are."""

    def test_directory(self) -> None:
        """A directory with a segment is a journal, though nothing waits in it."""
        self.assertEqual([("", self.directory)], parts_of(self.directory))

    def test_sub_directories(self) -> None:
        """Sub-directories that are journals are parts, in the order of their names."""
        above = Path(self.mktemp())
        for name in ("worker-1", "worker-0"):
            self.open(above / name)
        (above / "other").mkdir()
        parts = parts_of(above)
        self.assertEqual(["worker-0", "worker-1"], [part.name for part in parts])
        self.assertEqual(["worker-0/7", "7"], [parts[0].label(7), part_label(self.directory)])

    def test_emptied_parts(self) -> None:
        """A part that was adopted holds nothing and is no part; a journal alone may be empty."""
        above = Path(self.mktemp())
        for name in ("worker-0", "worker-1"):
            (above / name).mkdir(parents=True)
            (above / name / "lock").touch()
        self.open(above / "worker-1")
        self.assertEqual(["worker-1"], [part.name for part in parts_of(above)])
        self.assertEqual([""], [part.name for part in parts_of(above / "worker-0")])

    def test_not_a_journal(self) -> None:
        """Anything else is refused in words."""
        empty = Path(self.mktemp())
        empty.mkdir()
        (empty / "file").touch()
        for path, words in (
            (empty, "not a journal"),
            (empty / "file", "not a directory"),
            (empty / "none", "no such directory"),
        ):
            with self.assertRaisesRegex(ReadingError, words):
                parts_of(path)

    def test_letters_are_not_made(self) -> None:
        """Where there are no dead letters, looking makes no file for them."""
        (part,) = parts_of(self.directory)
        with part.letters() as letters:
            self.assertIsNone(letters)
        self.assertFalse((self.directory / "dead-letters.db").exists())


def part_label(directory: Path) -> str:
    """How letter 7 of the journal in a directory of its own is called."""
    (part,) = parts_of(directory)
    return part.label(7)


class SalvageTests(ReadingCase):
    """What a segment's file still gives."""

    def test_file_stays(self) -> None:
        """All requests of an intact file are found, delivered or not; nothing is changed."""
        positions = self.write(make_record("1"), make_record("2"))
        self.deliver(positions[0])
        left = self.as_after_a_kill()
        before = self.sizes(left)
        saved = salvage(left / "0000000001.journal")
        self.assertEqual([(0, "1"), (1, "2")], [(index, guid(record)) for index, record in saved])
        self.assertEqual(before, self.sizes(left))

    def test_damage(self) -> None:
        """A group whose checksum does not hold is left out."""
        self.write(make_record("1", payload=b"y" * 1000))
        self.write(make_record("2"))
        self.store.reopen()
        self.store.tidy()
        path = self.directory / "0000000001.journal"
        path.write_bytes(path.read_bytes().replace(b"yyyy", b"yyzy", 1))
        self.assertEqual(["2"], [guid(record) for _, record in salvage(path)])

    def test_nothing(self) -> None:
        """A file of which nothing can be read is refused."""
        path = self.directory / "noise"
        path.write_bytes(b"noise" * 1000)
        with self.assertRaisesRegex(ReadingError, "no request could be read"):
            salvage(path)


class LetterTests(SynchronousTestCase):
    """Which events of a dead letter were not delivered."""

    def test_by_type(self) -> None:
        """Those of the types that failed."""
        letter = Letter(0.0, "why", {"click": 1}, make_record("1"))
        self.assertEqual([True, False], [letter.includes("click"), letter.includes("page")])

    def test_unreadable_request(self) -> None:
        """All, where the request could not be read, and its types were not known."""
        self.assertTrue(Letter(0.0, "why", {"": 3}, make_record("1")).includes("click"))
