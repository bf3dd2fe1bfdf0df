"""Tests of raccoon.journal.writer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from raccoon.journal.deadletters import DeadLetters, Letter
from raccoon.journal.entry import Entry, LetterEntry, State
from raccoon.journal.files.store import JournalError, Store
from raccoon.journal.load import ReactorLoad
from raccoon.journal.writer import _ENOUGH_REQUESTS, Writer
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics
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


class KnownLoad(ReactorLoad):
    """Is what the test says, one after the other."""

    def __init__(self, shares: Iterable[float]) -> None:
        super().__init__()
        self._shares = iter(shares)

    def share(self) -> float:
        return next(self._shares)


class RecordedResults:
    """What the writer said, in order."""

    def __init__(self) -> None:
        self.reports: list[tuple[Any, ...]] = []

    def written(
        self,
        entries: Sequence[Entry],
        letters: Sequence[LetterEntry],
        delivered: Sequence[int],
        first: int,
        took: float,
    ) -> None:
        assert took > 0
        self.reports.append(("written", list(entries), list(letters), list(delivered), first))

    def not_written(self, entries: Sequence[Entry], delivered: Sequence[int], reason: str) -> None:
        self.reports.append(("not_written", list(entries), list(delivered), reason))

    def letters_not_written(self, letters: Sequence[LetterEntry], reason: str) -> None:
        if letters:
            self.reports.append(("letters_not_written", list(letters), reason))

    def unstorable(self, item: Entry | LetterEntry, reason: str) -> None:
        self.reports.append(("unstorable", item, reason))

    def disk_works(self) -> None:
        self.reports.append(("disk_works",))

    def reset(self) -> list[tuple[Any, ...]]:
        said, self.reports = self.reports, []
        return said


def make_entry(name: str, size: int = 20) -> Entry:
    """A request to be written."""
    return Entry(make_record(name, size), None)


def make_letter(name: str, position: int = -1) -> LetterEntry:
    """A letter to be written."""
    return LetterEntry(Letter(1.0, "why", {"click": 1}, make_record(name)), position, None)


class ReactorLoadTests(SynchronousTestCase):
    """How busy the reactor is."""

    def test_share(self) -> None:
        """It is of the time since it was looked up last, and is not looked up all the time."""
        wall, cpu = 100.0, 7.0
        load = ReactorLoad(lambda: wall, lambda: cpu)
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
        used = ReactorLoad()._cpu
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


class WriterCase(StoreCase):
    """The writer without its thread, but for where it is started."""

    def setUp(self) -> None:
        super().setUp()
        self.store = FailingStore(self.directory, 1 << 20, lambda path, why, saved: None)
        self.store.open()
        self.addCleanup(self.store.close)
        self.letters = DeadLetters(self.directory)
        self.addCleanup(self.letters.close)
        self.results = RecordedResults()
        self.supervisor = Supervisor(FakeMetrics())
        self.writer = Writer(
            self.store,
            self.letters,
            0,
            self.supervisor,
        )
        self.writer._begin(self.results, False)

    def end(self) -> None:
        """Stop its thread."""
        self.writer.stop()
        self.writer._thread.join(20)
        self.assertFalse(self.writer.running)

    def run_once(self) -> list[tuple[Any, ...]]:
        """Let it write what waits; gives its reports."""
        self.writer.stop()
        self.writer._run()
        self.writer._stopping = False
        return self.results.reset()


class WriterTests(WriterCase):
    """What it writes, and when."""

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
        a.state = State.SETTLED
        [(_, entries, *_)] = self.run_once()
        self.assertEqual([b], entries)

    def test_nothing_left(self) -> None:
        """A group of which nothing is left makes no commit."""
        a = make_entry("a")
        self.writer.put(a)
        a.state = State.SETTLED
        self.assertEqual([], self.run_once())

    def test_disk_fails(self) -> None:
        """What is not written is given back, and so is all that follows until the disk works."""
        a, b, c = make_entry("a"), make_entry("b"), make_entry("c")
        letter = make_letter("d")
        self.store.failing = True
        self.writer.put(a)
        self.assertEqual([("not_written", [a], [], "no disk")], self.run_once())
        for item in (b, letter):
            self.writer.put(item)
        self.assertEqual(
            [("not_written", [b], []), ("letters_not_written", [letter])],
            [said[:-1] for said in self.run_once()],
        )
        self.store.failing = False
        self.writer.put(c)
        self.assertEqual(["disk_works", "written"], [said[0] for said in self.run_once()])
        self.assertEqual(["c"], [record.client for record in self.waiting(self.store)])

    def test_delivered_while_the_disk_fails(self) -> None:
        """A delivery is known though it cannot be noted, and is noted once it can."""
        self.writer.put(make_entry("a"))
        self.writer.put(make_entry("b"))
        [(*_, first)] = self.run_once()
        self.store.failing = True
        self.writer.note([first])
        self.assertEqual([("not_written", [], [first], "no disk")], self.run_once())
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
        self.assertEqual(("letters_not_written", [letter]), unburied[:2])
        self.assertEqual(("written", [a], []), written[:3])

    def test_carry_fails(self) -> None:
        """What older segments say is noted by the next one where the newest cannot be written."""
        self.store.failing = True
        self.writer.carry()
        self.assertEqual([("not_written", [], [], "no disk")], self.run_once())
        self.store.failing = False
        self.writer.put(make_entry("a"))
        self.assertEqual(["disk_works", "written"], [said[0] for said in self.run_once()])

    def test_thread(self) -> None:
        """What many threads put in is all written once, by one thread, by when it has stopped."""
        entries = [make_entry(f"{number}") for number in range(200)]
        self.writer.start(self.results, False)

        def put(own: list[Entry]) -> None:
            for entry in own:
                self.writer.put(entry)

        threads = [threading.Thread(target=put, args=(entries[n::4],)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.end()
        written = [entry for _, group, *_ in self.results.reset() for entry in group]
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
        self.writer.start(self.results, False)
        for name in "abc":
            self.writer.put(make_entry(name))
            wait_until(self.results.reset, "the commit")
        self.end()
        self.assertEqual([0.5, 0.03125, 0.0], slept)

    def test_waits_no_longer_than_for_enough(self) -> None:
        """Once there are many the commit comes, each time."""
        self.writer._delay = 60
        self.writer._load = KnownLoad(repeat(1.0))
        self.writer.start(self.results, False)
        for _ in range(2):
            entries = [make_entry(f"{number}") for number in range(_ENOUGH_REQUESTS)]
            for entry in entries[:-1]:
                self.writer.put(entry)
            time.sleep(0.05)
            self.assertEqual([], self.results.reports)
            self.writer.put(entries[-1])
            wait_until(lambda: self.results.reports, "the commit")
            self.assertEqual([entries], [group for _, group, *_ in self.results.reset()])
        self.writer.put(make_entry("last"))
        began = time.monotonic()
        self.end()
        self.assertLess(time.monotonic() - began, 20)
        self.assertEqual(1, len(self.results.reset()))

    def test_stop_while_it_wakes(self) -> None:
        """A stop is not missed that comes when the writer has just been woken."""
        writer = self.writer

        class Awake(threading.Event):
            def clear(self) -> None:
                writer._stopping = True
                self.set()
                super().clear()

        writer._awake = Awake()
        writer.start(self.results, False)
        entry = make_entry("a")
        writer.put(entry)
        writer._thread.join(10)
        self.assertFalse(writer._thread.is_alive())
        self.assertEqual([[entry]], [group for _, group, *_ in self.results.reset()])

    def test_notes_wait_for_company(self) -> None:
        """A delivery has no commit of its own, but where it is asked for."""
        self.writer.start(self.results, False)
        self.writer.put(make_entry("a"))
        wait_until(lambda: self.results.reports, "the commit")
        [(*_, first)] = self.results.reset()
        self.writer.note([first])
        time.sleep(0.05)
        self.assertEqual([], self.results.reports)
        self.writer.put(make_entry("b"))
        wait_until(lambda: self.results.reports, "the commit")
        [(_, entries, _, delivered, second)] = self.results.reset()
        self.assertEqual((1, [first]), (len(entries), delivered))
        self.writer.note([second])
        self.writer.flush()
        wait_until(lambda: self.results.reports, "the commit")
        self.assertEqual([("written", [], [], [second], second + 1)], self.results.reset())
        self.end()

    def test_stop_with_a_failing_disk(self) -> None:
        """It ends with a disk that fails, and gives back what was not written."""
        self.writer.start(self.results, False)
        self.store.failing = True
        entry = make_entry("a")
        self.writer.put(entry)
        self.end()
        self.assertEqual([entry], [e for _, group, *_ in self.results.reset() for e in group])


class ThreadEndsTests(WriterCase):
    """What follows when the thread ends for good."""

    def test_ends(self) -> None:
        """All that it had, and all that comes later, is reported, and readiness says why."""

        def write(*_: object) -> int:
            raise SystemExit("a fault")

        self.patch(self.store, "write", write)
        first, letter, later = make_entry("a"), make_letter("b"), make_entry("c")
        self.writer.put(first)
        self.writer.put(letter)
        self.writer.start(self.results, False)
        self.writer._thread.join(20)
        self.assertFalse(self.writer.running)
        not_written, letters = self.results.reset()
        self.assertEqual(("not_written", [first], []), not_written[:3])
        self.assertEqual(("letters_not_written", [letter]), letters[:2])
        self.writer.put(later)
        self.writer.note([7])
        self.writer.flush()
        [(*report, reason)] = self.results.reset()
        self.assertEqual(["not_written", [later], [7]], report)
        self.assertIn("a fault", reason)
        self.assertEqual(["journal-writer failed: a fault"], self.supervisor.reasons())
        self.flushLoggedErrors(SystemExit)

    def test_unstorable(self) -> None:
        """A request that cannot be encoded has an outcome of its own; the others are written."""
        a, b = make_entry("a"), make_entry("b")
        bad = Entry(make_record("c")._replace(group="\udce9"), None)
        for item in (a, bad, b):
            self.writer.put(item)
        unstorable, written = self.run_once()
        self.assertEqual(("unstorable", bad), unstorable[:2])
        self.assertEqual(("written", [a, b]), written[:2])
        self.assertEqual(["a", "b"], [record.client for record in self.waiting(self.store)])

    def test_unstorable_letter(self) -> None:
        """So has a letter."""
        good, bad = make_letter("a"), make_letter("b")
        bad.letter = bad.letter._replace(reason="\udce9")
        self.writer.put(good)
        self.writer.put(bad)
        unstorable, written = self.run_once()
        self.assertEqual(("unstorable", bad), unstorable[:2])
        self.assertEqual(("written", [], [good]), written[:3])

    def test_mending_raises(self) -> None:
        """A fault in beginning a new file leaves it broken, until that works."""

        def raises() -> None:
            raise ZeroDivisionError("a fault")

        self.store.failing = True
        self.writer.put(make_entry("a"))
        self.run_once()
        works, self.store.failing = self.store.reopen, False
        self.store.reopen = raises  # type: ignore[method-assign]
        self.writer.put(make_entry("b"))
        self.assertEqual(["not_written"], [report[0] for report in self.run_once()])
        self.flushLoggedErrors(ZeroDivisionError)
        self.store.reopen = works  # type: ignore[method-assign]
        self.writer.put(make_entry("c"))
        self.assertEqual(["disk_works", "written"], [report[0] for report in self.run_once()])
