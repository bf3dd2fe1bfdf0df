"""Topics that take events, and those that are being tried."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.trials import Trials


class TrialsTests(SynchronousTestCase):
    """At most two topics are tried at once, and three remembered."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.trials = Trials(3, 2, missing_seconds=10, seconds=self.clock.seconds)

    def test_passes(self) -> None:
        """A topic passes with the first event that it takes."""
        self.assertTrue(self.trials.begin("a"))
        self.assertNotIn("a", self.trials.passed)
        self.trials.end("a", took=True)
        self.assertIn("a", self.trials.passed)

    def test_does_not_pass(self) -> None:
        """A topic that takes none has not passed, and may be tried again."""
        for _ in range(3):
            self.assertTrue(self.trials.begin("a"))
            self.trials.end("a", took=False)
        self.assertNotIn("a", self.trials.passed)

    def test_too_many(self) -> None:
        """One more has to wait until the last request of another has ended."""
        for topic in ("a", "a", "b", "a"):
            self.assertTrue(self.trials.begin(topic))
        self.assertFalse(self.trials.begin("c"))
        for took in (True, False):
            self.trials.end("a", took)
            self.assertFalse(self.trials.begin("c"))
        self.trials.end("a", took=False)
        self.assertTrue(self.trials.begin("c"))
        self.assertFalse(self.trials.begin("d"))
        self.assertIn("a", self.trials.passed)

    def test_missing(self) -> None:
        """A topic that does not exist is known to be missing for a while."""
        self.assertFalse(self.trials.missing("a"))
        self.trials.miss("a")
        self.clock.advance(9.9)
        self.assertTrue(self.trials.missing("a"))
        self.clock.advance(0.1)
        self.assertFalse(self.trials.missing("a"))
        self.trials.miss("a")
        self.assertTrue(self.trials.missing("a"))

    def test_gone(self) -> None:
        """A topic that does not exist any more has not passed."""
        self.trials.begin("a")
        self.trials.end("a", took=True)
        self.trials.miss("a")
        self.assertEqual(set(), self.trials.passed)
        self.assertTrue(self.trials.missing("a"))

    def test_missing_are_bounded(self) -> None:
        """The newest of those that are missing are remembered."""
        for topic in "abcade":
            self.trials.miss(topic)
        self.assertEqual(["a", "d", "e"], [one for one in "abcde" if self.trials.missing(one)])

    def test_bounded(self) -> None:
        """So many are remembered, the newest among them."""
        for number in range(100):
            self.trials.begin(f"{number}")
            self.trials.end(f"{number}", took=True)
            self.assertIn(f"{number}", self.trials.passed)
            self.assertLessEqual(len(self.trials.passed), 3)
