"""The producers: the one that gathers batches, and the one of single events."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from raccoon.publisher import PublisherContext
from raccoon.publisher.base.reachability import Reachability
from raccoon.publisher.kafka.delivery import Headers
from raccoon.publisher.kafka.errors import text
from raccoon.publisher.kafka.log import ClientLog
from raccoon.publisher.kafka.options import KafkaOptions, variable
from raccoon.publisher.kafka.statistics import Statistics

_log = logging.getLogger(__name__)

PROBE_TIMEOUT = 1.0
LAST_REPORTS = 1.0

# The producers, by what they are for.
MAIN = "main"
ALONE = "alone"

_UNREACHABLE = frozenset({KafkaError._ALL_BROKERS_DOWN})
_WHY_UNREACHABLE = frozenset(
    {KafkaError._TRANSPORT, KafkaError._RESOLVE, KafkaError._SSL, KafkaError._AUTHENTICATION}
)


class Producers:
    """Creates producers, and replaces one that a fatal error struck.

    `main` is handed over to by any thread; all else is for the thread that polls, and for `close`
    after its end.

    Attributes:
        main: takes events; it is there from `open` on.
        idempotent: False where the user's options exclude it; known from `open` on.

    Args:
        context: has the metrics and the supervisor, under which librdkafka's callbacks run.
        options: of librdkafka.
        reachability: told what librdkafka says of the brokers.
    """

    main: Producer

    def __init__(
        self, context: PublisherContext, options: KafkaOptions, reachability: Reachability
    ) -> None:
        self._supervisor = context.supervisor
        self._options = options
        self._interval = context.settings.metric.runtime_stats_record_interval_ms
        self._keyed = context.settings.event.partition_key != "none"
        self._reachability = reachability
        self._statistics = Statistics(context.metrics)
        self._alone: Producer | None = None
        self._failed: set[str] = set()
        self._trouble = ""
        self.idempotent = True

    def open(self) -> None:
        """Create the main producer; raises what librdkafka refuses."""
        self.main = self.create()

    def create(self, besides: Mapping[str, Any] = MappingProxyType({})) -> Producer:
        """A producer, idempotent unless the user's options exclude it."""
        name = ALONE if besides else MAIN
        call = self._supervisor.call
        client = self._options.client
        options: dict[str, Any] = {
            "statistics.interval.ms": self._interval,
            **client,
            **besides,
            "delivery.report.only.error": True,  # see Reports
            "error_cb": partial(call, "kafka error callback", partial(self.on_error, name)),
            "stats_cb": partial(call, "kafka statistics", partial(self._statistics.record, name)),
            "logger": ClientLog(self._supervisor),
        }
        if "enable.idempotence" not in client:
            try:
                return Producer({**options, "enable.idempotence": True})
            except KafkaException as error:
                reason = text(error.args[0])
                if "enable.idempotence" not in reason:
                    raise
                producer = Producer(options)
                self.idempotent = False
                _log.warning("idempotence is off, as other options exclude it: %s", reason)
                return producer
        return Producer(options)

    def poll(self, alone: float, both: float) -> None:
        """Serve reports and callbacks: wait so long for them, by the producers that there are."""
        self.main.poll(alone if self._alone is None else both)
        if self._alone is not None:
            self._alone.poll(0)

    def send_alone(
        self, message: Message, headers: Headers | None, report: Callable[..., None]
    ) -> bool:
        """Send an event again in a batch of its own.

        A broker refuses a whole batch for its size, and librdkafka then fails every event in it:
        only those that are too large by themselves are to fail.

        Returns:
            False where that cannot be done now; no report comes then.
        """
        topic = message.topic()
        assert topic is not None
        try:
            if self._alone is None:
                self._alone = self.create({"batch.num.messages": 1, "linger.ms": 0})
            self._alone.produce(
                topic, message.value(), message.key(), on_delivery=report, headers=headers or {}
            )
        except (KafkaException, BufferError):
            return False
        if self._keyed:
            _log.warning(
                "a batch for %s was too large, its events are sent alone and may come behind later"
                " ones of their keys; %s below the topic's max.message.bytes prevents it",
                topic,
                variable("batch.size"),
            )
        return True

    def list_topics(self) -> Collection[str] | None:
        """The cluster's topics; None where it does not answer."""
        try:
            return frozenset(self.main.list_topics(timeout=PROBE_TIMEOUT).topics)
        except KafkaException:
            return None

    def list_partitions(self, topic: str) -> list[int]:
        """The partitions of a topic that have a leader; none where the cluster does not answer."""
        try:
            topics = self.main.list_topics(topic, timeout=PROBE_TIMEOUT).topics
        except (KafkaException, ValueError, RuntimeError):  # the last two: it is no topic's name
            return []
        found = topics[topic].partitions if topic in topics else {}
        return [number for number, partition in found.items() if partition.leader >= 0]

    def probe(self) -> None:
        """Announce whether the brokers answer."""
        answer = self.list_topics() is not None
        if not answer:
            self.main.poll(0)  # an error callback may say why
        self._reachability.announce(answer, "" if answer else self._trouble)

    def replace_failed(self) -> bool:
        """Replace what a fatal error struck: an idempotent producer takes nothing more after one.

        Returns:
            False where that was not possible yet.
        """
        if ALONE in self._failed:
            self._failed.discard(ALONE)
            spent, self._alone = self._alone, None  # made again when it is needed
            if spent is not None:
                give_up(spent)
                self._statistics.retire(ALONE)
        if MAIN in self._failed:
            try:
                fresh = self.create()
            except KafkaException as error:
                _log.error("no new Kafka producer yet: %s", text(error.args[0]))
                return False
            self._failed.discard(MAIN)
            spent, self.main = self.main, fresh
            give_up(spent)
            self._statistics.retire(MAIN)
            _log.warning("the Kafka producer was replaced after a fatal error")
        return True

    def all(self) -> list[Producer]:
        """The producers that there are."""
        return [self.main] if self._alone is None else [self.main, self._alone]

    def on_error(self, producer: str, error: KafkaError) -> None:
        """librdkafka's error_cb of a producer."""
        if error.fatal():
            self._failed.add(producer)
            _log.error("fatal Kafka error: %s", text(error))
        elif error.code() in _UNREACHABLE:
            self._reachability.announce(False, self._trouble)
        elif error.code() in _WHY_UNREACHABLE:
            self._trouble = text(error)


def give_up(producer: Producer) -> None:
    """Have all that a producer still holds reported as purged."""
    producer.purge()
    producer.flush(LAST_REPORTS)
