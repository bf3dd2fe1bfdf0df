"""What became of requests to Kafka, in metrics, outcomes and what is known of topics."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence

from confluent_kafka import KafkaError

from raccoon.errors import PublishError
from raccoon.publisher import PublisherContext
from raccoon.publisher.base.reachability import Reachability
from raccoon.publisher.base.rejections import Rejections
from raccoon.publisher.kafka.delivery import KafkaDelivery
from raccoon.publisher.kafka.errors import (
    LASTING,
    PURGED,
    STILL_MISSING,
    TOO_LARGE,
    UNKNOWN_TOPIC,
    text,
)
from raccoon.publisher.kafka.partitions import Partitions
from raccoon.publisher.kafka.trials import Trials
from raccoon.request import CollectRequest


class KafkaAccounts:
    """Accounts for requests that ended.

    Attributes:
        left: events that failed since the publisher closes.
        rejections: event types whose topic is known to be missing.

    Args:
        context: has the metrics, the supervisor and the routing pattern.
        trials: told of topics that took events, and of missing ones.
        partitions: told of one that is gone.
        reachability: told that Kafka answered.
        closing: set when the publisher closes.
    """

    def __init__(
        self,
        context: PublisherContext,
        trials: Trials,
        partitions: Partitions,
        reachability: Reachability,
        closing: threading.Event,
    ) -> None:
        self._context = context
        self._metrics = context.metrics
        self._trials = trials
        self._partitions = partitions
        self._reachability = reachability
        self._closing = closing
        self._lock = threading.Lock()
        self.left = 0
        self.rejections = Rejections()

    def answered(self) -> None:
        """Kafka has taken all events of a request."""
        if self._reachability.known is not True:
            self._reachability.announce(True)

    def count(self, requests: Sequence[CollectRequest]) -> None:
        """Count the events of requests that were delivered."""
        counted: defaultdict[tuple[str, str], int] = defaultdict(int)
        for request in requests:
            group = request.identifier.group
            for event_type, payloads in request.by_type.items():
                counted[event_type, group] += len(payloads)
        for (event_type, group), events in counted.items():
            labels = (self._context.route(event_type), group, event_type)
            self._metrics.count("kafka_messages_delivered_total", events, labels)

    def account(self, delivery: KafkaDelivery) -> PublishError | None:
        """Account for a finished delivery, and give its outcome."""
        if delivery.errors and self._closing.is_set():
            with self._lock:
                self.left += len(delivery.errors)
        self._context.supervisor.call("kafka accounting", self._account, delivery)
        if not delivery.errors:
            return None
        failed: dict[str, int] = {}
        for event_type, _ in delivery.errors:
            failed[event_type] = failed.get(event_type, 0) + 1
        reasons = [self._reason(event_type, error) for event_type, error in delivery.errors]
        lasts = all(error.code() in LASTING for _, error in delivery.errors)
        return PublishError(
            len(reasons), len(delivery.request.types), reasons, failed if lasts else None
        )

    def _account(self, delivery: KafkaDelivery) -> None:
        request = delivery.request
        group = request.identifier.group
        left = {kind: len(payloads) for kind, payloads in request.by_type.items()}
        for event_type, _ in delivery.errors:
            left[event_type] -= 1
        # What others wait for comes before any metric.
        try:
            for event_type, error in delivery.errors:
                if error.code() in UNKNOWN_TOPIC:
                    self._missing(event_type, error)
        finally:
            for topic in delivery.tried:
                took = [kind for kind in left if left[kind] and self._context.route(kind) == topic]
                self._trials.end(topic, bool(took))
                for event_type in took:
                    self.rejections.accept(event_type)
        for event_type, error in delivery.errors:
            self._count_failure(event_type, group, error)
        for event_type, delivered in left.items():
            if delivered:
                labels = (self._context.route(event_type), group, event_type)
                self._metrics.count("kafka_messages_delivered_total", delivered, labels)

    def _missing(self, event_type: str, error: KafkaError) -> None:
        topic = self._context.route(event_type)
        if error is not STILL_MISSING:
            self._trials.miss(topic)
        self.rejections.reject(event_type, f"topic {topic} does not exist")

    def _count_failure(self, event_type: str, group: str, error: KafkaError) -> None:
        topic = self._context.route(event_type)
        self._metrics.count("kafka_messages_undelivered_total", 1, (topic, group, event_type))
        code = error.code()
        if code in UNKNOWN_TOPIC:
            labels = (topic, event_type, group)
            self._metrics.count("kafka_unknown_topic_failure_total", 1, labels)
        elif code in TOO_LARGE:
            labels = (topic, group, event_type)
            self._metrics.count("kafka_message_too_large_total", 1, labels)
        elif code == KafkaError._UNKNOWN_PARTITION:
            self._partitions.forget(topic)

    def _reason(self, event_type: str, error: KafkaError) -> str:
        code = error.code()
        if code in UNKNOWN_TOPIC:
            return f"topic {self._context.route(event_type)} does not exist"
        if code in TOO_LARGE:
            return "message too large for Kafka (message.max.bytes)"
        if code in PURGED:
            closing = self._closing.is_set()
            return "the server is shutting down" if closing else "lost to a fatal Kafka error"
        return text(error)
