"""Tests of raccoon.stopping."""

from __future__ import annotations

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from raccoon.stopping import StopSteps, end_within
from tests.fakes import logged


class StopStepsTests(SynchronousTestCase):
    """Steps that end, fail or hang."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.steps = StopSteps(self.clock)

    def test_result(self) -> None:
        """A step gives its result, at once or later."""
        self.assertEqual(3, self.successResultOf(self.steps.run("adding", 1, int.__add__, 1, 2)))
        later: Deferred[str] = Deferred()
        running = self.steps.run("waiting", 1, lambda: later)
        self.assertNoResult(running)
        later.callback("done")
        self.assertEqual("done", self.successResultOf(running))
        self.assertEqual([], self.steps.passed_over)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_raises(self) -> None:
        """A step that raises, at once or later, is logged with its traceback and passed over."""

        def broken() -> None:
            raise ValueError("boom")

        self.assertIsNone(self.successResultOf(self.steps.run("one", 1, broken)))
        failed = self.steps.run("another", 1, lambda: fail(ValueError("boom")))
        self.assertIsNone(self.successResultOf(failed))
        self.assertEqual(["one", "another"], self.steps.passed_over)
        self.assertEqual(2, len(self.flushLoggedErrors(ValueError)))

    def test_hangs(self) -> None:
        """A step that hangs is passed over after its time, whatever it gives later."""
        later: Deferred[str] = Deferred(lambda _: None)
        with logged() as events:
            running = self.steps.run("waiting", 2, lambda: later)
            self.clock.advance(1.9)
            self.assertNoResult(running)
            self.clock.advance(0.1)
        self.assertIsNone(self.successResultOf(running))
        self.assertEqual(["waiting"], self.steps.passed_over)
        self.assertEqual([("waiting", 2)], [(e["name"], e["seconds"]) for e in events])

    def test_next_one(self) -> None:
        """The step after one that was passed over runs as if nothing had been."""
        self.steps.run("waiting", 1, Deferred)
        self.clock.advance(1)
        self.assertEqual("next", self.successResultOf(self.steps.run("x", 1, succeed, "next")))


class EndTests(SynchronousTestCase):
    """The end of the process."""

    def test_ends(self) -> None:
        """After its time the process ends with exit code 1, and what was left is in the log."""
        ended: list[int] = []
        with logged() as events:
            end_within(0, lambda: "3 accepted events were not delivered", ended.append).join()
        self.assertEqual([1], ended)
        self.assertEqual(["3 accepted events were not delivered"], [e["left"] for e in events])

    def test_ends_without_a_word(self) -> None:
        """It ends also where what was left cannot be said."""
        ended: list[int] = []

        def broken() -> str:
            raise ValueError("boom")

        self.patch(end_within.__globals__["threading"], "excepthook", lambda _: None)
        end_within(0, broken, ended.append).join()
        self.assertEqual([1], ended)
