"""Requests on their way to Kafka: their partitions, and what failed of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from confluent_kafka import KafkaError, Message

from raccoon.errors import PublishError
from raccoon.interfaces import Outcome
from raccoon.publisher.base.delivery import Delivery, Group
from raccoon.publisher.kafka.partitions import ANY, Partitions
from raccoon.request import CollectRequest

_log = logging.getLogger(__name__)

Headers = dict[str, Any]

_NOWHERE = (ANY, 0)
_TOGETHER = 100
_INTERRUPTED = KafkaError(KafkaError._FAIL, "it could not be handed over")


class Owner(Protocol):
    """Who publishes a group."""

    def account(self, delivery: KafkaDelivery) -> PublishError | None:
        """Count a finished delivery and give its outcome."""

    def count(self, requests: Sequence[CollectRequest]) -> None:
        """Count the events of requests that were delivered."""

    def answered(self) -> None:
        """Kafka has taken all events of a request."""

    def send_alone(
        self, message: Message, headers: Headers | None, report: Callable[..., None]
    ) -> bool:
        """Send an event again in a batch of its own; False where that cannot be done."""


class KafkaGroup(Group):
    """Also has partitions: one of each topic for as much as makes up a batch, then another.

    Args:
        size: how many requests.
        owner: who publishes.
        partitions: chooses them; None leaves it to librdkafka.
        batch_bytes: that make up a batch.

    Attributes:
        topics: by event type, those that have taken events before.
    """

    def __init__(
        self, size: int, owner: Owner, partitions: Partitions | None, batch_bytes: int
    ) -> None:
        self.owner = owner
        self._partitions = partitions
        self._batch_bytes = batch_bytes
        self.topics: dict[str, str] = {}
        # By topic: where events go, and for how many bytes.
        self._going: dict[str, tuple[int, int]] = {}
        self._gone: list[tuple[str, int]] = []
        # Were delivered, and wait to be counted with so many others, or all that are left.
        self._delivered: list[KafkaDelivery] = []
        self._together = _TOGETHER
        super().__init__(size)

    def partition(self, topic: str, batch_bytes: int) -> int:
        """Where the next events for a topic go."""
        if self._partitions is None:
            return ANY
        partition, room = self._going.get(topic, _NOWHERE)
        if room <= 0:
            partition, room = self._partitions.choose(topic), self._batch_bytes
            self._gone.append((topic, partition))
        self._going[topic] = partition, room - batch_bytes
        return partition

    def ended(self, delivery: KafkaDelivery) -> None:
        """Every event of a request was delivered, or failed.

        What others act on is accounted for at once, all else together, which costs less.
        """
        if not delivery.errors:
            try:
                self.owner.answered()
            except Exception:
                _log.exception("that Kafka answers could not be told")
        if delivery.errors or delivery.tried:
            delivery.finish()
        else:
            with self.lock:
                self._delivered.append(delivery)
                if self._wait():
                    return
        self._count()

    def interrupted(self, deliveries: Sequence[KafkaDelivery]) -> None:
        """These were not handed over, the first perhaps in part: all their events failed."""
        self._apart()
        for delivery in deliveries:
            delivery.errors = [(event_type, _INTERRUPTED) for event_type in delivery.request.types]
            delivery.finish()

    def results(self, deliveries: Sequence[KafkaDelivery], patience: float) -> list[Outcome]:
        """The outcomes, or a Future of each that is not known in so many seconds."""
        if self.done.wait(patience):
            return [delivery.outcome for delivery in deliveries]
        self._apart()
        return [delivery.result() for delivery in deliveries]

    def end(self) -> None:
        """Every request is finished."""
        if self._partitions is not None:
            for topic, partition in self._gone:
                self._partitions.ended(topic, partition)
        super().end()

    def _apart(self) -> None:
        """Nobody waits for all any longer: what was delivered is counted now, or when it is."""
        self._together = 1
        self._count()

    def _wait(self) -> bool:
        return len(self._delivered) < min(self._together, self.pending)

    def _count(self) -> None:
        while delivered := self._due():
            try:
                self.owner.count([delivery.request for delivery in delivered])
            except Exception:
                _log.exception("what was delivered could not be counted")
            self.delivered(delivered)

    def _due(self) -> list[KafkaDelivery]:
        with self.lock:
            if self._wait():
                return []
            due, self._delivered = self._delivered, []
            return due


class KafkaDelivery(Delivery):
    """A request whose events a producer has.

    Args:
        group: the publish that it belongs to.
        request: whose events are on their way.

    Attributes:
        errors: the type of each event that failed, and why.
        tried: topics that it is the trial of.
    """

    __slots__ = ("errors", "tried")
    group: KafkaGroup

    def __init__(self, group: KafkaGroup, request: CollectRequest) -> None:
        super().__init__(group, request, group.owner.account)
        self.errors: list[tuple[str, KafkaError]] = []
        self.tried: list[str] = []


class Reports:
    """Takes the delivery reports of a request's events, and ends it when it is let go of.

    A producer with `delivery.report.only.error` reports what failed. It keeps the callable that
    came with an event until the event was delivered, or its failure reported. So the last
    reference goes when nothing is on its way and the publishing thread, too, has let go. A report
    of each event that was delivered would cost as much as handing it over.

    Args:
        delivery: that ends.
    """

    __slots__ = ("_delivery",)

    def __init__(self, delivery: KafkaDelivery) -> None:
        self._delivery = delivery

    def __del__(self) -> None:
        self._delivery.group.ended(self._delivery)

    def of(self, event_type: str, headers: Headers | None) -> Callable[..., None]:
        """What a producer is given with events of a type.

        The message of a report does not have the headers that the event was sent with.
        """
        return partial(self._failed, event_type, headers)

    def _failed(
        self, event_type: str, headers: Headers | None, error: KafkaError, message: Message
    ) -> None:
        failure = event_type, error
        errors = self._delivery.errors
        errors.append(failure)
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            alone = partial(self._failed_alone, event_type)
            if self._delivery.group.owner.send_alone(message, headers, alone):
                errors.remove(failure)

    def _failed_alone(self, event_type: str, error: KafkaError, _message: Message) -> None:
        self._delivery.errors.append((event_type, error))
