"""Tests of raccoon.publisher.base.topics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.base.delivery import Failure
from raccoon.publisher.base.topics import KnownTopics
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics

MISSING = Failure("missing")


class KnownTopicsTests(SynchronousTestCase):
    """What is asked, and what is remembered."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.asked: list[str] = []
        self.answers: dict[str, tuple[Failure | None, bool]] = {}
        self.later: list[tuple[Callable[..., None], Any]] = []
        self.told: list[tuple[str, Failure | None]] = []
        self.supervisor = Supervisor(FakeMetrics())
        self.known = KnownTopics(
            self.check,
            lambda call, *args: self.later.append((call, args)),
            self.supervisor,
            known=2,
            refused=2,
            refused_seconds=5,
            asking=2,
            seconds=self.clock.seconds,
        )

    def check(self, name: str, deadline: float) -> tuple[Failure | None, bool]:
        self.asked.append(name)
        return self.answers.get(name, (None, True))

    def ask(self, name: str, tag: str | None = None) -> None:
        self.known.ask(name, 0, lambda failure: self.told.append((tag or name, failure)))

    def run_later(self) -> None:
        while self.later:
            call, args = self.later.pop(0)
            call(*args)

    def find(self, *names: str) -> None:
        for name in names:
            self.ask(name)
            self.run_later()

    def test_asked_once(self) -> None:
        """A name is asked for in another thread, once; then its answer is known at once."""
        self.ask("a")
        self.assertEqual([], self.told)
        self.run_later()
        self.ask("a")
        self.assertEqual([("a", None)] * 2, self.told)
        self.assertEqual(["a"], self.asked)

    def test_asked_once_for_all_who_wait(self) -> None:
        """Those who ask while it is being asked are told together, in their order."""
        for tag in ("1", "2", "3"):
            self.ask("a", tag)
        self.run_later()
        self.assertEqual([("1", None), ("2", None), ("3", None)], self.told)
        self.assertEqual(["a"], self.asked)

    def test_who_asks_while_others_are_told(self) -> None:
        """Whoever asks while the answer is given out is told after those who came before."""

        def ask_again(failure: Failure | None) -> None:
            self.ask("a", "late")
            self.told.append(("first", failure))

        self.known.ask("a", 0, ask_again)
        self.ask("a", "second")
        self.run_later()
        self.assertEqual(["first", "second", "late"], [tag for tag, _ in self.told])

    def test_forgotten(self) -> None:
        """A name that was forgotten is asked for again."""
        self.find("a")
        self.known.forget("a")
        self.known.forget("never known")
        self.find("a")
        self.assertEqual(["a", "a"], self.asked)

    def test_known_names_are_bounded(self) -> None:
        """The least recently used name is forgotten when there are too many."""
        self.find("a", "b", "a", "c", "a", "b")
        self.assertEqual(["a", "b", "c", "b"], self.asked)

    def test_refused_for_a_while(self) -> None:
        """A name that is not there is asked for again only after some time."""
        self.answers["a"] = (MISSING, True)
        self.find("a", "a")
        self.assertEqual(["a"], self.asked)
        self.clock.advance(5)
        self.answers["a"] = (None, True)
        self.find("a", "a")
        self.assertEqual([MISSING, MISSING, None, None], [failure for _, failure in self.told])
        self.assertEqual(["a", "a"], self.asked)

    def test_refused_names_are_bounded(self) -> None:
        """Of too many names that are not there the oldest is asked for again."""
        self.answers = dict.fromkeys("abc", (MISSING, True))
        self.find("a", "b", "c", "c", "a")
        self.assertEqual(["a", "b", "c", "a"], self.asked)

    def test_answer_that_does_not_last(self) -> None:
        """A failure that may pass is not remembered."""
        self.answers["a"] = (MISSING, False)
        self.find("a", "a")
        self.assertEqual(["a", "a"], self.asked)

    def test_check_that_raises(self) -> None:
        """Those who wait are told what was raised."""

        def check(name: str, deadline: float) -> Any:
            raise ValueError("broken")

        known = KnownTopics(check, lambda call, *args: call(*args), self.supervisor)
        known.ask("a", 0, lambda failure: self.told.append(("a", failure)))
        self.assertEqual([("a", Failure("broken"))], self.told)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_no_thread(self) -> None:
        """Where no thread can be had those who wait are told, and the next asks again."""
        runs: list[str] = []

        def run(call: Callable[..., None], name: str, deadline: float) -> None:
            runs.append(name)
            raise RuntimeError("no more threads")

        known = KnownTopics(self.check, run, self.supervisor)
        for _ in range(2):
            known.ask("a", 0, lambda failure: self.told.append(("a", failure)))
        self.assertEqual([("a", Failure("no more threads"))] * 2, self.told)
        self.assertEqual(["a", "a"], runs)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_one_who_raises(self) -> None:
        """The others are told nevertheless, and the name is not asked for for ever."""

        def broken(_: Failure | None) -> None:
            raise ValueError("broken")

        self.known.ask("a", 0, broken)
        self.ask("a")
        self.run_later()
        self.ask("a")
        self.assertEqual([("a", None)] * 2, self.told)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_too_many_at_once(self) -> None:
        """New names beyond so many are refused while others are asked for."""
        for name in "abc":
            self.ask(name)
        ((name, failure),) = self.told
        self.assertEqual("c", name)
        assert failure is not None
        self.assertIn("too many new event types", failure.reason)
        self.run_later()
        self.find("c")
        self.assertEqual(("c", None), self.told[-1])
