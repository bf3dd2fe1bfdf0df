"""Requests on their way to Kafka: their partitions, and what failed of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, Message

from raccoon.errors import PublishError
from raccoon.publisher.delivery import Delivery, Group
from raccoon.publisher.partitions import ANY, Partitions
from raccoon.request import CollectRequest

Headers = dict[str, Any]

_NOWHERE = (ANY, 0)


class KafkaGroup(Group):
    """Also has partitions: one of each topic for as much as makes up a batch, then another.

    Args:
        size: how many requests.
        partitions: chooses them; None leaves it to librdkafka.
        batch_bytes: that make up a batch.
    """

    def __init__(self, size: int, partitions: Partitions | None, batch_bytes: int) -> None:
        self._partitions = partitions
        self._batch_bytes = batch_bytes
        # By topic: where events go, and for how many bytes.
        self._going: dict[str, tuple[int, int]] = {}
        self._gone: list[tuple[str, int]] = []
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

    def end(self) -> None:
        """Every request is finished."""
        if self._partitions is not None:
            for topic, partition in self._gone:
                self._partitions.ended(topic, partition)
        super().end()


class KafkaDelivery(Delivery):
    """A request whose events a producer has.

    Args:
        group: the publish that it belongs to.
        request: whose events are on their way.
        account: called once when it finishes, and gives the outcome.
        send_alone: sends an event again in a batch of its own; False where it cannot.

    Attributes:
        errors: the type of each event that failed, and why.
        tried: topics that it is the trial of.
    """

    __slots__ = ("errors", "send_alone", "tried")
    group: KafkaGroup

    def __init__(
        self,
        group: KafkaGroup,
        request: CollectRequest,
        account: Callable[[Any], PublishError | None],
        send_alone: Callable[[Message, Headers | None, Callable[..., None]], bool],
    ) -> None:
        super().__init__(group, request, account)
        self.send_alone = send_alone
        self.errors: list[tuple[str, KafkaError]] = []
        self.tried: list[str] = []


class Reports:
    """Takes the delivery reports of a request's events, and finishes it when it is let go of.

    A producer with `delivery.report.only.error` reports what failed. It keeps the callable that
    came with an event until the event was delivered, or its failure reported. So the last
    reference goes when nothing is on its way and the publishing thread, too, has let go. A report
    of each event that was delivered would cost as much as handing it over.

    Args:
        delivery: to be finished.
    """

    __slots__ = ("_delivery",)

    def __init__(self, delivery: KafkaDelivery) -> None:
        self._delivery = delivery

    def __del__(self) -> None:
        self._delivery.finish()

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
            if self._delivery.send_alone(message, headers, alone):
                errors.remove(failure)

    def _failed_alone(self, event_type: str, error: KafkaError, _message: Message) -> None:
        self._delivery.errors.append((event_type, error))
