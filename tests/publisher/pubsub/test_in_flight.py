"""What is in flight to Pub/Sub is bounded, and accounted for at the end."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raccoon.config import load
from raccoon.errors import PublishError
from raccoon.publisher import PublisherContext
from raccoon.publisher.pubsub import publisher as pubsub
from raccoon.publisher.pubsub.publisher import PubSubPublisher
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics, make_request
from tests.publisher.pubsub.case import PubSubTestCase
from tests.publisher.pubsub.fakes import BAD
from tests.publisher.watch import WAIT


class InFlightTests(PubSubTestCase):
    """What is on its way is bounded."""

    def test_publish_waits_for_room(self) -> None:
        """A publish over the bound waits in its thread until there is room."""
        self.patch(pubsub, "_IN_FLIGHT_EVENTS", 2)
        self.start()
        self.api.gate.clear()
        first = self.publish_later(make_request(events=[("click", b"1"), ("click", b"2")]))
        self.api.entered.get(timeout=WAIT)
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(self.publisher.publish, [make_request(events=[("click", b"3")])])
            self.api.gate.set()
            self.assertEqual(self.wait(second.result(WAIT)), [None])
        self.assertEqual(self.wait(first), [None])
        self.assertEqual(self.api.data, [b"1", b"2", b"3"])

    def test_no_room_until_the_deadline(self) -> None:
        """A request that found no room in time fails and says so."""
        self.patch(pubsub, "_IN_FLIGHT_EVENTS", 1)
        self.start(PUBLISH_TIMEOUT_MS="50")
        self.api.gate.clear()
        self.addCleanup(self.api.gate.set)
        first, second = self.publish_later(make_request(), make_request())
        self.check_failed(second, 1, 1, "too slowly, retry")
        self.api.gate.set()
        self.wait([first])

    def test_room_is_given_back(self) -> None:
        """Events that fail, for whatever reason, take no room."""
        self.patch(pubsub, "_IN_FLIGHT_EVENTS", 2)
        self.start()
        for events in (
            [("click", BAD), ("click", b"1")],
            [("click", b""), ("owl", b"1")],
            [("owl", b"1"), ("view", b"1")],
        ):
            self.publish(make_request(events=events))
        self.assertTrue(self.publisher._accounts.wait_until_empty(0))


class CloseTests(PubSubTestCase):
    """close(timeout)."""

    def test_sends_what_waits(self) -> None:
        """Batches that are not yet due are sent; nothing is undelivered then."""
        self.start(PUBLISH_DELAY_THRESHOLD_MS="3600000")
        outcomes = self.publish_later(make_request(events=[("click", b"1")] * 3))
        self.assertEqual(self.publisher.close(WAIT), 0)
        self.assertEqual(self.wait(outcomes), [None])
        self.assertEqual(self.api.data, [b"1"] * 3)

    def close_with(self, *requests: CollectRequest, **options: str) -> tuple[int, list[Any]]:
        """Close while nothing is answered; the count and the outcomes."""
        self.start(**options)
        self.publish(make_request())
        self.api.entered.get(timeout=WAIT)
        self.api.gate.clear()
        outcomes = self.publish_later(*requests)
        self.api.entered.get(timeout=WAIT)
        left = self.publisher.close(0)
        return left, self.wait(outcomes)

    def test_counts_what_is_left(self) -> None:
        """What is not answered in time is undelivered, to the event, and its requests say why."""
        left, outcomes = self.close_with(
            make_request(events=[("click", b"1")] * 30),
            make_request(events=[("click", b"1")] * 5 + [("view", b"1")] * 2),
            PUBLISH_COUNT_THRESHOLD="2",
        )
        self.assertEqual(left, 37)
        for outcome in outcomes:
            self.assertEqual(outcome.failed, outcome.total)
            self.assertIn("the server is shutting down", str(outcome))
        self.assertEqual(self.metrics.total("pubsub_messages_undelivered_total"), 37)

    def test_counts_what_waits_for_its_turn(self) -> None:
        """Batches that wait behind another of their key are counted too."""
        left, outcomes = self.close_with(
            *(make_request(events=[("click", b"1")]) for _ in range(2000)),
            EVENT_PARTITION_KEY="type",
            PUBLISH_COUNT_THRESHOLD="1",
        )
        self.assertEqual(left, 2000)
        self.assertEqual({type(outcome) for outcome in outcomes}, {PublishError})

    def test_failed_before(self) -> None:
        """What failed otherwise is not counted as left."""
        self.start()
        self.publish(make_request(events=[("click", BAD)]))
        self.assertEqual(self.publisher.close(WAIT), 0)

    def test_publish_after_close(self) -> None:
        """What comes after is undelivered."""
        self.start()
        self.publisher.close(0)
        (outcome,) = self.publish(make_request())
        self.check_failed(outcome, 1, 1, "the server is shutting down")

    def test_never_started(self) -> None:
        """A publisher that was not started closes, too."""
        context = PublisherContext(load({}, {}), FakeMetrics(), Supervisor(FakeMetrics()))
        self.assertEqual(PubSubPublisher(context).close(WAIT), 0)

    def test_no_thread_is_left(self) -> None:
        """Every thread ends."""
        self.start()
        self.publish(make_request())
        self.publisher.close(WAIT)
        names = [t.name for t in threading.enumerate() if t.name.startswith("pubsub-")]
        self.assertEqual(names, [])
