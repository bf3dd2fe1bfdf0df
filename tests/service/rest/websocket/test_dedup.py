"""The memory of the batches of one connection."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from raccoon.service.rest.websocket.dedup import IN_FLIGHT, NEW, PUBLISHED, SeenBatches


class SeenBatchesTests(SynchronousTestCase):
    """What is new, in flight or published."""

    def setUp(self) -> None:
        self.seen = SeenBatches(3)
        self.told: list[tuple[str, bool]] = []

    def begin(self, guid: str, name: str = "copy") -> str:
        return self.seen.begin(guid, lambda published: self.told.append((name, published)))

    def test_life_of_a_batch(self) -> None:
        """A batch is new, then in flight, then published."""
        self.assertEqual(self.begin("a"), NEW)
        self.assertEqual(self.begin("a"), IN_FLIGHT)
        self.seen.settle("a", True)
        self.assertEqual(self.begin("a"), PUBLISHED)

    def test_copies_learn_the_outcome_in_order(self) -> None:
        """Those that wait for a batch learn its outcome, each once; the first copy does not."""
        for published in (True, False):
            self.told.clear()
            guid = f"guid-{published}"
            for name in ("first", "second", "third"):
                self.begin(guid, name)
            self.seen.settle(guid, published)
            self.seen.settle(guid, published)
            self.assertEqual(self.told, [("second", published), ("third", published)])

    def test_nobody_waits_for_what_is_published(self) -> None:
        """A copy of a published batch is not kept waiting."""
        self.begin("a")
        self.seen.settle("a", True)
        self.begin("a")
        self.seen.settle("a", True)
        self.assertEqual(self.told, [])

    def test_failed_batch_is_new_again(self) -> None:
        """A batch that failed is forgotten."""
        self.begin("a")
        self.seen.settle("a", False)
        self.assertEqual(self.begin("a"), NEW)

    def test_published_batch_that_failed_after_all_is_new_again(self) -> None:
        """A batch that was answered before it was lost is forgotten."""
        self.begin("a")
        self.seen.settle("a", True)
        self.seen.settle("a", False)
        self.assertEqual(self.begin("a"), NEW)

    def test_a_copy_may_begin_anew_while_it_is_told(self) -> None:
        """A waiter that is told of a failure may send the batch again at once."""
        again: list[str] = []
        self.begin("a")
        self.seen.begin("a", lambda published: again.append(self.begin("a")))
        self.seen.settle("a", False)
        self.assertEqual(again, [NEW])

    def test_oldest_published_is_forgotten(self) -> None:
        """Of the published ones as many as its size are remembered, the latest."""
        for guid in "abcd":
            self.begin(guid)
            self.seen.settle(guid, True)
        self.assertEqual([self.begin(guid) for guid in "bcda"], [PUBLISHED] * 3 + [NEW])

    def test_batches_in_flight_are_not_forgotten(self) -> None:
        """Whatever is published meanwhile, a batch in flight stays known."""
        self.begin("slow")
        for number in range(10):
            self.begin(str(number))
            self.seen.settle(str(number), True)
        self.assertEqual(self.begin("slow"), IN_FLIGHT)

    def test_guids_do_not_mix(self) -> None:
        """The outcome of one batch is not told to the copies of another."""
        for guid in ("a", "b"):
            self.begin(guid)
            self.begin(guid, guid)
        self.seen.settle("b", True)
        self.assertEqual(self.told, [("b", True)])
