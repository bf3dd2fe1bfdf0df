"""Topics that take events, and those that are being tried."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.trials import Trials


class TrialsTests(SynchronousTestCase):
    """At most two topics are tried at once, and three remembered."""

    def setUp(self) -> None:
        self.trials = Trials(most_passed=3, most_tried=2)

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

    def test_forgotten(self) -> None:
        """A topic that is gone has not passed any more."""
        self.trials.begin("a")
        self.trials.end("a", took=True)
        self.trials.forget("a")
        self.trials.forget("never seen")
        self.assertEqual(set(), self.trials.passed)

    def test_bounded(self) -> None:
        """So many are remembered, the newest among them."""
        for number in range(100):
            self.trials.begin(f"{number}")
            self.trials.end(f"{number}", took=True)
            self.assertIn(f"{number}", self.trials.passed)
            self.assertLessEqual(len(self.trials.passed), 3)
