"""Events to Apache Kafka through librdkafka (confluent-kafka)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaException, Message
from zope.interface import implementer

from raccoon.errors import StartError
from raccoon.interfaces import (
    ILingeringPublisher,
    IOrderedPublisher,
    IRejectingPublisher,
    Outcome,
)
from raccoon.publisher import PublisherContext
from raccoon.publisher.base.handover import HandOver
from raccoon.publisher.base.reachability import Reachability
from raccoon.publisher.base.threads import LoopThread
from raccoon.publisher.kafka.accounts import KafkaAccounts
from raccoon.publisher.kafka.delivery import Headers, KafkaDelivery, KafkaGroup
from raccoon.publisher.kafka.errors import text
from raccoon.publisher.kafka.options import KafkaOptions
from raccoon.publisher.kafka.partitions import Partitions
from raccoon.publisher.kafka.producers import LAST_REPORTS, PROBE_TIMEOUT, Producers, give_up
from raccoon.publisher.kafka.producing import Producing
from raccoon.publisher.kafka.trials import Trials
from raccoon.request import CollectRequest

# A group waits this long for its delivery reports; what is later answers through a Future, so
# that one dead partition does not hold the answers of every other.
PATIENCE = 0.5
_POLL = 0.1
_POLL_BOTH = 0.01
_PROBE_EVERY = 2.0
# A hand-over under way sees at once that nothing more is taken.
_HAND_OVER_ENDS = 5.0

_MANY = 1 << 30
# Where topics have fewer partitions, a single group at a time would leave them idle between groups.
_PARALLEL_AT_LEAST = 3


@implementer(IOrderedPublisher, ILingeringPublisher, IRejectingPublisher)
class KafkaPublisher:
    """Produces to topics named by the routing pattern.

    Any librdkafka option is taken from `settings.publisher.kafka.client`; see KafkaOptions.
    Idempotence is on unless other options exclude it.

    Where it may choose, a group goes to partitions that have little on their way; see Partitions.

    With a partition key the events of a key reach librdkafka in the order in which they came, and
    an idempotent producer keeps it. What is sent again by `send_alone` may come behind later
    events of its key: to keep the order there, all of them would have to fail.
    """

    name = "kafka"

    def __init__(self, context: PublisherContext) -> None:
        self._supervisor = context.supervisor
        self._options = options = KafkaOptions(context.settings)
        self.linger = options.linger
        self.enough_bytes = options.enough_bytes
        self.group_bytes = options.group_bytes
        pattern = context.settings.event.distribution_publisher_pattern
        self.destination = f"Kafka at {options.servers}, topics {pattern}"
        self._reachability = Reachability(context, self.destination)
        self._producers = self._make_producers(context)
        self._trials = Trials(self._producers.list_topics)
        self._partitions = Partitions()
        self._closing = threading.Event()
        # Nothing more is taken: it closes, or nobody polls any longer.
        self._stopped = threading.Event()
        self._accounts = KafkaAccounts(
            context, self._trials, self._partitions, self._reachability, self._closing
        )
        self._producing = Producing(
            context,
            self._producers,
            self._trials,
            self._partitions,
            options.message_timeout,
            self._stopped,
        )
        keyed = context.settings.event.partition_key != "none"
        self._hand_over = HandOver(self.name, self._supervisor, keyed)
        self.expect = self._hand_over.expect
        self.rejection = self._accounts.rejections.reason
        self.account = self._accounts.account
        self.count = self._accounts.count
        self.answered = self._accounts.answered
        self._poller = LoopThread(self._supervisor, "kafka-poller", self._poll, self._poller_ended)
        self._next_probe = 0.0

    @property
    def reachable(self) -> bool:
        """See IPublisher."""
        return self._reachability.reachable

    @property
    def parallel(self) -> int:
        """Groups for which there are partitions with nothing on its way, but some in any case."""
        known = self._partitions.most
        return max(known, _PARALLEL_AT_LEAST) if known else _MANY

    def start(self) -> None:
        """Create the producer and the thread that serves its reports.

        Raises:
            StartError: librdkafka refuses an option; in its words.
        """
        self._options.check()
        try:
            self._producers.open()
        except KafkaException as error:
            raise StartError(f"Kafka client options: {text(error.args[0])}") from None
        except (TypeError, ValueError) as error:
            raise StartError(f"Kafka client options: {error}") from None
        self._poller.start()

    def publish(self, requests: Sequence[CollectRequest]) -> list[Outcome]:
        """Produce all events and wait for their reports; see IPublisher."""
        chooses = self._options.chooses_partitions and self._producers.idempotent
        partitions = self._partitions if chooses else None
        group = KafkaGroup(
            len(requests), self._supervisor, self, partitions, self._options.batch_bytes
        )
        deliveries = [KafkaDelivery(group, request) for request in requests]
        self._hand_over.each(requests, deliveries, self._producing.produce)
        return group.results(deliveries, PATIENCE)

    def close(self, timeout: float) -> int:
        """Flush, then purge what is left; see IPublisher."""
        deadline = time.monotonic() + timeout
        self._closing.set()
        self._stopped.set()
        self._poller.stop()
        self._poller.join(_POLL + PROBE_TIMEOUT + LAST_REPORTS + 1)
        # What is handed over after the purge would have no report, ever.
        self._hand_over.wait_until_done(_HAND_OVER_ENDS)
        call = self._supervisor.call
        for producer in self._producers.all():
            call("kafka close", producer.flush, max(deadline - time.monotonic(), 0))
        for producer in self._producers.all():
            call("kafka close", give_up, producer)
        return self._accounts.left

    def send_alone(
        self, message: Message, headers: Headers | None, report: Callable[..., None]
    ) -> bool:
        """See Producers; nothing is sent again once the publisher closes."""
        return not self._stopped.is_set() and self._producers.send_alone(message, headers, report)

    def _make_producers(self, context: PublisherContext) -> Producers:
        return Producers(context, self._options, self._reachability)

    def _poll(self) -> None:
        """Serve reports; look for the brokers while they are not known to answer."""
        try:
            self._producers.poll(_POLL, _POLL_BOTH)
        finally:  # a report that could not be taken is no reason to do nothing else
            if not self._producers.replace_failed():
                self._poller.wait(_POLL)
            elif self._reachability.known is not True and time.monotonic() >= self._next_probe:
                self._producers.probe()
                self._next_probe = time.monotonic() + _PROBE_EVERY
            elif self.reachable and (topic := self._partitions.due()) is not None:
                self._partitions.learn(topic, self._producers.list_partitions(topic))

    def _poller_ended(self, _: BaseException) -> None:
        """Nobody serves reports any longer: have everything fail, now and from now on."""
        self._stopped.set()
        self._hand_over.wait_until_done(_HAND_OVER_ENDS)
        for producer in self._producers.all():
            give_up(producer)
