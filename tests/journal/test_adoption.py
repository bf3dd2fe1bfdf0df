"""Tests of raccoon.journal.adoption, and of the service that adopts."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from raccoon.journal.adoption import Adoption, left_parts, part_of
from raccoon.journal.deadletters import DeadLetters, Letter
from raccoon.journal.files.store import InUseError, Store
from tests.fakes import logged
from tests.journal.fakes import SEGMENT_BYTES, StoreCase, make_record, stored
from tests.journal.rig import JournalCase


def fill(directory: Path, *names: str) -> None:
    """Leave a journal with requests of these names."""
    store = Store(directory, SEGMENT_BYTES, lambda *what: None)
    store.open()
    store.write(stored([make_record(name) for name in names]), [])
    store.close()


def bury(directory: Path, *names: str) -> None:
    """Leave dead letters of these names."""
    letters = DeadLetters(directory)
    letters.add([Letter(1.0, "why", {"click": 1}, make_record(name)) for name in names])
    letters.close()


class PartTests(StoreCase):
    """Whose directory is whose."""

    def test_own_part(self) -> None:
        """One worker has the directory itself, several have one in it each."""
        self.assertEqual(self.directory, part_of(self.directory, 1, 0))
        self.assertEqual(self.directory / "worker-1", part_of(self.directory, 2, 1))

    def test_left(self) -> None:
        """What holds something and is nobody's is left, and the first worker's to adopt."""
        for name in ("worker-0", "worker-1", "worker-2"):
            fill(self.directory / name, "a")
        fill(self.directory, "a")
        (self.directory / "worker-3").mkdir()
        (self.directory / "worker-4").touch()
        worker = [self.directory / f"worker-{number}" for number in range(3)]
        self.assertEqual(worker, left_parts(self.directory, 1, 0))
        self.assertEqual([self.directory, worker[2]], left_parts(self.directory, 2, 0))
        self.assertEqual([], left_parts(self.directory, 2, 1))

    def test_nothing_left(self) -> None:
        """What was adopted, or holds but damaged files, is not looked at again."""
        fill(self.directory / "worker-0", "a")
        adopt(self, self.directory / "worker-0")
        self.assertEqual([], left_parts(self.directory, 1, 0))
        (self.directory / "worker-0" / "0000000001.journal.damaged").touch()
        self.assertEqual([], left_parts(self.directory, 1, 0))

    def test_letters_alone(self) -> None:
        """Dead letters alone are left, too."""
        part = self.directory / "worker-0"
        part.mkdir()
        bury(part, "a")
        self.assertEqual([part], left_parts(self.directory, 1, 0))
        adopt(self, part)
        self.assertEqual([], left_parts(self.directory, 1, 0))


def adopt(case: StoreCase, directory: Path) -> list[str]:
    """Take all there is; gives the requests' names."""
    adoption = Adoption(directory, SEGMENT_BYTES, lambda *what: case.damage.append(what))
    adoption.open()
    names = []
    while found := adoption.next():
        names += [record.client for _, record in found]
        adoption.taken([position for position, _ in found])
    while letters := adoption.letters():
        adoption.letters_taken([number for number, _ in letters])
    adoption.close()
    return names


class AdoptionTests(StoreCase):
    """A journal that goes over to another."""

    def test_all(self) -> None:
        """All requests are given, in pieces, and the files are gone then."""
        names = [f"{number}" for number in range(1200)]
        fill(self.directory, *names)
        self.assertEqual(names, adopt(self, self.directory))
        self.assertEqual([], self.names())

    def test_part(self) -> None:
        """What was not taken is there the next time."""
        names = [f"{number}" for number in range(1200)]
        fill(self.directory, *names)
        adoption = Adoption(self.directory, SEGMENT_BYTES, lambda *what: None)
        adoption.open()
        found = adoption.next()
        adoption.taken([position for position, _ in found])
        adoption.next()
        adoption.close()
        self.assertEqual(names[len(found) :], adopt(self, self.directory))

    def test_letters(self) -> None:
        """Its dead letters are given until they are taken."""
        bury(self.directory, "a", "b")
        adoption = Adoption(self.directory, SEGMENT_BYTES, lambda *what: None)
        adoption.open()
        for _ in range(2):
            given = adoption.letters()
            self.assertEqual(["a", "b"], [letter.record.client for _, letter in given])
        adoption.letters_taken([given[0][0]])
        self.assertEqual(["b"], [letter.record.client for _, letter in adoption.letters()])
        adoption.letters_taken([given[1][0]])
        self.assertEqual([], adoption.letters())
        self.assertEqual([], list(self.directory.glob("dead-letters*")))
        adoption.close()

    def test_many_letters(self) -> None:
        """However many there are, a bounded number is in memory, and marks go with them."""
        bury(self.directory, *(f"{number}" for number in range(250)))
        with closing(DeadLetters(self.directory)) as letters:
            letters.mark_for_replay([7])
        adoption = Adoption(self.directory, SEGMENT_BYTES, lambda *what: None)
        adoption.open()
        marked, sizes = [], []
        while given := adoption.letters():
            sizes.append(len(given))
            marked += [letter.record.client for _, letter in given if letter.replay]
            adoption.letters_taken([number for number, _ in given])
        self.assertEqual(([100, 100, 50], ["6"]), (sizes, marked))
        adoption.close()

    def test_damaged_letters(self) -> None:
        """A damaged file of dead letters is set aside once, and holds nothing up."""
        (self.directory / "dead-letters.db").write_bytes(b"no database" * 1000)
        adoption = Adoption(self.directory, SEGMENT_BYTES, lambda *what: None)
        adoption.open()
        with logged() as events:
            self.assertEqual([], adoption.letters())
            self.assertEqual([], adoption.letters())
        self.assertEqual(1, len(events))
        self.assertEqual(1, len(list(self.directory.glob("dead-letters.db.*.damaged"))))
        adoption.close()

    def test_in_use(self) -> None:
        """A journal whose process runs is left alone, and closing that attempt changes nothing."""
        store = self.open()
        adoption = Adoption(self.directory, SEGMENT_BYTES, lambda *what: None)
        self.assertRaises(InUseError, adoption.open)
        adoption.close()
        store.write(stored([make_record("a")]), [])
        self.assertEqual(["a"], [record.client for record in self.waiting(store)])


class ServiceTests(JournalCase):
    """A service that finds what others left."""

    def start(self, ack: int = 2, **journal: Any) -> None:
        super().start(ack, **journal)
        self.journal._adopter._left_parts = partial(left_parts, self.directory, 1, 0)
        self.turn()

    def leave(self, name: str, *guids: str) -> Path:
        """A part that a service of its own leaves with these requests."""
        whole, self.directory = self.directory, self.directory / name
        JournalCase.start(self)
        self.publisher.reachable = False
        for guid in guids:
            self.collect(guid, ("click", "click"))
        self.commit()
        self.assertEqual(2 * len(guids), self.stop())
        part, self.directory = self.directory, whole
        return part

    def adopt(self) -> list[str]:
        """Let it adopt and deliver; gives the guids."""
        return self.deliver_all(12)

    def test_adopts(self) -> None:
        """Requests and dead letters of all parts come over, are counted and delivered once."""
        parts = [self.leave("worker-0", "a", "b"), self.leave("worker-1", "c")]
        bury(parts[1], "dead")
        self.start()
        self.assertEqual({"a", "b", "c"}, set(self.adopt()))
        self.check(delivered=6)
        self.assertEqual(["dead"], [letter.record.client for letter in self.letters()])
        for part in parts:
            self.assertEqual(["lock"], [path.name for path in part.iterdir()])
        self.stop()
        self.start()
        self.assertEqual([], self.adopt())

    def test_one_in_use(self) -> None:
        """A part in use waits until it is not; the others do not wait for it."""
        first, second = self.leave("worker-0", "a"), self.leave("worker-1", "b")
        store = Store(first, SEGMENT_BYTES, lambda *what: None)
        store.open()
        self.start()
        self.assertEqual(["b"], self.adopt())
        store.close()
        self.assertEqual(["a"], self.adopt())
        self.assertTrue(second.is_dir())

    def test_damaged(self) -> None:
        """What can be read of a damaged part is delivered, whatever of ours is on its way."""
        part = self.leave("worker-0", "a", "b")
        path = next(part.glob("*.journal"))
        changed = bytearray(path.read_bytes())
        changed[changed.index(b"b-1")] ^= 1
        path.write_bytes(changed)
        super().start()
        for guid in "xyz":
            self.collect(guid)  # at the same positions
        self.commit()
        self.turn()
        self.journal._adopter._left_parts = partial(left_parts, self.directory, 1, 0)
        self.turn(6)
        for _ in range(5):
            self.commit()
        self.check(waiting=3, journaled=2)
        self.assertEqual({"x", "y", "z", "a"}, set(self.finish() + self.adopt()))
        self.check(delivered=5)
        self.assertEqual(1, self.metrics.total("journal_segments_damaged_total"))

    def test_fails_and_is_tried_again(self) -> None:
        """A part that could not be taken over is not held on to: it is tried again."""
        part = self.leave("worker-0", "a")

        def fail(adoption: Adoption) -> None:
            raise OSError("no disk")

        patcher = self.patch(Adoption, "next", fail)
        with logged() as events:
            self.start()
            self.turn(60)
        said = [event for event in events if "is not adopted" in event["log_format"]]
        self.assertEqual(1, len(said), "said once")
        self.assertEqual([], self.adopt())
        patcher.restore()
        self.turn(60)
        self.assertEqual(["a"], self.adopt())
        self.assertEqual(["lock"], [path.name for path in part.iterdir()])
