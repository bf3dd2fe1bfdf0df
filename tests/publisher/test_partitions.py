"""Tests of raccoon.publisher.partitions."""

from __future__ import annotations

from collections.abc import Collection

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.partitions import ANY, Partitions


class PartitionsTests(SynchronousTestCase):
    """The partition for a group."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.cluster: dict[str, Collection[int]] = {}
        self.asked: list[str] = []
        self.partitions = Partitions(
            self.ask, remembered=2, first_seconds=1, again_seconds=100, seconds=self.clock.seconds
        )

    def ask(self, topic: str) -> Collection[int]:
        """What the cluster knows of a topic."""
        self.asked.append(topic)
        return self.cluster.get(topic, ())

    def know(self, topic: str, *partitions: int) -> None:
        """Have a topic with these partitions, asked for with the next choice."""
        self.cluster[topic] = partitions
        self.partitions.choose(topic)
        self.clock.advance(1)

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

    def test_asked_for(self) -> None:
        """A topic is asked for once it was used for some time, and then not with each group."""
        self.cluster["t"] = (0,)
        self.assertEqual([ANY] * 3, self.choose("t", 3))
        self.assertEqual([], self.asked)
        self.clock.advance(1)
        self.assertEqual([0] * 30, self.choose("t", 30))
        self.assertEqual(["t"], self.asked)

    def test_topics_grow(self) -> None:
        """It is asked again later; what is on its way counts then as before."""
        self.know("t", 0)
        self.choose("t", 2)
        self.cluster["t"] = (0, 1)
        self.clock.advance(99)
        self.assertEqual([0], self.choose("t", 1))
        self.clock.advance(1)
        self.assertEqual([1, 1, 1, 0, 1], self.choose("t", 5))

    def test_no_answer(self) -> None:
        """Without one it is asked again soon, and what was known stays."""
        self.know("t")
        self.assertEqual([ANY] * 30, self.choose("t", 30))
        self.clock.advance(1)
        self.cluster["t"] = (0, 1)
        self.assertEqual([0, 1], self.choose("t", 2))
        self.cluster["t"] = ()
        self.clock.advance(100)
        self.assertEqual([0, 1], self.choose("t", 2))
        self.clock.advance(1)
        self.choose("t", 1)
        self.assertEqual(["t"] * 4, self.asked)

    def test_bound(self) -> None:
        """A topic that made room for another is asked for again; what ends late does no harm."""
        for topic in ("a", "b", "c"):
            self.know(topic, 0, 1)
        self.partitions.ended("a", 0)
        self.assertEqual([ANY], self.choose("a", 1))
        self.assertEqual([0], self.choose("c", 1))

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
        self.choose("a", 1)
        self.know("b", 0)
        self.choose("b", 1)
        self.assertEqual(3, self.partitions.most)
