"""Events to Apache Kafka through librdkafka (confluent-kafka)."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from types import MappingProxyType
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from zope.interface import implementer

from raccoon.errors import PublishError, StartError
from raccoon.interfaces import ILingeringPublisher, IOrderedPublisher, Outcome
from raccoon.publisher import PublisherContext
from raccoon.publisher.base.turns import Turns
from raccoon.publisher.kafka.delivery import Headers, KafkaDelivery, KafkaGroup, Reports
from raccoon.publisher.kafka.log import ClientLog
from raccoon.publisher.kafka.partitions import ANY, Partitions
from raccoon.publisher.kafka.statistics import Statistics
from raccoon.publisher.kafka.trials import Trials, Verdict
from raccoon.request import EVENT_BATCH_BYTES, CollectRequest

_log = logging.getLogger(__name__)

# A group waits this long for its delivery reports; what is later answers through a Future, so
# that one dead partition does not hold the answers of every other.
PATIENCE = 0.5
_POLL = 0.1
_POLL_BOTH = 0.01
_FULL_QUEUE_PAUSE = 0.01
_PROBE_EVERY = 2.0
_PROBE_TIMEOUT = 1.0
_LAST_REPORTS = 1.0
_MESSAGE_TIMEOUT = ("delivery.timeout.ms", "message.timeout.ms")
_MESSAGE_TIMEOUT_MS = 300_000  # librdkafka's default

# The worker gathers requests, so librdkafka need not wait for more: two waits cost more time and
# save no more work than one. There they only wait until a group was handed over, or it would be
# sent in parts. Of a long linger, in which much comes, they wait for the most part there.
_LINGER = ("linger.ms", "queue.buffering.max.ms")
_HANDING_OVER_MS = 0.5
_TIMER_MS = 1.0  # the reactor's timers are up to this late
_LINGER_MS_MAX = 900_000  # librdkafka's
# By acknowledgement level. At 0 it is librdkafka's default; at 1 clients wait for the delivery; at
# 2 they do not, the queue has no bound but bytes, and large groups cost least.
_LINGER_MS = (5.0, 2.0, 20.0)
_GATHERING_MS = (4.5, 4.5, 19.5)
# librdkafka's default, and that for clients that wait: past 64 KiB waiting for more gains little.
_BATCH_BYTES, _ENOUGH_BYTES_AWAITED = 1_000_000, 65_536

_UNKNOWN_TOPIC = frozenset(
    {
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_EXCEPTION,
    }
)
_TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE})
_LASTING = _UNKNOWN_TOPIC | _TOO_LARGE
_STILL_MISSING = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
_NO_NAME_OF_A_TOPIC = KafkaError(KafkaError.TOPIC_EXCEPTION)
_TOO_MANY_TOPICS = KafkaError(KafkaError._QUEUE_FULL, "too many new event types at once, retry")
_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})
_UNREACHABLE = frozenset({KafkaError._ALL_BROKERS_DOWN})
_WHY_UNREACHABLE = frozenset(
    {KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._SSL, KafkaError._AUTHENTICATION}
)

# Kafka has no limit of its own for a key; it travels with each event.
_KEY_BYTES = 1024
_MANY = 1 << 30
# Where topics have fewer partitions, a single group at a time would leave them idle between groups.
_PARALLEL_AT_LEAST = 3

# The producers, by what they are for.
_MAIN = "main"
_ALONE = "alone"

_TRANSACTIONAL = "transactional.id"


@implementer(IOrderedPublisher, ILingeringPublisher)
class KafkaPublisher:
    """Produces to topics named by the routing pattern.

    Any librdkafka option is taken from `settings.publisher.kafka.client`. Unless it says otherwise
    idempotence is on, and linger.ms is 2 at acknowledgement level 1, 20 at level 2. Up to 4.5 ms of
    the linger, at level 2 up to 19.5, are the worker's, which publishes all that came together;
    librdkafka has the rest. What makes up a batch.size, or 64 KiB at level 1 where that is not set,
    ends the worker's wait.

    Where it may choose, a group goes to partitions that have little on their way; see Partitions.

    With a partition key the events of a key reach librdkafka in the order in which they came, and
    an idempotent producer keeps it. What is sent again by `send_alone` may come behind later
    events of its key: to keep the order there, all of them would have to fail.
    """

    name = "kafka"

    def __init__(self, context: PublisherContext) -> None:
        self._client: dict[str, Any] = dict(context.settings.publisher.kafka.client)
        self._context = context
        self._metrics = context.metrics
        servers = self._client.get("bootstrap.servers") or self._client.get("metadata.broker.list")
        pattern = context.settings.event.distribution_publisher_pattern
        self.destination = f"Kafka at {servers}, topics {pattern}"
        self.reachable = True
        self._announced: bool | None = None
        self._last_trouble = ""
        self._message_timeout = _message_timeout(self._client)
        ack = context.settings.event.ack
        self.linger = _take_linger(self._client, ack)
        size = self._client.get("batch.size", "")
        self._batch_bytes = int(size) if size.isdigit() else _BATCH_BYTES
        waits_less = ack == 1 and not size.isdigit()
        self.enough_bytes = _ENOUGH_BYTES_AWAITED if waits_less else self._batch_bytes
        # Of small batches a group has several.
        self.group_bytes = max(self._batch_bytes, _BATCH_BYTES)
        self._producer: Producer
        self._single: Producer | None = None
        self._statistics = Statistics(context.metrics)
        keyed = context.settings.event.partition_key != "none"
        self._turns = Turns() if keyed else None
        self._trials = Trials(self._list_topics)
        chooses = not keyed and _may_choose(self._client)
        self._partitions = Partitions() if chooses else None
        # By type `_produce` keeps the order only where each type has a topic of its own.
        each = context.settings.event.metadata_enabled or (keyed and "%s" not in pattern)
        self._hand_over = self._produce_each if each else self._produce
        self._handing_over = 0
        self._poller = threading.Thread(target=self._poll, name="kafka-poller", daemon=True)
        self._closing = threading.Event()
        self._failed_for_good: set[str] = set()
        self._left = 0
        self._lock = threading.Lock()

    @property
    def parallel(self) -> int:
        """Groups for which there are partitions with nothing on its way, but some in any case."""
        known = 0 if self._partitions is None else self._partitions.most
        return max(known, _PARALLEL_AT_LEAST) if known else _MANY

    def start(self) -> None:
        """Create the producer and the thread that serves its reports.

        Raises:
            StartError: librdkafka refuses an option; in its words.
        """
        if _TRANSACTIONAL in self._client:
            raise StartError(
                f"{_variable(_TRANSACTIONAL)}: cannot be used: events are not sent in transactions"
            )
        try:
            self._producer = self._create()
        except KafkaException as error:
            raise StartError(f"Kafka client options: {_text(error.args[0])}") from None
        except (TypeError, ValueError) as error:
            raise StartError(f"Kafka client options: {error}") from None
        self._poller.start()

    def expect(self, requests: Sequence[CollectRequest]) -> None:
        """This group is next in order; see IOrderedPublisher."""
        if self._turns is not None:
            self._turns.expect(requests)

    def publish(self, requests: Sequence[CollectRequest]) -> list[Outcome]:
        """Produce all events and wait for their reports; see IPublisher."""
        group = KafkaGroup(len(requests), self, self._partitions, self._batch_bytes)
        deliveries = [KafkaDelivery(group, request) for request in requests]
        handed_over = 0
        with self._lock:
            self._handing_over += 1
        try:
            with nullcontext() if self._turns is None else self._turns.take(requests):
                for delivery in deliveries:
                    self._hand_over(delivery)
                    handed_over += 1
        except BaseException:
            group.interrupted(deliveries[handed_over:])
            raise
        finally:
            with self._lock:
                self._handing_over -= 1
        return group.results(deliveries, PATIENCE)

    def close(self, timeout: float) -> int:
        """Flush, then purge what is left; see IPublisher."""
        deadline = time.monotonic() + timeout
        self._closing.set()
        self._poller.join(_POLL + _PROBE_TIMEOUT + _LAST_REPORTS + 1)
        # What is handed over after the purge would have no report, ever.
        while self._handing_over:
            time.sleep(_FULL_QUEUE_PAUSE)
        producers = [self._producer, *([] if self._single is None else [self._single])]
        for producer in producers:
            producer.flush(max(deadline - time.monotonic(), 0))
        for producer in producers:
            _give_up(producer)
        return self._left

    def send_alone(
        self, message: Message, headers: Headers | None, report: Callable[..., None]
    ) -> bool:
        """Send an event again in a batch of its own.

        A broker refuses a whole batch for its size, and librdkafka then fails every event in it:
        only those that are too large by themselves are to fail.

        Returns:
            False where that cannot be done; no report comes then.
        """
        if self._closing.is_set():
            return False
        try:
            if self._single is None:
                self._single = self._create({"batch.num.messages": 1, "linger.ms": 0})
            topic = message.topic()
            assert topic is not None
            self._single.produce(
                topic, message.value(), message.key(), on_delivery=report, headers=headers or {}
            )
        except (KafkaException, BufferError):
            return False
        if self._turns is not None:
            _log.warning(
                "a batch for %s was too large, its events are sent alone and may come behind later"
                " ones of their keys; %s below the topic's max.message.bytes prevents it",
                topic,
                _variable("batch.size"),
            )
        return True

    def account(self, delivery: KafkaDelivery) -> PublishError | None:
        """Count a finished delivery and give its outcome."""
        request = delivery.request
        group = request.identifier.group
        failed: dict[str, int] = {}
        for event_type, error in delivery.errors:
            failed[event_type] = failed.get(event_type, 0) + 1
            self._count_failure(event_type, group, error)
        for event_type, payloads in request.by_type.items():
            delivered = len(payloads) - failed.get(event_type, 0)
            topic = self._context.route(event_type)
            if delivered:
                labels = (topic, group, event_type)
                self._metrics.count("kafka_messages_delivered_total", delivered, labels)
            if topic in delivery.tried:
                delivery.tried.remove(topic)
                self._trials.end(topic, delivered > 0)
        if not delivery.errors:
            return None
        reasons = [self._reason(event_type, error) for event_type, error in delivery.errors]
        lasts = all(error.code() in _LASTING for _, error in delivery.errors)
        return PublishError(len(reasons), len(request.types), reasons, failed if lasts else None)

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

    def answered(self) -> None:
        """Kafka has taken all events of a request."""
        if self._announced is not True:
            self._announce(True)

    def _create(self, besides: Mapping[str, Any] = MappingProxyType({})) -> Producer:
        """A producer, idempotent unless the user's options exclude it."""
        name = _ALONE if besides else _MAIN
        interval = self._context.settings.metric.runtime_stats_record_interval_ms
        options: dict[str, Any] = {
            "statistics.interval.ms": interval,
            **self._client,
            **besides,
            "delivery.report.only.error": True,  # see Reports
            "error_cb": partial(self._on_error, name),
            "stats_cb": partial(self._statistics.record, name),
            "logger": ClientLog(),
        }
        if "enable.idempotence" not in self._client:
            try:
                return Producer({**options, "enable.idempotence": True})
            except KafkaException as error:
                text = _text(error.args[0])
                if "enable.idempotence" not in text:
                    raise
                producer = Producer(options)
                self._partitions = None
                _log.warning("idempotence is off, as other options exclude it: %s", text)
                return producer
        return Producer(options)

    def _produce(self, delivery: KafkaDelivery) -> None:
        """Hand over a request's events type by type, which keeps the order of each type."""
        request = delivery.request
        reports = Reports(delivery)
        deadline = time.monotonic() + self._message_timeout
        # The careful way waits for room, and takes nothing once the publisher closes.
        careful = self._closing.is_set()
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
                        self._producer.produce(topic, payload, key, partition, report)
                        continue
                    except (BufferError, KafkaException, ValueError):
                        careful = True
                error = self._produce_one(deadline, topic, payload, key, partition, {}, report)
                if error is None:
                    continue
                if error.code() in _UNKNOWN_TOPIC:
                    delivery.errors += [(event_type, error)] * (len(payloads) - index)
                    delivery.group.topics.pop(event_type, None)
                    break
                delivery.errors.append((event_type, error))

    def _produce_each(self, delivery: KafkaDelivery) -> None:
        """Hand over a request's events in their order, with keys and headers."""
        request = delivery.request
        reports = Reports(delivery)
        deadline = time.monotonic() + self._message_timeout
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
                if error.code() in _UNKNOWN_TOPIC:
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
                topics[event_type] = _STILL_MISSING
            else:
                return dict.fromkeys(delivery.request.by_type, _TOO_MANY_TOPICS)
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
        while not self._closing.is_set():
            try:
                self._producer.produce(
                    topic, payload, key, partition, on_delivery=report, headers=headers
                )
            except BufferError:
                if time.monotonic() > deadline:
                    return KafkaError(KafkaError._QUEUE_FULL)
                time.sleep(_FULL_QUEUE_PAUSE)
            except KafkaException as error:
                refusal: KafkaError = error.args[0]
                if refusal.code() == KafkaError._INVALID_ARG:  # a name of more than 512 bytes
                    return _NO_NAME_OF_A_TOPIC
                if refusal.code() != KafkaError._UNKNOWN_PARTITION or partition == ANY:
                    return refusal
                self._forget_partitions(topic)
                partition = ANY
            except ValueError:  # a zero byte in the name
                return _NO_NAME_OF_A_TOPIC
            else:
                return None
        return KafkaError(KafkaError._PURGE_QUEUE)

    def _forget_partitions(self, topic: str) -> None:
        """The topic is another one of the same name, with fewer partitions."""
        if self._partitions is not None:
            self._partitions.forget(topic)

    def _count_failure(self, event_type: str, group: str, error: KafkaError) -> None:
        topic = self._context.route(event_type)
        self._metrics.count("kafka_messages_undelivered_total", 1, (topic, group, event_type))
        code = error.code()
        if code in _UNKNOWN_TOPIC:
            if error is not _STILL_MISSING:
                self._trials.miss(topic)
            labels = (topic, event_type, group)
            self._metrics.count("kafka_unknown_topic_failure_total", 1, labels)
        elif code in _TOO_LARGE:
            labels = (topic, group, event_type)
            self._metrics.count("kafka_message_too_large_total", 1, labels)
        elif code == KafkaError._UNKNOWN_PARTITION:
            self._forget_partitions(topic)
        if self._closing.is_set():
            with self._lock:
                self._left += 1

    def _reason(self, event_type: str, error: KafkaError) -> str:
        code = error.code()
        if code in _UNKNOWN_TOPIC:
            return f"topic {self._context.route(event_type)} does not exist"
        if code in _TOO_LARGE:
            return "message too large for Kafka (message.max.bytes)"
        if code in _PURGED:
            closing = self._closing.is_set()
            return "the server is shutting down" if closing else "lost to a fatal Kafka error"
        return _text(error)

    def _poll(self) -> None:
        """Serve reports; look for the brokers while they are not known to answer."""
        next_probe = 0.0
        while not self._closing.is_set():
            try:
                self._producer.poll(_POLL if self._single is None else _POLL_BOTH)
                if self._single is not None:
                    self._single.poll(0)
            except Exception:
                _log.exception("taking a report of Kafka's client failed")
            if _ALONE in self._failed_for_good:
                self._drop_single()
            if _MAIN in self._failed_for_good:
                self._replace()
            elif self._announced is not True and time.monotonic() >= next_probe:
                self._probe()
                next_probe = time.monotonic() + _PROBE_EVERY
            elif self.reachable:
                self._learn_partitions()

    def _list_topics(self) -> Collection[str] | None:
        """The cluster's topics; None where it does not answer."""
        try:
            return frozenset(self._producer.list_topics(timeout=_PROBE_TIMEOUT).topics)
        except KafkaException:
            return None

    def _learn_partitions(self) -> None:
        """Ask for those of a topic that is due: the ones that have a leader take events."""
        if self._partitions is None or (topic := self._partitions.due()) is None:
            return
        try:
            topics = self._producer.list_topics(topic, timeout=_PROBE_TIMEOUT).topics
        except (KafkaException, ValueError, RuntimeError):  # the last two: it is no topic's name
            topics = {}
        found = topics[topic].partitions if topic in topics else {}
        self._partitions.learn(topic, [one for one, of in found.items() if of.leader >= 0])

    def _probe(self) -> None:
        answers = self._list_topics() is not None
        if not answers:
            self._producer.poll(0)  # perhaps it says why
        self._announce(answers)

    def _replace(self) -> None:
        """After a fatal error an idempotent producer takes nothing more: start a new one."""
        try:
            fresh = self._create()
        except KafkaException as error:
            _log.error("no new Kafka producer yet: %s", _text(error.args[0]))
            time.sleep(_POLL)
            return
        self._failed_for_good.discard(_MAIN)
        spent, self._producer = self._producer, fresh
        _give_up(spent)
        self._statistics.retire(_MAIN)
        _log.warning("the Kafka producer was replaced after a fatal error")

    def _drop_single(self) -> None:
        """Likewise for the second producer, which is made when it is next needed."""
        self._failed_for_good.discard(_ALONE)
        spent, self._single = self._single, None
        if spent is not None:
            _give_up(spent)
            self._statistics.retire(_ALONE)

    def _on_error(self, producer: str, error: KafkaError) -> None:
        if error.fatal():
            self._failed_for_good.add(producer)
            _log.error("fatal Kafka error: %s", _text(error))
        elif error.code() in _UNREACHABLE:
            self._announce(False)
        elif error.code() in _WHY_UNREACHABLE:
            self._last_trouble = _text(error)

    def _announce(self, reachable: bool) -> None:
        if reachable == self._announced:
            return
        self._announced = self.reachable = reachable
        self._metrics.gauge("destination_reachable_current", float(reachable), ())
        if reachable:
            self._last_trouble = ""
            _log.info("%s answers", self.destination)
        else:
            trouble = self._last_trouble and f": {self._last_trouble}"
            _log.error("%s does not answer; trying on%s", self.destination, trouble)


def _give_up(producer: Producer) -> None:
    """Have all that a producer still holds reported as purged."""
    producer.purge()
    producer.flush(_LAST_REPORTS)


def _take_linger(client: dict[str, Any], ack: int) -> float:
    """Take the worker's part of the linger, in seconds, off what librdkafka is given."""
    given = [client[name] for name in _LINGER if name in client]
    try:
        linger = float(given[-1]) if given else _LINGER_MS[ack]
    except ValueError:
        return 0.0  # the start fails, in librdkafka's words
    if not 0 <= linger <= _LINGER_MS_MAX:
        return 0.0  # likewise
    for name in _LINGER:
        client.pop(name, None)
    gathering = min(max(linger - _HANDING_OVER_MS, 0), _GATHERING_MS[ack])
    client["linger.ms"] = linger - gathering
    return max(gathering - _TIMER_MS, _TIMER_MS) / 1000


def _may_choose(client: Mapping[str, str]) -> bool:
    """Whether nobody has a wish where events without keys go, and it matters where they do."""
    return (
        client.get("enable.idempotence", "true").lower() != "false"
        and client.get("partitioner", "random").endswith("random")
        and "sticky.partitioning.linger.ms" not in client
    )


def _message_timeout(client: Mapping[str, str]) -> float:
    """Seconds after which librdkafka gives a message up."""
    for name in _MESSAGE_TIMEOUT:
        if client.get(name, "").isdigit():
            return int(client[name]) / 1000
    return _MESSAGE_TIMEOUT_MS / 1000


def _variable(option: str) -> str:
    return "PUBLISHER_KAFKA_CLIENT_" + option.upper().replace(".", "_")


def _text(error: KafkaError) -> str:
    return str(error.str())
