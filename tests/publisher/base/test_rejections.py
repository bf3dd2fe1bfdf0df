"""Event types of which it is known for a while that no event can be delivered."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.base.rejections import Rejections


class RejectionsTests(SynchronousTestCase):
    """A rejection holds for five seconds, and two are remembered."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.rejections = Rejections(5, 2, self.clock.seconds)

    def test_lapses(self) -> None:
        """It holds for so long, however often it is repeated meanwhile, and then may come again."""
        self.assertIsNone(self.rejections.reason("click"))
        self.rejections.reject("click", "no topic")
        self.clock.advance(4.9)
        self.rejections.reject("click", "no topic")
        self.assertEqual("no topic", self.rejections.reason("click"))
        self.assertIsNone(self.rejections.reason("view"))
        self.clock.advance(0.1)
        self.assertIsNone(self.rejections.reason("click"))
        self.rejections.reject("click", "still no topic")
        self.assertEqual("still no topic", self.rejections.reason("click"))

    def test_accepted(self) -> None:
        """An event that was delivered ends it."""
        self.rejections.accept("click")
        self.rejections.reject("click", "no topic")
        self.rejections.accept("click")
        self.assertIsNone(self.rejections.reason("click"))

    def test_bounded(self) -> None:
        """The newest are remembered."""
        for event_type in "abc":
            self.rejections.reject(event_type, event_type)
        self.assertEqual([None, "b", "c"], [self.rejections.reason(each) for each in "abc"])
