"""Tests of raccoon.journal.writer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from raccoon.journal.deadletters import DeadLetters, Letter
from raccoon.journal.files.store import JournalError, Store
from raccoon.journal.writer import _ENOUGH_REQUESTS, Entry, LetterEntry, Load, Writer
from tests.integration.waiting import wait_until
from tests.journal.fakes import StoreCase, make_record


class FailingStore(Store):
    """A store whose disk takes nothing while `failing`."""

    failing = False

    def write(self, records: Sequence[tuple[bytes, int]], delivered: Iterable[int]) -> int:
        if self.failing:
            self.mark(delivered)
            raise JournalError("no disk")
        return super().write(records, delivered)

    def reopen(self) -> None:
        if self.failing:
            raise JournalError("no disk")
        super().reopen()

    def carry(self) -> None:
        if self.failing:
            raise JournalError("no disk")
        super().carry()


class KnownLoad(Load):
    """Is what the test says, one after the other."""

    def __init__(self, shares: Iterable[float]) -> None:
        super().__init__()
        self._shares = iter(shares)

    def share(self) -> float:
        return next(self._shares)


class Seen:
    """What the writer said, in order."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    def written(
        self,
        entries: Sequence[Entry],
        letters: Sequence[LetterEntry],
        delivered: Sequence[int],
        first: int,
        took: float,
    ) -> None:
        assert took > 0
        self.said.append(("written", list(entries), list(letters), list(delivered), first))

    def failed(self, entries: Sequence[Entry], delivered: Sequence[int], reason: str) -> None:
        self.said.append(("failed", list(entries), list(delivered), reason))

    def unburied(self, letters: Sequence[LetterEntry], reason: str) -> None:
        if letters:
            self.said.append(("unburied", list(letters), reason))

    def recovered(self) -> None:
        self.said.append(("recovered",))

    def take(self) -> list[tuple[Any, ...]]:
        said, self.said = self.said, []
        return said


def make_entry(name: str, size: int = 20) -> Entry:
    """A request to be written."""
    return Entry(make_record(name, size), None)


def make_letter(name: str, position: int = -1) -> LetterEntry:
    """A letter to be written."""
    return LetterEntry(Letter(1.0, "why", {"click": 1}, make_record(name)), position, None)


class LoadTests(SynchronousTestCase):
    """How busy the reactor is."""

    def test_share(self) -> None:
        """It is of the time since it was looked up last, and is not looked up all the time."""
        wall, cpu = 100.0, 7.0
        load = Load(lambda: wall, lambda: cpu)
        self.assertEqual(0, load.share())
        wall, cpu = 101.0, 7.125
        self.assertEqual(0.25, load.share())
        wall, cpu = 101.05, 7.17
        self.assertEqual(0.25, load.share(), "too soon for another look")
        wall, cpu = 103.0, 7.625
        self.assertEqual(0.5, load.share())
        wall, cpu = 104.0, 8.5
        self.assertEqual(1, load.share())

    def test_of_the_reactors_thread(self) -> None:
        """What other threads take is not counted."""
        used = Load()._cpu
        before = used()

        def work() -> None:
            until = time.thread_time() + 0.2
            while time.thread_time() < until:
                sum(range(1000))

        other = threading.Thread(target=work)
        other.start()
        other.join()
        self.assertLess(used() - before, 0.1)
        work()
        self.assertGreaterEqual(used() - before, 0.2)


class WriterTests(StoreCase):
    """The writer without its thread, but for where it is started."""

    def setUp(self) -> None:
        super().setUp()
        self.store = FailingStore(self.directory, 1 << 20, lambda path, why, saved: None)
        self.store.open()
        self.addCleanup(self.store.close)
        self.letters = DeadLetters(self.directory)
        self.addCleanup(self.letters.close)
        self.seen = Seen()
        self.writer = Writer(
            self.store,
            self.letters,
            0,
            self.seen.written,
            self.seen.failed,
            self.seen.unburied,
            self.seen.recovered,
        )

    def run_once(self) -> list[tuple[Any, ...]]:
        """Let it write what waits; gives what it said."""
        self.writer.stop()
        self.writer._run()
        self.writer._stopping = False
        return self.seen.take()

    def test_one_commit(self) -> None:
        """What waits is written together, in its order, letters and deliveries too."""
        a, b, letter = make_entry("a"), make_entry("b"), make_letter("c")
        for item in (a, letter, b):
            self.writer.put(item)
        [(what, entries, letters, delivered, first)] = self.run_once()
        self.assertEqual(("written", [a, b], [letter], []), (what, entries, letters, delivered))
        self.writer.note([first])
        self.assertEqual([("written", [], [], [first], first + 2)], self.run_once())
        self.assertEqual(["b"], [record.client for record in self.waiting(self.store)])
        self.assertEqual([(1, letter.letter)], list(self.letters.all()))

    def test_large_group(self) -> None:
        """A commit ends when it has its bytes; the rest is in the next."""
        for number in range(5):
            self.writer.put(make_entry(f"{number}", 400_000))
        groups = [entries for _, entries, *_ in self.run_once()]
        self.assertEqual([3, 2], [len(group) for group in groups])

    def test_settled(self) -> None:
        """A request whose outcome is known before its turn is not written."""
        a, b = make_entry("a"), make_entry("b")
        self.writer.put(a)
        self.writer.put(b)
        a.settled = True
        [(_, entries, *_)] = self.run_once()
        self.assertEqual([b], entries)

    def test_nothing_left(self) -> None:
        """A group of which nothing is left makes no commit."""
        a = make_entry("a")
        self.writer.put(a)
        a.settled = True
        self.assertEqual([], self.run_once())

    def test_disk_fails(self) -> None:
        """What is not written is given back, and so is all that follows until the disk works."""
        a, b, c = make_entry("a"), make_entry("b"), make_entry("c")
        letter = make_letter("d")
        self.store.failing = True
        self.writer.put(a)
        self.assertEqual([("failed", [a], [], "no disk")], self.run_once())
        for item in (b, letter):
            self.writer.put(item)
        self.assertEqual(
            [("failed", [b], []), ("unburied", [letter])], [said[:-1] for said in self.run_once()]
        )
        self.store.failing = False
        self.writer.put(c)
        self.assertEqual(["recovered", "written"], [said[0] for said in self.run_once()])
        self.assertEqual(["c"], [record.client for record in self.waiting(self.store)])

    def test_delivered_while_the_disk_fails(self) -> None:
        """A delivery is known though it cannot be noted, and is noted once it can."""
        self.writer.put(make_entry("a"))
        self.writer.put(make_entry("b"))
        [(*_, first)] = self.run_once()
        self.store.failing = True
        self.writer.note([first])
        self.assertEqual([("failed", [], [first], "no disk")], self.run_once())
        self.assertEqual(["b"], [record.client for record in self.waiting(self.store)])
        self.writer.note([first + 1])
        self.run_once()
        self.assertEqual([], self.waiting(self.store))
        self.store.failing = False
        self.writer.put(make_entry("c"))
        self.run_once()
        self.crash(self.store)
        store = self.open()
        store.recover()
        self.assertEqual(["c"], [record.client for record in self.waiting(store)])

    def test_letters_fail(self) -> None:
        """A letter that cannot be stored is given back; all else of its commit is written."""
        (self.directory / "dead-letters.db").write_bytes(b"something else" * 1000)
        a, letter = make_entry("a"), make_letter("b")
        self.writer.put(a)
        self.writer.put(letter)
        unburied, written = self.run_once()
        self.assertEqual(("unburied", [letter]), unburied[:2])
        self.assertEqual(("written", [a], []), written[:3])

    def test_carry_fails(self) -> None:
        """What older segments say is noted by the next one where the newest cannot be written."""
        self.store.failing = True
        self.writer.carry()
        self.assertEqual([("failed", [], [], "no disk")], self.run_once())
        self.store.failing = False
        self.writer.put(make_entry("a"))
        self.assertEqual(["recovered", "written"], [said[0] for said in self.run_once()])

    def test_thread(self) -> None:
        """What many threads put in is all written once, by one thread, by when it has stopped."""
        entries = [make_entry(f"{number}") for number in range(200)]
        self.writer.start()

        def put(own: list[Entry]) -> None:
            for entry in own:
                self.writer.put(entry)

        threads = [threading.Thread(target=put, args=(entries[n::4],)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.writer.stop()
        written = [entry for _, group, *_ in self.seen.take() for entry in group]
        self.assertEqual(len(entries), len(written))
        self.assertEqual(set(entries), set(written))
        self.assertEqual(
            [entry.record for entry in written], self.waiting(self.store), "not in this order"
        )

    def test_waits_by_load(self) -> None:
        """A commit waits for more the longer, the busier the process is."""
        slept: list[float] = []
        self.patch(self.writer._enough, "wait", slept.append)
        self.writer._delay = 0.5
        self.writer._load = KnownLoad([1.0, 0.5, 0.0])
        self.writer.start()
        for name in "abc":
            self.writer.put(make_entry(name))
            wait_until(self.seen.take, "the commit")
        self.writer.stop()
        self.assertEqual([0.5, 0.03125, 0.0], slept)

    def test_waits_no_longer_than_for_enough(self) -> None:
        """Once there are many the commit comes, each time."""
        self.writer._delay = 60
        self.writer._load = KnownLoad(repeat(1.0))
        self.writer.start()
        for _ in range(2):
            entries = [make_entry(f"{number}") for number in range(_ENOUGH_REQUESTS)]
            for entry in entries[:-1]:
                self.writer.put(entry)
            time.sleep(0.05)
            self.assertEqual([], self.seen.said)
            self.writer.put(entries[-1])
            wait_until(lambda: self.seen.said, "the commit")
            self.assertEqual([entries], [group for _, group, *_ in self.seen.take()])
        self.writer.put(make_entry("last"))
        began = time.monotonic()
        self.writer.stop()
        self.assertLess(time.monotonic() - began, 20)
        self.assertEqual(1, len(self.seen.take()))

    def test_stop_while_it_wakes(self) -> None:
        """A stop is not missed that comes when the writer has just been woken."""
        writer = self.writer

        class Awake(threading.Event):
            def clear(self) -> None:
                writer._stopping = True
                self.set()
                super().clear()

        writer._awake = Awake()
        writer.start()
        entry = make_entry("a")
        writer.put(entry)
        writer._thread.join(10)
        self.assertFalse(writer._thread.is_alive())
        self.assertEqual([[entry]], [group for _, group, *_ in self.seen.take()])

    def test_notes_wait_for_company(self) -> None:
        """A delivery has no commit of its own, but where it is asked for."""
        self.writer.start()
        self.writer.put(make_entry("a"))
        wait_until(lambda: self.seen.said, "the commit")
        [(*_, first)] = self.seen.take()
        self.writer.note([first])
        time.sleep(0.05)
        self.assertEqual([], self.seen.said)
        self.writer.put(make_entry("b"))
        wait_until(lambda: self.seen.said, "the commit")
        [(_, entries, _, delivered, second)] = self.seen.take()
        self.assertEqual((1, [first]), (len(entries), delivered))
        self.writer.note([second])
        self.writer.flush()
        wait_until(lambda: self.seen.said, "the commit")
        self.assertEqual([("written", [], [], [second], second + 1)], self.seen.take())
        self.writer.stop()

    def test_stop_with_a_failing_disk(self) -> None:
        """It ends with a disk that fails, and gives back what was not written."""
        self.writer.start()
        self.store.failing = True
        entry = make_entry("a")
        self.writer.put(entry)
        self.writer.stop()
        self.assertEqual([entry], [e for _, group, *_ in self.seen.take() for e in group])
