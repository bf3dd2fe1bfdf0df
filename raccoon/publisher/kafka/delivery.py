"""Requests on their way to Kafka: their partitions, and what failed of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from confluent_kafka import KafkaError, Message

from raccoon.errors import PublishError
from raccoon.interfaces import Outcome
from raccoon.publisher.base.delivery import Delivery, Group
from raccoon.publisher.kafka.errors import INTERRUPTED, NOT_SENT_ALONE
from raccoon.publisher.kafka.partitions import ANY, Partitions
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor

Headers = dict[str, Any]

_NOWHERE = (ANY, 0)
_COUNTED_TOGETHER = 100


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
        supervisor: told what fails unexpectedly.
        owner: who publishes.
        partitions: chooses them; None leaves it to librdkafka.
        batch_bytes: that make up a batch.

    Attributes:
        topics: by event type, those that have taken events before.
    """

    def __init__(
        self,
        size: int,
        supervisor: Supervisor,
        owner: Owner,
        partitions: Partitions | None,
        batch_bytes: int,
    ) -> None:
        self.owner = owner
        self._partitions = partitions
        self._batch_bytes = batch_bytes
        self.topics: dict[str, str] = {}
        # By topic: where events go, and for how many bytes.
        self._going: dict[str, tuple[int, int]] = {}
        self._gone: list[tuple[str, int]] = []
        # Delivered, and to be counted together with so many others, or with all that are left.
        self._uncounted: list[KafkaDelivery] = []
        self._counted_together = _COUNTED_TOGETHER
        super().__init__(size, supervisor)

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

        Failures and topic trials are accounted for immediately; plain successes are batched.
        """
        if delivery.finished:  # it was interrupted
            return
        if not delivery.errors:
            try:
                self.owner.answered()
            except Exception as error:
                self.supervisor.failed("kafka accounting", error)
        if delivery.errors or delivery.tried:
            delivery.finish()
        else:
            with self.lock:
                self._uncounted.append(delivery)
                if self._too_few():
                    return
        self._count()

    def results(self, deliveries: Sequence[KafkaDelivery], patience: float) -> list[Outcome]:
        """The outcomes, or a Future of each that is not known in so many seconds."""
        if self.done.wait(patience):
            return [delivery.outcome for delivery in deliveries]
        self.count_singly()
        return [delivery.result() for delivery in deliveries]

    def end(self) -> None:
        """Every request is finished."""
        try:
            if self._partitions is not None:
                for topic, partition in self._gone:
                    self._partitions.ended(topic, partition)
        finally:
            super().end()

    def count_singly(self) -> None:
        """Nobody waits for the whole group any longer: count each success as it comes."""
        self._counted_together = 1
        self._count()

    def _too_few(self) -> bool:
        return len(self._uncounted) < min(self._counted_together, self.pending)

    def _count(self) -> None:
        while delivered := self._due():
            requests = [delivery.request for delivery in delivered]
            self.supervisor.call("kafka accounting", self.owner.count, requests)
            self.delivered(delivered)

    def _due(self) -> list[KafkaDelivery]:
        with self.lock:
            if self._too_few():
                return []
            due, self._uncounted = self._uncounted, []
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

    def interrupted(self, _: BaseException) -> None:
        """It was not handed over, or only in part: all its events failed."""
        self.group.count_singly()
        self.errors = [(event_type, INTERRUPTED) for event_type in self.request.types]
        self.finish()


class Reports:
    """Takes the delivery reports of a request's events, and ends it when it is let go of.

    A producer with `delivery.report.only.error` reports what failed. It keeps the callable that
    came with an event until the event was delivered, or its failure reported. So the last
    reference goes when nothing is on its way and the publishing thread, too, has let go. A report
    of each event that was delivered would cost as much as handing it over.

    Args:
        delivery: that ends.
    """

    __slots__ = ("_delivery", "_errors")

    def __init__(self, delivery: KafkaDelivery) -> None:
        self._delivery = delivery
        # A delivery that is interrupted has others.
        self._errors = delivery.errors

    def __del__(self) -> None:
        delivery = self._delivery
        try:
            delivery.group.ended(delivery)
        except BaseException as error:  # Python would but print it
            delivery.group.supervisor.failed("kafka delivery", error)
            delivery.interrupted(error)

    def of(self, event_type: str, headers: Headers | None) -> Callable[..., None]:
        """What a producer is given with events of a type.

        The message of a report does not have the headers that the event was sent with.
        """
        return partial(self._failed, event_type, headers)

    def _failed(
        self, event_type: str, headers: Headers | None, error: KafkaError, message: Message
    ) -> None:
        if error.code() != KafkaError.MSG_SIZE_TOO_LARGE:
            self._errors.append((event_type, error))
            return
        # The batch was too large, but perhaps not the event: another attempt may deliver it.
        failure = event_type, NOT_SENT_ALONE
        self._errors.append(failure)
        group = self._delivery.group
        alone = partial(self._failed_alone, event_type)
        send_alone = group.owner.send_alone
        if group.supervisor.call("kafka delivery", send_alone, message, headers, alone):
            self._errors.remove(failure)

    def _failed_alone(self, event_type: str, error: KafkaError, _message: Message) -> None:
        self._errors.append((event_type, error))
