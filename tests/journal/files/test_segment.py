"""Tests of raccoon.journal.files.segment."""

from __future__ import annotations

from itertools import pairwise

import apsw
from hypothesis import given
from hypothesis import strategies as st
from twisted.python.monkey import MonkeyPatcher
from twisted.trial.unittest import SynchronousTestCase

from raccoon.journal.files import segment as files
from raccoon.journal.files.record import DamagedError, Record
from raccoon.journal.files.segment import Segment
from tests.journal.fakes import DirectoryCase, make_record, stored

numbers = st.integers(0, (1 << 31) - 1)


class PositionTests(SynchronousTestCase):
    """Positions and runs of them."""

    @given(numbers, numbers)
    def test_round_trip(self, number: int, index: int) -> None:
        """A position holds its segment's number and its index."""
        self.assertEqual((number, index), files.place(files.position(number, index)))

    @given(st.tuples(numbers, numbers), st.tuples(numbers, numbers))
    def test_order(self, one: tuple[int, int], other: tuple[int, int]) -> None:
        """Positions are in the order in which requests were written."""
        self.assertEqual(one < other, files.position(*one) < files.position(*other))

    @given(st.sets(st.integers(0, 60)))
    def test_ranges(self, wanted: set[int]) -> None:
        """Ranges hold the numbers they were made of and no others, in as few as can be."""
        ranges = list(files.ranges(wanted))
        self.assertEqual(sorted(wanted), [n for low, high in ranges for n in range(low, high + 1)])
        for (_, high), (low, _) in pairwise(ranges):
            self.assertGreater(low, high + 1)


class MarkTests(DirectoryCase):
    """What is known to be delivered."""

    @given(st.lists(st.tuples(st.integers(0, 70), st.integers(0, 40)), max_size=6))
    def test_ranges(self, ranges: list[tuple[int, int]]) -> None:
        """Ranges, their requests one by one, and the bit map of either say the same."""
        by_range, one_by_one, by_map = (Segment(self.directory, 1) for _ in range(3))
        wanted = set()
        for low, more in ranges:
            by_range.mark_range(low, low + more)
            for index in range(low, low + more + 1):
                one_by_one.mark(index)
                wanted.add(index)
        by_map.mark_all(bytes(by_range.done))
        for segment in (by_range, one_by_one, by_map):
            self.assertEqual(wanted, {index for index in range(200) if segment.is_done(index)})
            self.assertEqual(len(wanted), segment.delivered)

    def test_waiting(self) -> None:
        """The rest waits."""
        segment = Segment(self.directory, 1)
        segment.total = 20
        segment.mark_range(3, 17)
        self.assertEqual([0, 1, 2, 18, 19], segment.waiting())

    def test_complete(self) -> None:
        """A segment is complete when it is closed and all in it was delivered."""
        segment = Segment(self.directory, 1)
        segment.total = 2
        segment.mark_range(0, 1)
        self.assertFalse(segment.complete)
        segment.closed = True
        self.assertTrue(segment.complete)
        segment.total = 3
        self.assertFalse(segment.complete)


class FileTests(DirectoryCase):
    """One file, from when it is made until it is removed."""

    def make(self, *groups: list[Record]) -> Segment:
        """A segment of some groups that nobody has sealed."""
        segment = Segment(self.directory, 7)
        connection = segment.create()
        first = 0
        for group in groups:
            files.insert(connection, first, stored(group), [])
            first += len(group)
        files.insert(connection, first, [], [(5, 8)])
        connection.execute("INSERT INTO carried VALUES(3, ?)", (b"\x05",))
        connection.close()
        return segment

    def again(self) -> Segment:
        """The same file to a process that knows nothing of it."""
        return Segment(self.directory, 7)

    def records(self, segment: Segment, first: int = 0) -> list[tuple[int, Record]]:
        """All that `read` gives."""
        return [
            (index, record)
            for start, group in segment.read(first)
            for index, record in enumerate(group, start)
        ]

    def test_load(self) -> None:
        """A file that was left as it was is read whole, with what it says, and is sealed."""
        a, b, c = make_record("a"), make_record("b", events=3), make_record("c")
        self.make([a, b], [c])
        segment = self.again()
        said = segment.load()
        self.assertEqual([1, 3, 1], list(segment.events))
        self.assertEqual(([(5, 8)], [(3, b"\x05")]), said)
        self.assertEqual((3, True, True), (segment.total, segment.closed, segment.sealed))
        self.assertEqual(["0000000007.journal", "0000000007.sum"], self.names())
        self.assertEqual([(0, a), (1, b), (2, c)], self.records(segment))

    def test_load_sealed(self) -> None:
        """A sealed file is read the same, time and again."""
        self.make([make_record("a")])
        self.again().load()
        for _ in range(2):
            segment = self.again()
            segment.load()
            self.assertEqual([1], list(segment.events))
            self.assertTrue(segment.sealed)

    def test_read_from(self) -> None:
        """Reading begins with the group that holds the index."""
        a, b, c = (make_record(name) for name in "abc")
        segment = self.make([a, b], [c])
        self.assertEqual([(0, a), (1, b), (2, c)], self.records(segment, 1))
        self.assertEqual([(2, c)], self.records(segment, 2))

    def test_ended_while_made(self) -> None:
        """A file that the process was killed over before anything was in it is an empty one."""
        segment = self.again()
        segment.path.touch()
        self.assertEqual(([], []), segment.load())
        self.assertEqual(0, segment.total)

    def test_ended_before_its_tables(self) -> None:
        """So is one that has a head and no tables."""
        connection = apsw.Connection(str(self.again().path))
        connection.pragma("journal_mode", "wal")
        connection.close()
        self.assertEqual(([], []), self.again().load())

    def test_changed(self) -> None:
        """A sealed file of which one bit is different is damaged."""
        self.make([make_record("a")])
        segment = self.again()
        segment.load()
        changed = bytearray(segment.path.read_bytes())
        changed[-1] ^= 1
        segment.path.write_bytes(changed)
        self.assertRaises(DamagedError, self.again().load)

    def test_changed_checksum(self) -> None:
        """So is one whose checksum is different."""
        self.make([make_record("a")])
        self.again().load()
        sum_path = self.directory / "0000000007.sum"
        sum_path.write_text("0" + sum_path.read_text()[1:] + " ")
        self.assertRaises(DamagedError, self.again().load)

    def test_not_a_database(self) -> None:
        """So is one that is something else, and nothing can be saved of it."""
        segment = self.again()
        segment.path.write_bytes(b"something else" * 10_000)
        segment.measure()
        self.assertRaises(DamagedError, segment.load)
        self.assertEqual([], segment.salvage())

    def test_missing_group(self) -> None:
        """So is an unsealed one of which a group is missing."""
        segment = self.make([make_record("a")], [make_record("b")], [make_record("c")])
        connection = apsw.Connection(str(segment.path))
        connection.execute("DELETE FROM commits WHERE first = 1")
        connection.close()
        self.assertRaises(DamagedError, self.again().load)
        self.assertEqual(["a", "c"], [record.client for _, record in self.again().salvage()])

    def test_salvage_around_a_record(self) -> None:
        """Of a group with a damaged record all others are saved; other groups are whole."""
        group = [make_record(name) for name in "abc"]
        segment = self.make(group, [make_record("d")])
        connection = apsw.Connection(str(segment.path))
        body = bytearray(b"".join(encoded for encoded, _ in stored(group)))
        body[len(stored(group)[0][0]) + 10] ^= 8
        connection.execute("UPDATE commits SET body = ? WHERE first = 0", (bytes(body),))
        connection.close()
        self.assertRaises(DamagedError, self.again().load)
        saved = [(index, record.client) for index, record in self.again().salvage()]
        self.assertEqual([(0, "a"), (2, "c"), (3, "d")], saved)

    def test_no_descriptor(self) -> None:
        """A file that cannot be opened now is not damaged."""
        segment = self.make([make_record("a")])
        patched = self.patch_open(apsw.CantOpenError("unable to open database file"))
        self.assertRaises(apsw.CantOpenError, list, segment.read(0))
        patched.restore()
        self.assertEqual(["a"], [record.client for _, record in self.records(segment)])

    def patch_open(self, error: Exception) -> MonkeyPatcher:
        """Let no connection be opened until `restore` is called."""

        def refuse(*_: object, **__: object) -> None:
            raise error

        patcher = MonkeyPatcher((Segment, "_open", refuse))
        patcher.patch()
        self.addCleanup(patcher.restore)
        return patcher

    def test_set_aside(self) -> None:
        """A damaged file is kept with its log, and its number is not used again."""
        segment = self.make([make_record("a")])
        aside = segment.set_aside()
        self.assertEqual(
            ["0000000007.journal.damaged", "0000000007.journal.damaged-wal"], self.names()
        )
        self.assertEqual("0000000007.journal.damaged", aside.name)
        self.assertEqual([7], files.segment_numbers(self.directory))

    def test_remove(self) -> None:
        """Nothing is left of a segment that is removed, sealed or not."""
        segment = self.make([make_record("a")])
        segment.remove()
        self.assertEqual([], self.names())
        self.make([make_record("a")]).seal()
        self.again().remove()
        self.assertEqual([], self.names())

    def test_foreign_files(self) -> None:
        """Files of other names are no segments."""
        for name in ("lock", "notes.journal", "0000000009.sum", "0000000003.journal.damaged"):
            (self.directory / name).touch()
        self.assertEqual([3], files.segment_numbers(self.directory))
