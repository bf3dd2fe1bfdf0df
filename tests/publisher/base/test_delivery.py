"""Tests of raccoon.publisher.base.delivery."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from raccoon.errors import PublishError
from raccoon.publisher.base.delivery import CountedDelivery, Failure, Group, outcome_of
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics, make_request

LOST = Failure("lost")
NEVER = Failure("too large", lasting=True)


class DeliveryTests(SynchronousTestCase):
    """From events to the outcome of their request."""

    def setUp(self) -> None:
        self.supervisor = Supervisor(FakeMetrics())
        self.finished: list[CountedDelivery] = []

    def account(self, delivery: Any) -> PublishError | None:
        self.finished.append(delivery)
        failed = sum(events for _, events, _ in delivery.failures)
        return PublishError(failed, len(delivery.request.types), ["lost"]) if failed else None

    def deliver(self, group: Group, *types: str) -> CountedDelivery:
        request = make_request(events=[(event_type, b"1") for event_type in types])
        return CountedDelivery(group, request, self.account, 0)

    def test_last_event_finishes(self) -> None:
        """A delivery finishes with its last event, and wakes its group with its last request."""
        group = Group(2, self.supervisor)
        first, second = self.deliver(group, "a", "a", "b"), self.deliver(group, "a")
        first.settle("a", 2, None)
        self.assertEqual([], self.finished)
        first.settle("b", 1, None)
        self.assertEqual([first], self.finished)
        self.assertFalse(group.done.is_set())
        second.settle("a", 1, LOST)
        self.assertTrue(group.done.is_set())
        self.assertIsNone(first.result())
        self.assertIsInstance(second.result(), PublishError)
        self.assertEqual([("a", 1, LOST)], second.failures)

    def test_outcome_that_comes_later(self) -> None:
        """Who does not wait has a Future, which fires with the outcome."""
        delivery = self.deliver(Group(1, self.supervisor), "a", "a")
        later = delivery.result()
        assert isinstance(later, Future)
        delivery.settle("a", 1, None)
        self.assertFalse(later.done())
        delivery.settle("a", 1, LOST)
        self.assertIsInstance(later.result(0), PublishError)

    def test_accounting_that_fails(self) -> None:
        """The outcome is then a failure, and nobody waits for ever."""

        def account(_: Any) -> PublishError | None:
            raise ValueError("no such metric")

        group = Group(1, self.supervisor)
        delivery = CountedDelivery(group, make_request(events=[("a", b"1")] * 3), account, 0)
        delivery.settle("a", 3, None)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.assertTrue(group.done.is_set())
        outcome = delivery.result()
        assert isinstance(outcome, PublishError)
        self.assertEqual((3, 3), (outcome.failed, outcome.total))
        self.assertIn("no such metric", str(outcome))

    def test_finished_once(self) -> None:
        """A second finish is nothing."""
        group = Group(2, self.supervisor)
        delivery = self.deliver(group, "a")
        delivery.finish()
        delivery.finish()
        self.assertEqual([delivery], self.finished)
        self.assertEqual(1, group.pending)

    def test_given_up(self) -> None:
        """Giving up fails what is not settled yet; what is settled later changes nothing."""
        delivery = self.deliver(Group(1, self.supervisor), "a", "a", "b")
        delivery.settle("a", 1, None)
        delivery.give_up(LOST)
        delivery.settle("b", 1, None)
        delivery.give_up(LOST)
        self.assertEqual([("a", 1, LOST), ("b", 1, LOST)], delivery.failures)
        self.assertEqual([delivery], self.finished)

    def test_interrupted(self) -> None:
        """An unexpected error fails what is not settled yet; an empty request is done."""
        group = Group(2, self.supervisor)
        delivery, empty = self.deliver(group, "a", "b"), self.deliver(group)
        delivery.settle("a", 1, None)
        for each in (delivery, empty):
            each.interrupted(KeyError())
        self.assertEqual([("b", 1, Failure("not sent: KeyError"))], delivery.failures)
        self.assertTrue(group.done.is_set())
        self.assertIsNone(empty.result())

    def test_empty_group(self) -> None:
        """A group of nothing is not waited for."""
        self.assertTrue(Group(0, self.supervisor).done.is_set())


class OutcomeTests(SynchronousTestCase):
    """What a request's failures make of it."""

    def lasting(self, *failures: tuple[str, int, Failure]) -> dict[str, int]:
        outcome = outcome_of(failures, 9)
        assert outcome is not None
        self.assertEqual(sum(events for _, events, _ in failures), outcome.failed)
        return dict(outcome.lasting)

    def test_delivered(self) -> None:
        """Without a failure there is none."""
        self.assertIsNone(outcome_of([], 9))

    def test_for_ever(self) -> None:
        """Where no event that failed can ever be delivered, it says how many of each type."""
        failures = (("a", 2, NEVER), ("b", 1, NEVER), ("a", 1, NEVER))
        self.assertEqual({"a": 3, "b": 1}, self.lasting(*failures))

    def test_for_now(self) -> None:
        """Where one that failed may be delivered yet, the request is to be tried again."""
        self.assertEqual({}, self.lasting(("a", 2, NEVER), ("b", 1, LOST)))
        self.assertEqual({}, self.lasting(("a", 1, LOST)))
