"""A Kafka publisher on a producer in memory."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from concurrent.futures import Future
from functools import partial
from types import MappingProxyType
from typing import Any, cast

import attrs
from confluent_kafka import Producer
from twisted.trial.unittest import SynchronousTestCase

from raccoon.config import KafkaSettings, Settings
from raccoon.errors import PublishError
from raccoon.interfaces import Outcome
from raccoon.publisher import PublisherContext
from raccoon.publisher.base.reachability import Reachability
from raccoon.publisher.kafka.options import KafkaOptions
from raccoon.publisher.kafka.producers import ALONE, MAIN, Producers
from raccoon.publisher.kafka.publisher import KafkaPublisher
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics, make_request
from tests.integration.waiting import wait_until
from tests.publisher.kafka.fakes import FakeProducer
from tests.publisher.watch import WAIT, GaugeWatch

SERVERS = {"bootstrap.servers": "broker.test:9092"}


class ProducersInMemory(Producers):
    """Creates FakeProducers; each is put into `created`.

    Attributes:
        failing_alone: by payload, what producers of single events report.
    """

    def __init__(
        self,
        context: PublisherContext,
        options: KafkaOptions,
        reachability: Reachability,
        capacity: int,
        reachable: bool,
    ) -> None:
        super().__init__(context, options, reachability)
        self._capacity = capacity
        self._reachable = reachable
        self.created: queue.Queue[FakeProducer] = queue.Queue()
        self.failing_alone: dict[bytes, int] = {}

    def create(self, besides: Mapping[str, Any] = MappingProxyType({})) -> Producer:
        on_error = partial(self.on_error, ALONE if besides else MAIN)
        producer = FakeProducer(on_error, self._capacity)
        producer.reachable = self._reachable
        if besides:
            producer.failures = self.failing_alone
        self.created.put(producer)
        return cast("Producer", producer)


class PublisherInMemory(KafkaPublisher):
    """A KafkaPublisher on FakeProducers."""

    _producers: ProducersInMemory

    def __init__(self, context: PublisherContext, capacity: int, reachable: bool) -> None:
        self._in_memory = capacity, reachable
        super().__init__(context)
        self.created = self._producers.created

    def _make_producers(self, context: PublisherContext) -> ProducersInMemory:
        return ProducersInMemory(context, self._options, self._reachability, *self._in_memory)


def make_context(
    metrics: FakeMetrics,
    client: dict[str, str],
    pattern: str = "clickstream-%s-log",
    key: str = "none",
    metadata: bool = False,
    ack: int = 1,
) -> PublisherContext:
    """The context of a publisher with these librdkafka options."""
    settings = Settings()
    event = attrs.evolve(
        settings.event,
        ack=ack,
        distribution_publisher_pattern=pattern,
        partition_key=key,
        metadata_enabled=metadata,
    )
    return PublisherContext(
        attrs.evolve(
            settings,
            event=event,
            publisher=attrs.evolve(settings.publisher, kafka=KafkaSettings(client=client)),
        ),
        metrics,
        Supervisor(metrics),
    )


def later(outcome: Outcome) -> Future[PublishError | None]:
    """An outcome that was not there yet."""
    assert isinstance(outcome, Future)
    return outcome


class KafkaTestCase(SynchronousTestCase):
    """A started publisher on a producer in memory."""

    def start(
        self,
        client: dict[str, str] | None = None,
        pattern: str = "clickstream-%s-log",
        capacity: int = 100_000,
        reachable: bool = True,
        key: str = "none",
        metadata: bool = False,
    ) -> None:
        """Start a publisher; it is closed when the test ends."""
        self.metrics = GaugeWatch()
        options = {**SERVERS, **(client or {})}
        context = make_context(self.metrics, options, pattern, key, metadata)
        self.publisher = PublisherInMemory(context, capacity, reachable)
        self.publisher.start()
        self.addCleanup(self.publisher.close, 0)
        self.producer = self.publisher.created.get(timeout=WAIT)

    def learn(self, *event_types: str) -> None:
        """Have the partitions of some types' topics known, where they are to be chosen."""
        if not self.publisher._options.chooses_partitions:
            return
        partitions = self.publisher._partitions
        self.patch(partitions, "_first_seconds", 0)
        partitions._pause_until = 0.0
        for topic in [*partitions._topics]:
            partitions.forget(topic)
        self.publish(make_request(events=[(event_type, b"first") for event_type in event_types]))
        wait_until(lambda: not partitions._due, "an answer")
        self.producer.asked.clear()

    def publish(self, *requests: CollectRequest) -> list[Any]:
        """The outcomes, those that come later included."""
        return [
            outcome.result(WAIT) if isinstance(outcome, Future) else outcome
            for outcome in self.publisher.publish(requests)
        ]

    def check_failed(self, outcome: Any, failed: int, total: int, reason: str = "") -> None:
        """An outcome is this PublishError."""
        self.assertIsInstance(outcome, PublishError)
        self.assertEqual((outcome.failed, outcome.total), (failed, total))
        self.assertIn(reason, str(outcome))
