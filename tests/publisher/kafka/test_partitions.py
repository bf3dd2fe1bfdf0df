"""Tests of raccoon.publisher.kafka.partitions."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.kafka.partitions import ANY, Partitions


class PartitionsTests(SynchronousTestCase):
    """The partition for a group."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.partitions = Partitions(
            remembered=2,
            first_seconds=1,
            again_seconds=100,
            pause_seconds=5,
            seconds=self.clock.seconds,
        )

    def know(self, topic: str, *partitions: int) -> None:
        """Have a topic with these partitions."""
        self.partitions.choose(topic)
        self.partitions.learn(topic, partitions)

    def choose(self, topic: str, times: int) -> list[int]:
        """So many choices in a row."""
        return [self.partitions.choose(topic) for _ in range(times)]

    def test_least_on_its_way(self) -> None:
        """It is the one with the fewest groups, and of several that which was not for longest."""
        self.know("t", 0, 1, 2)
        self.assertEqual([0, 1, 2, 0], self.choose("t", 4))
        for partition in (2, 0, 0):
            self.partitions.ended("t", partition)
        self.assertEqual([2, 0, 1], self.choose("t", 3))

    def test_due(self) -> None:
        """A topic is to be asked for once it was used for some time, and then not again soon."""
        self.assertEqual([ANY] * 3, self.choose("t", 3))
        self.assertIsNone(self.partitions.due())
        self.clock.advance(1)
        self.assertIsNone(self.partitions.due())  # nobody uses it
        self.assertEqual([ANY] * 3, self.choose("t", 3))
        self.assertEqual("t", self.partitions.due())
        self.partitions.learn("t", [0])
        self.assertEqual([0] * 30, self.choose("t", 30))
        self.assertIsNone(self.partitions.due())

    def test_topics_grow(self) -> None:
        """It is asked for again later; what is on its way counts then as before."""
        self.know("t", 0)
        self.assertEqual([0] * 3, self.choose("t", 3))
        self.clock.advance(99)
        self.choose("t", 1)
        self.assertIsNone(self.partitions.due())
        self.clock.advance(1)
        self.choose("t", 1)
        self.assertEqual("t", self.partitions.due())
        self.partitions.learn("t", [0, 1])
        self.assertEqual([1, 1, 1, 1, 1, 0, 1], self.choose("t", 7))

    def test_no_answer(self) -> None:
        """Without one nothing is asked for a while, and what was known stays."""
        self.know("a", 0, 1)
        self.choose("b", 1)
        self.clock.advance(100)
        self.choose("a", 1)
        self.choose("b", 1)
        self.assertEqual("a", self.partitions.due())
        self.partitions.learn("a", [])
        self.assertEqual({0, 1}, set(self.choose("a", 2)))
        self.clock.advance(4.9)
        self.assertIsNone(self.partitions.due())
        self.clock.advance(0.1)
        self.assertEqual("b", self.partitions.due())

    def test_bound(self) -> None:
        """A topic that made room for another is asked for again; what is late does no harm."""
        self.know("a", 0, 1)
        self.choose("b", 1)
        self.clock.advance(1)
        self.choose("b", 1)
        self.assertEqual("b", self.partitions.due())
        self.know("c", 0)
        self.know("d", 0)
        self.assertIsNone(self.partitions.due())
        self.partitions.ended("a", 0)
        self.partitions.learn("a", [5])
        self.assertEqual([0], self.choose("d", 1))
        self.assertEqual([ANY], self.choose("a", 1))

    def test_forget(self) -> None:
        """A topic whose partitions are not what they were is asked for again."""
        self.know("t", 0, 1)
        self.choose("t", 1)
        self.partitions.forget("t")
        self.partitions.ended("t", 0)
        self.know("t", 0)
        self.assertEqual([0, 0], self.choose("t", 2))

    def test_most(self) -> None:
        """It is what the widest topic has."""
        self.assertEqual(0, self.partitions.most)
        self.know("a", 0, 1, 2)
        self.know("b", 0)
        self.assertEqual(3, self.partitions.most)
