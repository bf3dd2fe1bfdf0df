"""Tests of raccoon.publisher.partitions."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.partitions import ANY, Partitions


class PartitionsTests(SynchronousTestCase):
    """The partition for a group."""

    def setUp(self) -> None:
        self.partitions = Partitions(remembered=2, first=1, again=10)

    def know(self, topic: str, *partitions: int) -> None:
        """Have a topic with these partitions."""
        self.assertEqual(ANY, self.partitions.choose(topic))
        for partition in partitions:
            self.partitions.learn(topic, partition)

    def test_least_on_its_way(self) -> None:
        """It is the one with the fewest groups, and of several that which was not for longest."""
        self.know("t", 0, 1, 2)
        self.assertEqual([0, 1, 2, 0], [self.partitions.choose("t") for _ in range(4)])
        for partition in (2, 0, 0):
            self.partitions.ended("t", partition)
        self.assertEqual([2, 0, 1], [self.partitions.choose("t") for _ in range(3)])

    def test_now_and_then_any(self) -> None:
        """Some are left to librdkafka, which knows of partitions that are new."""
        self.know("t", 0)
        chosen = [self.partitions.choose("t") for _ in range(29)]
        self.assertEqual(3, chosen.count(ANY))

    def test_none_known(self) -> None:
        """While no event was delivered it is left to librdkafka."""
        self.assertEqual({ANY}, {self.partitions.choose("t") for _ in range(30)})

    def test_bound(self) -> None:
        """A topic that was forgotten for another is learnt again; what ends late does no harm."""
        for topic in ("a", "b", "c"):
            self.know(topic, 0, 1)
        self.partitions.ended("a", 0)
        self.partitions.learn("a", 5)
        self.know("a", 0)
        self.assertEqual(0, self.partitions.choose("c"))

    def test_forget(self) -> None:
        """A topic whose partitions are not what they were is learnt again."""
        self.know("t", 0, 1)
        self.partitions.choose("t")
        self.partitions.forget("t")
        self.partitions.ended("t", 0)
        self.know("t", 0)
        self.assertEqual(0, self.partitions.choose("t"))

    def test_most(self) -> None:
        """It is what the widest topic has."""
        self.assertEqual(0, self.partitions.most)
        self.know("a", 0, 1, 2)
        self.know("b", 0)
        self.assertEqual(3, self.partitions.most)
