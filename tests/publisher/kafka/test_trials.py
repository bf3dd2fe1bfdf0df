"""Topics that take events, and those that are being tried."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.kafka.trials import Trials, Verdict


class TrialsTests(SynchronousTestCase):
    """At most two topics are tried at once, and three remembered."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.listed: list[str] | None = None
        self.lists = 0
        self.trials = Trials(
            self.list_topics,
            remembered=3,
            most_tried=2,
            most_missed=4,
            missing_seconds=10,
            list_seconds=20,
            seconds=self.clock.seconds,
        )

    def list_topics(self) -> list[str] | None:
        self.lists += 1
        return self.listed

    def begin(self, topic: str, verdict: Verdict = Verdict.TRY) -> None:
        """The next request for a topic has this verdict."""
        self.assertIs(verdict, self.trials.begin(topic))

    def test_passes(self) -> None:
        """A topic passes with the first event that it takes."""
        self.begin("a")
        self.assertNotIn("a", self.trials.passed)
        self.trials.end("a", took=True)
        self.assertIn("a", self.trials.passed)

    def test_does_not_pass(self) -> None:
        """A topic that takes none has not passed, and may be tried again."""
        for _ in range(3):
            self.begin("a")
            self.trials.end("a", took=False)
        self.assertNotIn("a", self.trials.passed)

    def test_too_many(self) -> None:
        """One more has to wait until the last request of another has ended."""
        for topic in ("a", "a", "b", "a"):
            self.begin(topic)
        self.begin("c", Verdict.LATER)
        for took in (True, False):
            self.trials.end("a", took)
            self.begin("c", Verdict.LATER)
        self.trials.end("a", took=False)
        self.begin("c")
        self.begin("d", Verdict.LATER)
        self.assertIn("a", self.trials.passed)

    def test_missing(self) -> None:
        """A topic that does not exist is known to be missing for a while."""
        for _ in range(3):
            self.begin("a")
            for _ in range(10):  # events of the request
                self.trials.miss("a")
            self.trials.end("a", took=False)
            self.clock.advance(9.9)
            self.begin("a", Verdict.MISSING)
            self.clock.advance(0.1)
        self.begin("a", Verdict.LATER)
        self.clock.advance(20)
        self.listed = ["b"]
        self.begin("a", Verdict.MISSING)
        self.begin("new")
        self.clock.advance(20)
        self.listed = ["a", "b"]
        self.begin("a")
        self.trials.end("a", took=True)
        self.trials.miss("a")
        self.clock.advance(10)
        self.begin("a")

    def test_gone(self) -> None:
        """A topic that does not exist any more has not passed."""
        self.begin("a")
        self.trials.end("a", took=True)
        self.trials.miss("a")
        self.assertEqual(set(), self.trials.passed)
        self.begin("a", Verdict.MISSING)

    def test_missing_are_bounded(self) -> None:
        """The newest of those that are missing are remembered."""
        for topic in "abcad":
            self.trials.miss(topic)
        self.listed = ["b"]
        self.begin("b")
        for topic in "acd":
            self.begin(topic, Verdict.MISSING)

    def test_many_were_missing(self) -> None:
        """Then only topics are tried that are in the cluster's list."""
        for topic in "abcd":
            self.assertEqual(0, self.lists)
            self.begin(topic)
            self.trials.miss(topic)
            self.trials.end(topic, took=False)
        self.begin("e", Verdict.LATER)
        self.clock.advance(20)
        self.listed = ["e", "f"]
        self.begin("e")
        self.begin("g", Verdict.MISSING)
        self.assertEqual(2, self.lists)
        self.listed = None
        self.clock.advance(20)
        for topic in "fg":
            self.begin(topic, Verdict.LATER)
        self.listed = ["g"]
        self.trials.end("e", took=True)
        self.clock.advance(20)
        self.begin("g")
        self.begin("h", Verdict.MISSING)
        self.assertEqual(4, self.lists)
        self.listed = []
        self.clock.advance(20)
        self.begin("h", Verdict.MISSING)
        self.trials.end("g", took=True)
        self.clock.advance(24 * 3600)
        self.begin("h")
        self.assertEqual(5, self.lists)

    def test_many_that_there_are(self) -> None:
        """Topics of the cluster's list are tried, however many."""
        for topic in "ab":
            self.begin(topic)
        self.begin("c", Verdict.LATER)
        self.listed = [*"cdefg"]
        self.clock.advance(20)
        for topic in "ccdefg":
            self.begin(topic)
        self.begin("h", Verdict.LATER)
        for topic in "abccdefg":
            self.trials.end(topic, took=False)
        for topic in "xy":
            self.begin(topic)

    def test_bounded(self) -> None:
        """So many are remembered, the newest among them."""
        for number in range(100):
            self.begin(f"{number}")
            self.trials.end(f"{number}", took=True)
            self.assertIn(f"{number}", self.trials.passed)
            self.assertLessEqual(len(self.trials.passed), 3)
