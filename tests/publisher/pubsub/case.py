"""A Pub/Sub publisher on an API in memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from raccoon.config import load
from raccoon.errors import PublishError
from raccoon.publisher import PublisherContext
from raccoon.publisher.pubsub import client as pubsub_client
from raccoon.publisher.pubsub import publisher as pubsub
from raccoon.publisher.pubsub.client import PubSubClient
from raccoon.publisher.pubsub.publisher import PubSubPublisher
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics
from tests.publisher.pubsub.fakes import FakeApi
from tests.publisher.watch import WAIT

FAILURES = (
    "pubsub_unknown_topic_failure_total",
    "pubsub_permission_failure_total",
    "pubsub_unreachable_failure_total",
    "pubsub_topic_throughput_exceeded_total",
    "pubsub_topics_limit_exceeded_total",
)


class PubSubTestCase(SynchronousTestCase):
    """A started publisher on an API in memory."""

    def setUp(self) -> None:
        self.api = FakeApi()

    def start(self, **options: str) -> None:
        """Start a publisher whose options are these, without the prefix; it is closed at the end.

        Batches wait for nothing unless told to, and retries come at once.
        """
        self.patch(pubsub_client, "_FIRST_PAUSE", 0)
        self.patch(PubSubClient, "_open", lambda _, stored: self.api)
        self.metrics = FakeMetrics()
        named = {
            name if name.startswith(("EVENT_", "PUBSUB_")) else f"PUBLISHER_PUBSUB_{name}": value
            for name, value in {
                "PUBLISH_DELAY_THRESHOLD_MS": "0",
                "PUBSUB_EMULATOR_HOST": "emulator.test:1",
                "PROJECT_ID": "project",
                **options,
            }.items()
        }
        context = PublisherContext(
            load({}, {"PUBLISHER_TYPE": "pubsub", **named}), self.metrics, Supervisor(self.metrics)
        )
        self.publisher = PubSubPublisher(context)
        self.publisher.start()
        self.addCleanup(self.publisher.close, 0)
        self.addCleanup(self.api.gate.set)

    def publish(self, *requests: CollectRequest) -> list[Any]:
        """The outcomes, those that come later included."""
        return self.wait(self.publisher.publish(requests))

    def publish_later(self, *requests: CollectRequest) -> Sequence[Any]:
        """The outcomes as they are at once."""
        self.patch(pubsub, "PATIENCE", 0)
        return self.publisher.publish(requests)

    def wait(self, outcomes: Sequence[Any]) -> list[Any]:
        return [
            outcome.result(WAIT) if isinstance(outcome, Future) else outcome for outcome in outcomes
        ]

    def check_failed(
        self, outcome: Any, failed: int, total: int, reason: str, counter: str = ""
    ) -> None:
        """An outcome is this PublishError, and its events were counted so and not otherwise."""
        self.assertIsInstance(outcome, PublishError)
        self.assertEqual((outcome.failed, outcome.total), (failed, total))
        self.assertIn(reason, str(outcome))
        for name in FAILURES:
            self.assertEqual(self.metrics.total(name), failed if name == counter else 0, name)
