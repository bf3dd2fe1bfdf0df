"""Tests of raccoon.publisher.pubsub.batching."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.pubsub.batching import Batch, Batcher, KeyQueue

LATER = float("inf")
LONG = 3600.0


class BatcherTests(SynchronousTestCase):
    """When a batch is sent, and with what."""

    def start(
        self, count: int = 100, size: int = 10_000, delay: float = LONG, overhead: int = 0
    ) -> None:
        self.sent: list[Batch] = []
        self.batcher = Batcher(self.sent.append, count, size, delay, overhead)

    def payloads(self) -> list[list[Any]]:
        return [batch.payloads for batch in self.sent]

    def test_by_count(self) -> None:
        """A batch goes as soon as it holds so many events; the rest waits."""
        self.start(count=3)
        self.batcher.add("a", 1, [b"1", b"2"], LATER)
        self.assertEqual([], self.sent)
        self.batcher.add("a", 2, [b"3", b"4", b"5", b"6", b"7"], LATER)
        self.assertEqual([[b"1", b"2", b"3"], [b"4", b"5", b"6"]], self.payloads())
        self.assertEqual([1, 1, 2], self.sent[0].owners)

    def test_by_size(self) -> None:
        """A batch goes before it would outgrow its bytes, the name and each overhead counted."""
        self.start(size=14, overhead=1)
        self.batcher.add("ab", 1, [b"1234", b"12345", b"1"], LATER)
        self.assertEqual([[b"1234", b"12345"]], self.payloads())
        self.assertEqual(14, self.sent[0].size)

    def test_one_that_is_larger(self) -> None:
        """An event above the size goes alone."""
        self.start(size=10)
        self.batcher.add("a", 1, [b"1", b"x" * 20, b"2"], LATER)
        self.batcher.hurry()
        self.assertEqual([[b"1"], [b"x" * 20], [b"2"]], self.payloads())

    def test_by_delay(self) -> None:
        """What is due is sent, and nothing before."""
        self.start()
        self.batcher.add("a", 1, [b"1"], LATER)
        self.batcher.send_due(0)
        self.assertEqual([], self.sent)
        self.start(delay=1e-9)
        self.batcher.add("a", 1, [b"1"], LATER)
        self.batcher.add("b", 1, [b"2"], LATER)
        self.batcher.send_due(LONG)
        self.batcher.send_due(0)
        self.assertEqual([[b"1"], [b"2"]], self.payloads())

    def test_no_delay(self) -> None:
        """Without a delay nothing waits."""
        self.start(delay=0)
        self.batcher.add("a", 1, [b"1", b"2"], LATER)
        self.assertEqual([[b"1", b"2"]], self.payloads())

    def test_hurry(self) -> None:
        """What is open goes, and what comes after goes at once."""
        self.start()
        self.batcher.add("a", 1, [b"1"], LATER)
        self.batcher.hurry()
        self.batcher.add("a", 1, [b"2"], LATER)
        self.assertEqual([[b"1"], [b"2"]], self.payloads())

    def test_names_and_keys_apart(self) -> None:
        """Each name and each key has a batch of its own."""
        self.start()
        self.batcher.add("a", 1, [b"1"], LATER)
        self.batcher.add("b", 1, [b"2"], LATER)
        self.batcher.add("a", 1, [b"3"], LATER, "key")
        self.batcher.add("a", 1, [b"4"], LATER)
        self.batcher.hurry()
        self.assertEqual(
            [("a", "", [b"1", b"4"]), ("b", "", [b"2"]), ("a", "key", [b"3"])],
            [(batch.name, batch.key, batch.payloads) for batch in self.sent],
        )

    def test_earliest_deadline(self) -> None:
        """A batch has the deadline of the event that is given up first."""
        self.start()
        for deadline in (5.0, 3.0, 4.0):
            self.batcher.add("a", 1, [b"1"], deadline)
        self.batcher.hurry()
        self.assertEqual(3.0, self.sent[0].deadline)

    def test_events_of_any_kind(self) -> None:
        """Events need not be bytes where their size is told."""
        sent: list[Batch] = []
        Batcher(sent.append, 100, 10, LONG, 0, size_of=int).add("a", 1, [5, 4, 1], LATER)
        self.assertEqual([[5, 4]], [batch.payloads for batch in sent])


class KeyQueueTests(SynchronousTestCase):
    """One batch of a key at a time."""

    def setUp(self) -> None:
        self.keys = KeyQueue(count=3, size=100)

    def batch(self, key: str, *payloads: bytes, name: str = "a", deadline: float = LATER) -> Batch:
        batch = Batch(name, key, 10, 0, deadline)
        for payload in payloads:
            batch.owners.append(payload)
            batch.payloads.append(payload)
            batch.size += len(payload)
        return batch

    def test_without_key(self) -> None:
        """Batches without a key go at once, and nothing waits for them."""
        for _ in range(2):
            batch = self.batch("", b"1")
            self.assertTrue(self.keys.enter(batch))
        self.assertIsNone(self.keys.leave(batch))

    def test_one_after_the_other(self) -> None:
        """A batch of a key waits for the one before it."""
        first, second, third = (self.batch("k", n, n, n) for n in (b"1", b"2", b"3"))
        entered = [self.keys.enter(batch) for batch in (first, second, third)]
        self.assertEqual([True, False, False], entered)
        self.assertIs(second, self.keys.leave(first))
        self.assertIs(third, self.keys.leave(second))
        self.assertIsNone(self.keys.leave(third))
        self.assertTrue(self.keys.enter(first))

    def test_other_keys_and_names(self) -> None:
        """A key waits for itself alone, in each topic by itself."""
        for batch in (self.batch("k"), self.batch("other"), self.batch("k", name="b")):
            self.assertTrue(self.keys.enter(batch))

    def test_waiting_batches_grow_together(self) -> None:
        """What waits is gathered, in order, up to the count."""
        first = self.batch("k", b"0")
        self.keys.enter(first)
        for n, deadline in ((b"1", 5.0), (b"2", 4.0), (b"3", 6.0), (b"4", LATER)):
            self.keys.enter(self.batch("k", n, deadline=deadline))
        second = self.keys.leave(first)
        assert second is not None
        self.assertEqual([b"1", b"2", b"3"], second.payloads)
        self.assertEqual([b"1", b"2", b"3"], second.owners)
        self.assertEqual((13, 4.0), (second.size, second.deadline))
        third = self.keys.leave(second)
        assert third is not None
        self.assertEqual([b"4"], third.payloads)

    def test_gathered_up_to_the_size(self) -> None:
        """What waits is not gathered beyond the bytes of a batch."""
        first = self.batch("k", b"0")
        self.keys.enter(first)
        second, third = self.batch("k", b"x" * 45), self.batch("k", b"x" * 46)
        self.keys.enter(second)
        self.keys.enter(third)
        self.assertIs(second, self.keys.leave(first))
        self.assertIs(third, self.keys.leave(second))
