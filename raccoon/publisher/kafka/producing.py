"""Hands the events of requests over to librdkafka."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from confluent_kafka import KafkaError, KafkaException

from raccoon.publisher import PublisherContext
from raccoon.publisher.kafka.delivery import Headers, KafkaDelivery, Reports
from raccoon.publisher.kafka.errors import (
    NOT_A_TOPIC_NAME,
    STILL_MISSING,
    TOO_MANY_TOPICS,
    UNKNOWN_TOPIC,
)
from raccoon.publisher.kafka.partitions import ANY, Partitions
from raccoon.publisher.kafka.producers import Producers
from raccoon.publisher.kafka.trials import Trials, Verdict
from raccoon.request import EVENT_BATCH_BYTES

_FULL_QUEUE_PAUSE = 0.01
# Kafka has no limit of its own for a key; it travels with each event.
_KEY_BYTES = 1024


class Producing:
    """Produces the events of a request at a time, from any thread.

    Args:
        context: has the routing pattern, keys and metadata.
        producers: take events.
        trials: decides about topics that have not taken one yet.
        partitions: told of one that is gone.
        timeout: seconds for which an event waits for room in librdkafka's queue.
        stopped: set when nothing more is taken.
    """

    def __init__(
        self,
        context: PublisherContext,
        producers: Producers,
        trials: Trials,
        partitions: Partitions,
        timeout: float,
        stopped: threading.Event,
    ) -> None:
        self._context = context
        self._producers = producers
        self._trials = trials
        self._partitions = partitions
        self._timeout = timeout
        self._stopped = stopped
        event = context.settings.event
        # By type `_produce` keeps the order only where each type has a topic of its own.
        shared = event.partition_key != "none" and (
            "%s" not in event.distribution_publisher_pattern
        )
        self.produce = self._produce_each if event.metadata_enabled or shared else self._produce

    def _produce(self, delivery: KafkaDelivery) -> None:
        """Hand over a request's events type by type, which keeps the order of each type."""
        request = delivery.request
        reports = Reports(delivery)
        deadline = time.monotonic() + self._timeout
        produce = self._producers.main.produce
        # The careful way waits for room, and takes nothing once the publisher closes.
        careful = self._stopped.is_set()
        topics = self._topics(delivery)
        for event_type, payloads in request.by_type.items():
            topic = topics[event_type]
            if isinstance(topic, KafkaError):
                delivery.errors += [(event_type, topic)] * len(payloads)
                continue
            key = self._context.partition_key(request, event_type, _KEY_BYTES)
            size = request.batch_bytes * len(payloads) // len(request.types)
            partition = delivery.group.partition(topic, size)
            report = reports.of(event_type, None)
            for index, payload in enumerate(payloads):
                if not careful:
                    try:
                        # By position: names would take half as long again.
                        produce(topic, payload, key, partition, report)
                        continue
                    except (BufferError, KafkaException, ValueError):
                        careful = True
                error = self._produce_one(deadline, topic, payload, key, partition, {}, report)
                if error is None:
                    continue
                if error.code() in UNKNOWN_TOPIC:
                    delivery.errors += [(event_type, error)] * (len(payloads) - index)
                    delivery.group.topics.pop(event_type, None)
                    break
                delivery.errors.append((event_type, error))

    def _produce_each(self, delivery: KafkaDelivery) -> None:
        """Hand over a request's events in their order, with keys and headers."""
        request = delivery.request
        reports = Reports(delivery)
        deadline = time.monotonic() + self._timeout
        topics = dict(self._topics(delivery))
        keys = {
            event_type: self._context.partition_key(request, event_type, _KEY_BYTES)
            for event_type in request.by_type
        }
        for index, event_type in enumerate(request.types):
            topic, key = topics[event_type], keys[event_type]
            if isinstance(topic, KafkaError):
                delivery.errors.append((event_type, topic))
                continue
            headers: Headers = self._context.metadata(request, index) or {}
            size = len(request.payloads[index]) + EVENT_BATCH_BYTES
            partition = delivery.group.partition(topic, size)
            report = reports.of(event_type, headers)
            error = self._produce_one(
                deadline, topic, request.payloads[index], key, partition, headers, report
            )
            if error is not None:
                delivery.errors.append((event_type, error))
                if error.code() in UNKNOWN_TOPIC:
                    topics[event_type] = error
                    delivery.group.topics.pop(event_type, None)

    def _topics(self, delivery: KafkaDelivery) -> Mapping[str, str | KafkaError]:
        """Where the events of each type go, or why they cannot go there.

        Where one type has to wait all do: what is sent again is the whole request.
        """
        known = delivery.group.topics
        if known.keys() >= delivery.request.by_type.keys():
            return known
        topics: dict[str, str | KafkaError] = {}
        for event_type in delivery.request.by_type:
            topic = self._context.route(event_type)
            topics[event_type] = topic
            if topic in self._trials.passed:
                known[event_type] = topic
                continue
            verdict = self._trials.begin(topic)
            if verdict is Verdict.TRY:
                delivery.tried.append(topic)
            elif verdict is Verdict.MISSING:
                topics[event_type] = STILL_MISSING
            else:
                return dict.fromkeys(delivery.request.by_type, TOO_MANY_TOPICS)
        return topics

    def _produce_one(
        self,
        deadline: float,
        topic: str,
        payload: bytes,
        key: str | None,
        partition: int,
        headers: Headers,
        report: Callable[..., None],
    ) -> KafkaError | None:
        """Hand over one event, waiting while the queue is full; gives why it was not taken."""
        while not self._stopped.is_set():
            try:
                self._producers.main.produce(
                    topic, payload, key, partition, on_delivery=report, headers=headers
                )
            except BufferError:
                if time.monotonic() > deadline:
                    return KafkaError(KafkaError._QUEUE_FULL)
                time.sleep(_FULL_QUEUE_PAUSE)
            except KafkaException as error:
                refusal: KafkaError = error.args[0]
                if refusal.code() == KafkaError._INVALID_ARG:  # a name of more than 512 bytes
                    return NOT_A_TOPIC_NAME
                if refusal.code() != KafkaError._UNKNOWN_PARTITION or partition == ANY:
                    return refusal
                self._partitions.forget(topic)  # another topic of the same name
                partition = ANY
            except ValueError:  # a zero byte in the name
                return NOT_A_TOPIC_NAME
            else:
                return None
        return KafkaError(KafkaError._PURGE_QUEUE)
