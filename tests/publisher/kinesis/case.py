"""A Kinesis publisher on a boto3 client in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from raccoon.config import KinesisSettings, Settings
from raccoon.publisher import PublisherContext
from raccoon.publisher.kinesis import publisher as kinesis
from raccoon.publisher.kinesis import streams
from raccoon.publisher.kinesis.client import KinesisClient
from raccoon.publisher.kinesis.publisher import KinesisPublisher
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics, make_request
from tests.publisher.kinesis.fakes import FakeKinesis
from tests.publisher.watch import WAIT, GaugeWatch

THROTTLED = "ProvisionedThroughputExceededException"
MIB = 1 << 20


class PublisherInMemory(KinesisPublisher):
    """A KinesisPublisher on a FakeKinesis."""

    def __init__(self, context: PublisherContext, api: FakeKinesis) -> None:
        super().__init__(context)
        self._api = api

    def _open(self) -> KinesisClient:
        return KinesisClient(self._api)


def make_context(
    metrics: FakeMetrics, *, key: str = "none", metadata: bool = False, **options: Any
) -> PublisherContext:
    """The context of a publisher to streams named as the event types."""
    settings = Settings()
    event = attrs.evolve(
        settings.event,
        distribution_publisher_pattern="%s",
        partition_key=key,
        metadata_enabled=metadata,
    )
    publisher = attrs.evolve(settings.publisher, kinesis=KinesisSettings(**options))
    return PublisherContext(
        attrs.evolve(settings, event=event, publisher=publisher), metrics, Supervisor(metrics)
    )


def request_of(*payloads: bytes, stream: str = "s", **options: Any) -> CollectRequest:
    """A request of events for one stream."""
    return make_request(events=[(stream, payload) for payload in payloads], **options)


def settled(outcomes: Sequence[Any]) -> list[str | None]:
    """Each outcome, waited for: None, or the error's text."""
    results = [each.result(WAIT) if isinstance(each, Future) else each for each in outcomes]
    return [None if result is None else str(result) for result in results]


class KinesisTestCase(SynchronousTestCase):
    """A started publisher on a FakeKinesis that has the stream `s`."""

    def setUp(self) -> None:
        self.api = FakeKinesis()
        self.api.streams["s"] = "ACTIVE"
        self.metrics = GaugeWatch()
        self.pauses: list[int] = []
        self.patch(kinesis, "full_jitter", self.no_pause)
        self.patch(streams, "full_jitter", lambda attempts: 0.001)
        self.patch(kinesis, "PATIENCE", 0.02)

    def no_pause(self, attempts: int) -> float:
        """Remember how many attempts there were."""
        self.pauses.append(attempts)
        return 0.0

    def start(self, **options: Any) -> PublisherInMemory:
        """A publisher that is closed after the test."""
        publisher = PublisherInMemory(make_context(self.metrics, **options), self.api)
        publisher.start()
        self.addCleanup(publisher.close, 0)
        self.addCleanup(self.api.gate.set)
        return publisher

    def publish_at_once(
        self, publisher: KinesisPublisher, *requests: CollectRequest
    ) -> list[str | None]:
        """The outcomes of a group that waits as a whole when its first request is answered."""
        self.api.gate.clear()
        outcomes = publisher.publish(requests)
        publisher._outbox.hurry()
        self.api.gate.set()
        return settled(outcomes)

    def publish(self, publisher: KinesisPublisher, *requests: CollectRequest) -> list[str | None]:
        """The outcomes of a group."""
        return settled(publisher.publish(requests))

    def counted(self) -> dict[str, float]:
        """The sums of all counters of Kinesis."""
        sums: Counter[str] = Counter()
        for name, value, _ in self.metrics.counts:
            sums[name.removeprefix("kinesis_").removesuffix("_total")] += int(value)
        return dict(sums)
