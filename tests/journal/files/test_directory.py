"""What lies in a journal's directory: modes, odd files, unreadable ones, and many."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import apsw
from twisted.python.monkey import MonkeyPatcher

from raccoon.journal.deadletters import DeadLetters, Letter
from raccoon.journal.files import store as stores
from raccoon.journal.files.segment import Segment, either
from raccoon.journal.files.store import Store
from tests.fakes import logged
from tests.journal.fakes import StoreCase, make_record, stored


class ModeTests(StoreCase):
    """Clients' events are for the owner of the journal alone."""

    def modes(self) -> dict[str, str]:
        """The modes of all that is there."""
        return {
            path.name: oct(stat.S_IMODE(path.stat().st_mode))
            for path in (self.directory, *self.directory.iterdir())
        }

    def check(self, umask: int) -> None:
        """Whatever is made under a umask."""
        before = os.umask(umask)
        self.addCleanup(os.umask, before)
        store = self.open()
        letters = DeadLetters(self.directory)
        letters.add([Letter(1.0, "why", {"": 1}, make_record("a"))])
        store.write(stored([make_record("a", 1_100_000)]), [])
        store.write(stored([make_record("b")]), [])
        self.check_modes("-wal", "-shm", "lock", ".db")
        store.tidy()
        self.check_modes(".sum")
        letters.close()

    def check_modes(self, *endings: str) -> None:
        """Files are 0600 and the directory 0700, and there are some of each ending."""
        modes = self.modes()
        self.assertEqual("0o700", modes.pop(self.directory.name))
        self.assertEqual({"0o600"}, set(modes.values()), modes)
        for ending in endings:
            self.assertTrue(any(name.endswith(ending) for name in modes), (ending, modes))

    def test_without_a_umask(self) -> None:
        """Also where the process has none."""
        self.check(0)

    def test_usual_umask(self) -> None:
        """Also with that of most systems."""
        self.check(0o022)

    def test_parents(self) -> None:
        """A directory that is made for it on the way is its owner's, too."""
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        parts = self.directory / "journal" / "worker-0"
        store = Store(parts, 1 << 20, lambda *_: None)
        store.open()
        self.addCleanup(store.close)
        self.assertEqual(0o700, stat.S_IMODE(parts.parent.stat().st_mode))

    def test_narrowed(self) -> None:
        """What an earlier version left open to others is not any more after a start."""
        store = self.open()
        store.write(stored([make_record("a")]), [])
        self.crash(store)
        for path in self.directory.iterdir():
            path.chmod(0o644)
        self.directory.chmod(0o755)
        self.open()
        self.check_modes(".journal")


class OddFileTests(StoreCase):
    """What is no file of the journal."""

    NAMES = ("0000000001-backup.journal", "1.journal", "0000000002.journal~", "x.journal.swp")

    def test_passed_over(self) -> None:
        """It does not stop the start, is said once, and stays as it is."""
        store = self.open()
        store.write(stored([make_record("a")]), [])
        self.crash(store)
        for name in self.NAMES:
            (self.directory / name).write_bytes(b"odd")
        (self.directory / "0000000099.journal").mkdir()
        (self.directory / "notes.txt").write_bytes(b"mine")
        (self.directory / "0000000098.journal").symlink_to("/nowhere")
        with logged() as events:
            store = self.open()
            self.assertEqual(1, store.recover().requests)
            store.tidy()
        said = [event for event in events if "names" in event]
        self.assertEqual(1, len(said))
        for name in (*self.NAMES, "0000000099.journal", "0000000098.journal"):
            self.assertIn(name, said[0]["names"])
        for name in self.NAMES:
            self.assertEqual(b"odd", (self.directory / name).read_bytes())
        self.assertEqual(["a"], [record.client for record in self.waiting(store)])


class UnreadableTests(StoreCase):
    """A segment that cannot be opened for now."""

    def test_said_once(self) -> None:
        """It is said once, tried again after growing pauses, and said when it works."""
        now = 0.0
        store = self.open()
        store._unreadable = stores.Unreadable(lambda: now)
        store.write(stored([make_record("a")]), [])
        tried = 0

        def refuse(*_: object, **__: object) -> None:
            nonlocal tried
            tried += 1
            raise apsw.CantOpenError("unable to open database file")

        patcher = MonkeyPatcher((Segment, "_open", refuse))
        patcher.patch()
        with logged() as events:
            for _ in range(6000):
                self.waiting(store)
                now += 0.01
        self.assertEqual(1, len(events))
        self.assertIn("cannot be read now", events[0]["log_format"])
        self.assertEqual(7, tried, "at 0, 0.5, 1.5, 3.5, 7.5, 15.5 and 31.5 s")
        patcher.restore()
        now += 60
        with logged() as events:
            self.assertEqual(["a"], [record.client for record in self.waiting(store)])
            self.waiting(store)
        self.assertEqual(["{path} can be read again"], [e["log_format"] for e in events])


class RecoveryTests(StoreCase):
    """The cost of a start, and its end before its time."""

    def leave(self, count: int) -> None:
        """Leave so many segments, each with three requests of which one was delivered."""
        store = self.open()
        for _ in range(count):
            place = store.write(stored([make_record("a", 400_000)] * 3), [])
            store.write([], [place])
        self.crash(store)

    def test_linear(self) -> None:
        """Each request is marked once, however many segments say that it was delivered."""
        marks: list[object] = []
        mark, mark_all = Segment.mark, Segment.mark_all

        def counting(segment: Segment, index: int) -> None:
            marks.append(index)
            mark(segment, index)

        def counting_all(segment: Segment, done: bytes) -> None:
            marks.append(done)
            mark_all(segment, done)

        patcher = MonkeyPatcher((Segment, "mark", counting), (Segment, "mark_all", counting_all))
        counts = []
        for count in (8, 16):
            self.directory = Path(self.mktemp())
            self.leave(count)
            store = self.open()
            marks.clear()
            patcher.patch()
            self.assertEqual(2 * count, store.recover().requests)
            patcher.restore()
            store.close()
            counts.append(len(marks))
        self.assertLessEqual(counts[1], 2 * counts[0] + 2)

    def test_interrupted(self) -> None:
        """A stop does not wait for it: what was not read is unread, and read the next time."""
        self.leave(6)
        store = self.open()
        load, loaded = Segment.load, threading.Semaphore(0)

        def loading(segment: Segment) -> object:
            loaded.release()
            store.interrupt()
            return load(segment)

        patcher = MonkeyPatcher((Segment, "load", loading))
        patcher.patch()
        self.assertEqual(3, store.recover().requests, "a later one notes the delivery")
        patcher.restore()
        self.assertTrue(store.unread)
        store.close()
        store = self.open()
        self.assertEqual(12, store.recover().requests)
        self.assertFalse(store.unread)

    def test_either(self) -> None:
        """Two bit maps of any lengths, united."""
        self.assertEqual(b"\x07\x80", either(b"\x05", b"\x02\x80"))
        self.assertEqual(b"\x07\x80", either(b"\x02\x80", bytearray(b"\x05")))
        self.assertEqual(b"", either(b"", b""))
