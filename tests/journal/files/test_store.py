"""Tests of raccoon.journal.files.store."""

from __future__ import annotations

import random
import re

import apsw
from twisted.python.monkey import MonkeyPatcher

from raccoon.journal.files import segment as files
from raccoon.journal.files import store as stores
from raccoon.journal.files.record import Record
from raccoon.journal.files.segment import Segment
from raccoon.journal.files.store import InUseError, JournalError, Recovered, Store, inspect
from tests.integration.torture import long_or_short
from tests.journal.fakes import StoreCase, make_record, stored

FLIPS = long_or_short(100, 10)


class WriteTests(StoreCase):
    """What is written is there, and in order."""

    def test_positions(self) -> None:
        """Requests of one segment follow each other."""
        store = self.open()
        first = store.write(stored([make_record("a"), make_record("b")]), [])
        self.assertEqual(files.position(1, 0), first)
        self.assertEqual(first + 2, store.write(stored([make_record("c")]), []))

    def test_delivered_alone(self) -> None:
        """Deliveries are noted without a request beside them."""
        store = self.open()
        first = store.write(stored([make_record("a"), make_record("b")]), [])
        store.write([], [first])
        self.assertEqual(["b"], [record.client for record in self.waiting(store)])
        self.crash(store)
        store = self.open()
        self.assertEqual(Recovered(1, 1, first + 1), store.recover())

    def test_segments(self) -> None:
        """A segment that has its size is followed by another."""
        store = self.open()
        for name in "abc":
            store.write(stored([make_record(name, 600_000)]), [])
        self.assertEqual(
            [1, 2], sorted({int(name[:10]) for name in self.names() if name.endswith(".journal")})
        )
        self.assertEqual(["a", "b", "c"], [record.client for record in self.waiting(store)])

    def test_delivered_segments_go(self) -> None:
        """The disk is given back of closed segments in which all was delivered."""
        store = self.open()
        places = [store.write(stored([make_record(name, 1_100_000)]), []) for name in "abc"]
        before = store.size
        store.write([], places[:2])
        store.tidy()
        self.assertEqual(
            ["0000000003.journal", "0000000004.journal"],
            [name for name in self.names() if name.endswith(".journal")],
        )
        self.assertLess(store.size, before / 2)
        self.assertEqual(["c"], [record.client for record in self.waiting(store)])

    def test_close(self) -> None:
        """Nothing is left of a journal from which all was delivered but its lock."""
        store = self.open()
        place = store.write(stored([make_record("a")]), [])
        store.write([], [place])
        store.close()
        self.assertEqual([], self.names())


class ReadTests(StoreCase):
    """The oldest requests that wait."""

    def fill(self, store: Store, names: str) -> list[int]:
        """Write requests one by one; gives their positions."""
        return [store.write(stored([make_record(name, 400_000)]), []) for name in names]

    def test_pages(self) -> None:
        """Reading goes on where it stopped, and tells where all was read."""
        store = self.open()
        places = self.fill(store, "abcdefg")
        read, cursor = [], -1
        while cursor < places[-1]:
            found, cursor = store.read(cursor, places[-1], frozenset(), 2, 1 << 30)
            self.assertLessEqual(len(found), 2)
            read += [record.client for _, record in found]
        self.assertEqual(list("abcdefg"), read)

    def test_by_bytes(self) -> None:
        """So many bytes are read at a time, but for the last request of them."""
        store = self.open()
        places = self.fill(store, "abcdefg")
        found, cursor = store.read(-1, places[-1], frozenset(), 100, 500_000)
        self.assertEqual(["a", "b"], [record.client for _, record in found])
        self.assertEqual(places[1], cursor)

    def test_upto(self) -> None:
        """What was written after the position given is not read."""
        store = self.open()
        places = self.fill(store, "abcdefg")
        found, cursor = store.read(-1, places[4], frozenset(), 100, 1 << 30)
        self.assertEqual(places[:5], [position for position, _ in found])
        self.assertEqual(places[4], cursor)

    def test_delivered_and_skipped(self) -> None:
        """What was delivered or is on its way is passed over."""
        store = self.open()
        places = self.fill(store, "abcdefg")
        store.mark([places[0], places[3]])
        found, _ = store.read(-1, places[-1], {places[1], places[6]}, 100, 1 << 30)
        self.assertEqual(["c", "e", "f"], [record.client for _, record in found])

    def test_commits(self) -> None:
        """A read ends with a commit, and begins and ends within one where it is told to."""
        store = self.open()
        first = store.write(stored([make_record(name) for name in "abc"]), [])
        store.write(stored([make_record(name) for name in "def"]), [])

        def read(after: int, upto: int, skip: frozenset[int], requests: int) -> tuple[str, int]:
            found, cursor = store.read(after, upto, skip, requests, 1 << 30)
            return "".join(record.client for _, record in found), cursor - first

        self.assertEqual(("abc", 2), read(-1, first + 5, frozenset(), 1))
        self.assertEqual(("bc", 2), read(first, first + 5, frozenset(), 2))
        self.assertEqual(("bcd", 3), read(first, first + 3, frozenset(), 9))
        self.assertEqual(("acdef", 5), read(-1, first + 5, frozenset([first + 1]), 3))
        store.mark([first, first + 2])
        self.assertEqual(("bdef", 5), read(-1, first + 5, frozenset(), 2))

    def test_no_descriptor(self) -> None:
        """A segment that cannot be opened now is passed over, and read later."""
        store = self.open()
        self.fill(store, "abcdefg")

        def refuse(*_: object, **__: object) -> None:
            raise apsw.CantOpenError("unable to open database file")

        self.patch(stores, "_FIRST_REST", 0)
        patcher = MonkeyPatcher((Segment, "_open", refuse))
        patcher.patch()
        self.assertEqual([], self.waiting(store))
        patcher.restore()
        self.assertEqual(list("abcdefg"), [record.client for record in self.waiting(store)])
        self.assertEqual([], self.damage)

    def test_no_descriptor_at_the_start(self) -> None:
        """A segment that cannot be read at the start is read later, and none is removed before."""
        store = self.open()
        places = self.fill(store, "abcdefg")
        store.write([], places[:1])
        self.crash(store)
        store = self.open()

        def refuse(*_: object, **__: object) -> None:
            raise apsw.CantOpenError("unable to open database file")

        patcher = MonkeyPatcher((Segment, "look", refuse))
        patcher.patch()
        self.assertEqual(0, store.recover().requests)
        self.assertTrue(store.unread)
        store.carry()
        store.tidy()
        patcher.restore()
        self.assertEqual(6, store.recover().requests)
        self.assertFalse(store.unread)
        self.assertEqual(list("bcdefg"), [record.client for record in self.waiting(store)])


class FailureTests(StoreCase):
    """The disk does not take what is written."""

    def break_disk(self, store: Store) -> None:
        """Have the next write fail."""
        assert store._connection is not None
        store._connection.close(True)
        self.assertRaises(JournalError, store.write, stored([make_record("lost")]), [])

    def test_write_fails(self) -> None:
        """After a failed write nothing is taken until a new segment is begun."""
        store = self.open()
        place = store.write(stored([make_record("a")]), [])
        self.break_disk(store)
        self.assertRaises(JournalError, store.write, stored([make_record("b")]), [])
        store.reopen()
        self.assertEqual(files.position(2, 0), store.write(stored([make_record("c")]), [place]))
        self.assertEqual(["c"], [record.client for record in self.waiting(store)])

    def test_delivered_meanwhile(self) -> None:
        """A delivery that could not be noted is noted with the next segment."""
        store = self.open()
        place = store.write(stored([make_record("a"), make_record("b")]), [])
        assert store._connection is not None
        store._connection.close(True)
        self.assertRaises(JournalError, store.write, [], [place])
        store.reopen()
        self.crash(store)
        store = self.open()
        store.recover()
        self.assertEqual(["b"], [record.client for record in self.waiting(store)])

    def test_in_doubt(self) -> None:
        """What a failed commit left in the file is not read in this run, and hides nothing."""
        store = self.open()
        store.write(stored([make_record("a")]), [])
        segment, connection = store._active, store._connection
        assert segment is not None
        assert connection is not None
        files.insert(connection, segment.total, stored([make_record("doubtful")]), [])
        self.break_disk(store)
        store.reopen()
        place = store.write(stored([make_record("b")]), [])
        found, _ = store.read(-1, place, frozenset(), 100, 1 << 30)
        self.assertEqual(["a", "b"], [record.client for _, record in found])
        store.tidy()
        self.assertEqual(["a", "b"], [record.client for record in self.waiting(store)])

    def test_no_directory(self) -> None:
        """A directory that cannot be made is told by its name."""
        (self.directory / "file").touch()
        store = Store(self.directory / "file" / "journal", 1 << 20, lambda *what: None)
        self.assertRaisesRegex(JournalError, str(self.directory), store.open)

    def test_in_use(self) -> None:
        """A directory has one owner at a time."""
        store = self.open()
        other = Store(self.directory, 1 << 20, lambda *what: None)
        self.assertRaisesRegex(InUseError, str(self.directory), other.open)
        store.close()
        other.open()
        other.close()


class RecoverTests(StoreCase):
    """What a start finds."""

    def test_nothing(self) -> None:
        """An empty directory holds nothing."""
        self.assertEqual(Recovered(0, 0, -1), self.open().recover())

    def test_killed(self) -> None:
        """What was written and not delivered waits, in its order, with its events counted."""
        store = self.open()
        written = [make_record(f"{n}", 300_000, events=n) for n in range(1, 10)]
        places = [store.write(stored([record]), []) for record in written]
        store.write([], places[1:3])
        self.crash(store)
        store = self.open()
        recovered = store.recover()
        left = [written[0], *written[3:]]
        self.assertEqual((7, sum(record.events for record in left)), recovered[:2])
        self.assertEqual(places[-1], recovered.last)
        self.assertEqual(left, self.waiting(store))

    def test_closed(self) -> None:
        """So it does after an orderly end, and after several."""
        written = []
        for name in "abc":
            store = self.open()
            store.recover()
            written.append(make_record(name))
            store.write(stored(written[-1:]), [])
            store.close()
        store = self.open()
        self.assertEqual(3, store.recover().requests)
        self.assertEqual(written, self.waiting(store))

    def test_newest_holds_all(self) -> None:
        """What was delivered of an old segment is known when those that noted it are gone."""
        store = self.open()
        old = [make_record(f"old{n}", 150_000) for n in range(8)]
        first = store.write(stored(old), [])
        for n in range(8):
            place = store.write(stored([make_record("between", 1_100_000)]), [first + n])
            if n < 6:
                store.write([], [place])
            store.tidy()
        self.crash(store)
        store = self.open()
        store.recover()
        self.assertEqual(["between"] * 2, [record.client for record in self.waiting(store)])

    def test_carried(self) -> None:
        """So it is after a start: the new segment is told of all older ones."""
        store = self.open()
        first = store.write(stored([make_record("a"), make_record("b", 1_100_000)]), [])
        middle = store.write(stored([make_record("c", 1_100_000)]), [first])
        store.write([], [middle])
        self.crash(store)
        store = self.open()
        store.recover()
        store.carry()
        store.tidy()  # removes the one that noted the delivery of "a"
        self.crash(store)
        self.assertNotIn("0000000002.journal", self.names())
        store = self.open()
        store.recover()
        self.assertEqual(["b"], [record.client for record in self.waiting(store)])

    def test_closed_before_it_is_carried(self) -> None:
        """A start that ends before the new segment was told leaves those that know."""
        store = self.open()
        first = store.write(stored([make_record("a"), make_record("b", 1_100_000)]), [])
        middle = store.write(stored([make_record("c", 1_100_000)]), [first])
        store.write([], [middle])
        self.crash(store)
        for _ in range(3):
            store = self.open()
            store.recover()
            self.assertEqual(["b"], [record.client for record in self.waiting(store)])
            store.close()

    def test_remains(self) -> None:
        """What a kill left of a segment that was being removed goes, and no other file."""
        for suffix in ("sum", "tmp", "journal-wal", "journal-shm", "journal-journal"):
            (self.directory / f"0000000007.{suffix}").write_text("of a removed segment")
        others = ["0000000003.journal.damaged", "0000000003.journal.damaged-wal", "notes.sum"]
        for name in others:
            (self.directory / name).touch()
        store = self.open()
        store.write(stored([make_record("a")]), [])
        self.crash(store)
        self.assertEqual(others[:2], [name for name in self.names() if name[:10] == "0000000003"])
        self.assertEqual(others[2:], [name for name in self.names() if name.startswith("notes")])
        self.assertEqual([], [name for name in self.names() if name[:10] == "0000000007"])

    def test_newest_is_delivered(self) -> None:
        """The newest segment stays while there are others: it alone knows what of them is done."""
        store = self.open()
        place = store.write(stored([make_record("a"), make_record("b")]), [])
        store.close()
        store = self.open()
        store.recover()
        store.write([], [place])
        store.close()
        store = self.open()
        store.recover()
        self.assertEqual(["b"], [record.client for record in self.waiting(store)])

    def test_rotated_before_recovered(self) -> None:
        """A segment that is begun before the old ones were read costs nothing of what is known."""
        store = self.open()
        first = store.write(stored([make_record("a"), make_record("b")]), [])
        store.write([], [first])
        self.crash(store)
        store = self.open()
        for _ in range(2):
            store.write(stored([make_record("new", 1_100_000)]), [])
        store.recover()
        store.carry()
        store.tidy()
        self.crash(store)
        store = self.open()
        store.recover()
        self.assertEqual(["b", "new", "new"], [record.client for record in self.waiting(store)])

    def test_random_runs(self) -> None:
        """Whatever is written, delivered, closed and killed: what waits is what is left."""
        source = random.Random(1)
        left: dict[int, Record] = {}
        for _ in range(30):
            store = self.open(100_000)
            self.assertEqual(len(left), store.recover().requests)
            store.carry()
            for _ in range(source.randrange(12)):
                names = [f"{source.random()}" for _ in range(source.randrange(4))]
                group = [make_record(name, source.randrange(30_000)) for name in names]
                done = [place for place in left if source.random() < 0.3]
                first = store.write(stored(group), done)
                for place in done:
                    del left[place]
                left.update(enumerate(group, first))
                if source.random() < 0.3:
                    store.tidy()
            self.assertEqual(list(left.values()), self.waiting(store))
            if source.random() < 0.5:
                store.close()
            else:
                self.crash(store)
        self.assertEqual([], self.damage)


class DamageTests(StoreCase):
    """Bits that are not what was written."""

    def test_bit_flips(self) -> None:
        """Each is found, costs at most its segment, and what can be read of that is saved."""
        self.assertIn(f"{FLIPS} bit flips", check_bit_flips(self, FLIPS))

    def test_bit_flips_in_the_log(self) -> None:
        """In the log of a file that was being written each costs its own request.

        It is found but in the last commit, which may not have been finished.
        """
        source = random.Random(2)
        store = self.open()
        written = [make_record(f"{number}", 4000) for number in range(12)]
        for record in written:
            store.write(stored([record]), [])
        self.crash(store)
        [log] = self.directory.glob("*.journal-wal")
        whole = {path: path.read_bytes() for path in self.directory.glob("0*")}
        for _ in range(60):
            bit = source.randrange(len(whole[log]) * 8)
            flipped = bytearray(whole[log])
            flipped[bit >> 3] ^= 1 << (bit & 7)
            log.write_bytes(flipped)
            self.damage.clear()
            store = self.open()
            store.recover()
            left = self.waiting(store)
            if left:
                self.assertIn(left, (written, written[:-1]))
            else:
                [(_, _, saved)] = self.damage
                left = [record for _, record in saved]
            self.assertLessEqual(len(written) - 1, len(left), f"bit {bit}")
            self.assertEqual([record for record in written if record in left], left)
            self.crash(store)
            self.restore(whole)

    def test_any_damage(self) -> None:
        """However a file is damaged: the start goes well, and what other files hold is there."""
        source = random.Random(3)
        store = self.open(100_000)
        written: dict[int, Record] = {}
        for number in range(24):
            group = [make_record(f"{number}-{n}", source.randrange(9000)) for n in range(4)]
            written.update(enumerate(group, store.write(stored(group), [])))
            if number == 12:
                store.tidy()
        self.crash(store)
        whole = {path: path.read_bytes() for path in self.directory.glob("0*")}
        for _ in range(long_or_short(100, 12)):
            target = source.choice([path for path in whole if whole[path]])
            way = source.choice(DAMAGES)
            content = bytearray(whole[target])
            way(source, content)
            target.write_bytes(content)
            context = f"{way.__name__} of {target.name}"
            inspect(self.directory)
            self.damage.clear()
            store = self.open()
            store.recover()
            self.assertFalse(store.unread, context)
            new = make_record("new")
            store.write(stored([new]), [])
            saved = {record for _, _, found in self.damage for _, record in found}
            there = saved.union(self.waiting(store))
            self.assertLessEqual(there, {*written.values(), new}, context)
            elsewhere = {
                record
                for place, record in written.items()
                if files.place(place)[0] != int(target.name[:10])
            }
            self.assertLessEqual({*elsewhere, new}, there, context)
            self.crash(store)
            self.restore(whole)

    def test_log_that_notes_deliveries(self) -> None:
        """What a damaged log still says of deliveries is known of other segments."""
        store = self.open()
        old = [make_record(f"old{number}", 1_100_000 // 8) for number in range(8)]
        first = store.write(stored(old), [])
        for number in range(7):
            store.write(stored([make_record(f"{number}", 40_000)]), [first + number])
        self.crash(store)
        [log] = self.directory.glob("0000000002.journal-wal")
        content = bytearray(log.read_bytes())
        content[-100_000] ^= 1  # in the last but one or two
        log.write_bytes(content)
        store = self.open()
        store.recover()
        [(_, why, saved)] = self.damage
        self.assertIn("log", why)
        self.assertIn(len(saved), range(6, 8))
        # One was not delivered; of others that is said behind the damage.
        self.assertIn(len(self.waiting(store)), range(2, 5))

    def test_no_room_to_save(self) -> None:
        """A damaged segment that cannot be looked through now is looked through later."""
        store = self.open()
        for name in "abcd":
            store.write(stored([make_record(name, 20_000)]), [])
        self.crash(store)
        [log] = self.directory.glob("*.journal-wal")
        content = bytearray(log.read_bytes())
        content[-50_000] ^= 1
        log.write_bytes(content)
        store = self.open()
        salvage = Segment.salvage

        def full(_: Segment) -> list[tuple[int, Record]]:
            raise OSError(28, "No space left on device")

        self.patch(Segment, "salvage", full)
        store.recover()
        self.assertTrue(store.unread)
        self.assertEqual([], self.damage)
        self.patch(Segment, "salvage", salvage)
        store.recover()
        self.assertFalse(store.unread)
        [(_, _, saved)] = self.damage
        self.assertEqual(3, len(saved))

    def test_no_room_to_check_a_log(self) -> None:
        """A log is read where there is no room to write it back."""
        store = self.open()
        store.write(stored([make_record("a")]), [])
        self.crash(store)

        def full(*_: object, **__: object) -> None:
            raise apsw.FullError("database or disk is full")

        self.patch(Segment, "seal", full)
        size = (self.directory / "0000000001.journal").stat().st_size
        store = self.open()
        self.assertEqual(1, store.recover().requests)
        self.assertEqual(size, (self.directory / "0000000001.journal").stat().st_size)

    def test_while_running(self) -> None:
        """A segment that is found damaged while it is read is set aside; the others are read."""
        store = self.open()
        for name in "abc":
            store.write(stored([make_record(name, 1_100_000)]), [])
        store.tidy()
        path = self.directory / "0000000001.journal"
        path.write_bytes(b"\0" * path.stat().st_size)
        self.assertEqual(["b", "c"], [record.client for record in self.waiting(store)])
        [(segment, _, saved)] = self.damage
        self.assertEqual((path, []), (segment.path, saved))
        self.assertEqual(["b", "c"], [record.client for record in self.waiting(store)])
        segment.set_aside()
        self.assertIn("0000000001.journal.damaged", self.names())

    def test_read_to_the_middle(self) -> None:
        """What was read before the damage shows is among what is saved, and there only."""
        store = self.open()
        first = store.write(stored([make_record("a", 400_000)]), [])
        store.write(stored([make_record("b", 400_000)]), [])
        store.write(stored([make_record("c", 400_000)]), [])
        store.write(stored([make_record("d", 400_000)]), [])
        store.tidy()
        path = self.directory / "0000000001.journal"
        damaged = bytearray(path.read_bytes())
        runs = [run.span() for run in re.finditer(rb"b{1000,}", bytes(damaged))]
        low, high = runs[len(runs) // 2]
        damaged[(low + high) // 2] ^= 1
        path.write_bytes(damaged)
        self.assertEqual(["d"], [record.client for record in self.waiting(store)])
        [(segment, _, saved)] = self.damage
        self.assertEqual(["a", "c"], [record.client for _, record in saved])
        store.mark([first])
        self.assertTrue(segment.is_done(0))
        self.assertFalse(store.has(first))

    def test_killed_before_it_is_set_aside(self) -> None:
        """A damaged segment stays until it is set aside: the next start saves it again."""
        store = self.open()
        for name in "abcd":
            store.write(stored([make_record(name, 600_000)]), [])
        store.close()
        path = self.directory / "0000000001.journal"
        damaged = bytearray(path.read_bytes())
        damaged[damaged.index(b"a" * 1000, 100_000)] ^= 1
        path.write_bytes(damaged)
        for _ in range(2):
            self.damage.clear()
            store = self.open()
            store.recover()
            [(_, _, saved)] = self.damage
            self.assertEqual(["b"], [record.client for _, record in saved])
            self.crash(store)


def flip(source: random.Random, content: bytearray) -> None:
    """Another bit."""
    content[source.randrange(len(content))] ^= 1 << source.randrange(8)


def cut(source: random.Random, content: bytearray) -> None:
    """An end that is not there, or nothing at all."""
    del content[source.choice((0, source.randrange(len(content)))) :]


def overwrite(source: random.Random, content: bytearray) -> None:
    """Zeros, or other bytes, somewhere or behind the end."""
    at = source.choice((source.randrange(len(content)), len(content)))
    size = source.choice((1, 100, 8192, 30_000))
    content[at : at + size] = source.choice((bytes, source.randbytes))(size)


def swap(source: random.Random, content: bytearray) -> None:
    """A page in another's place."""
    pages = max(len(content) // 8192, 1)
    one, other = (8192 * source.randrange(pages) for _ in range(2))
    content[one : one + 8192] = content[other : other + 8192]


DAMAGES = (flip, cut, overwrite, swap)


def check_bit_flips(case: StoreCase, count: int, seed: int = 0) -> str:
    """Flip bits in closed segments, one at a time, and start each time; gives what was seen."""
    source = random.Random(seed)
    store = case.open(200_000)
    written: dict[int, Record] = {}
    for number in range(60):
        group = [make_record(f"{number}-{n}", 4000) for n in range(4)]
        written.update(enumerate(group, store.write(stored(group), [])))
    places = [place for place in written if source.random() < 0.3]
    store.write([], places)
    store.close()
    delivered = {written.pop(place) for place in places}
    whole = {
        path: path.read_bytes()
        for path in sorted(case.directory.iterdir())
        if path.suffix in (".journal", ".sum")
    }
    could = did = 0
    for _ in range(count):
        target = source.choices(list(whole), [len(text) for text in whole.values()])[0]
        flipped = bytearray(whole[target])
        bit = source.randrange(len(flipped) * 8)
        flipped[bit >> 3] ^= 1 << (bit & 7)
        target.write_bytes(flipped)
        number = int(target.name[:10])
        own = {record for place, record in written.items() if files.place(place)[0] == number}
        case.damage.clear()
        store = case.open(200_000)
        store.recover()
        case.assertEqual(1, len(case.damage), f"bit {bit} of {target.name} was not found")
        saved, waiting = {record for _, record in case.damage[0][2]}, set(case.waiting(store))
        # Of deliveries that the damaged file alone noted nothing is known: those come twice.
        case.assertEqual(set(), set(written.values()) - own - waiting, "not the damaged one's")
        case.assertEqual(set(), (saved | waiting) - set(written.values()) - delivered, "not ours")
        could += len(own)
        did += len(saved & own)
        case.crash(store)
        case.restore(whole)
    return f"{count} bit flips: {did} of {could} requests of the damaged segments were saved"
