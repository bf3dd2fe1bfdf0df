"""Requests on their way to Kafka: their partitions and their events' delivery reports."""

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
        batch_bytes: payload bytes of a batch.

    Attributes:
        learns: some of its events go where librdkafka has them go, and `learn` is to be told.
    """

    def __init__(self, size: int, partitions: Partitions | None, batch_bytes: int) -> None:
        self._partitions = partitions
        self._batch_bytes = batch_bytes
        # By topic: where events go, and for how many bytes.
        self._going: dict[str, tuple[int, int]] = {}
        self._gone: list[tuple[str, int]] = []
        self.learns = False
        super().__init__(size)

    def partition(self, topic: str, payload_bytes: int) -> int:
        """Where the next events for a topic go."""
        if self._partitions is None:
            return ANY
        partition, room = self._going.get(topic, _NOWHERE)
        if room <= 0:
            partition, room = self._partitions.choose(topic), self._batch_bytes
            self._gone.append((topic, partition))
            self.learns = self.learns or partition == ANY
        self._going[topic] = partition, room - payload_bytes
        return partition

    def learn(self, message: Message) -> None:
        """One of its events was delivered."""
        if self._partitions is None:
            return
        topic, partition = message.topic(), message.partition()
        assert topic is not None
        assert partition is not None
        if self._going.get(topic, _NOWHERE)[0] == ANY:
            self._partitions.learn(topic, partition)

    def end(self) -> None:
        """Every request is finished."""
        if self._partitions is not None:
            for topic, partition in self._gone:
                self._partitions.ended(topic, partition)
        super().end()


class KafkaDelivery(Delivery):
    """Collects the delivery reports of a request's events.

    The reports run in the poller thread only, `handed_over` in the publishing thread; whichever
    sees the last event finishes the delivery.

    Args:
        group: the publish that it belongs to.
        request: whose events are on their way.
        account: called once when it finishes, and gives the outcome.
        send_alone: sends an event again in a batch of its own; False where it cannot.

    Attributes:
        errors: the type of each event that failed, and why.
        tried: topics that it is the trial of.
    """

    __slots__ = ("_expected", "_reported", "_send_alone", "errors", "tried")
    group: KafkaGroup

    def __init__(
        self,
        group: KafkaGroup,
        request: CollectRequest,
        account: Callable[[Any], PublishError | None],
        send_alone: Callable[[Message, Headers | None, Callable[..., None]], bool],
    ) -> None:
        super().__init__(group, request, account)
        self._send_alone = send_alone
        self._reported = 0
        self._expected = -1
        self.errors: list[tuple[str, KafkaError]] = []
        self.tried: list[str] = []

    def report(
        self, event_type: str, headers: Headers | None, error: KafkaError | None, message: Message
    ) -> None:
        """One of a request's events has its report; called once for each, so short.

        The message of a report does not have the headers that the event was sent with.
        """
        if error is None:
            if self.group.learns:
                self.group.learn(message)
        elif self._sent_alone(event_type, headers, error, message):
            return
        self._reported += 1
        if self._reported == self._expected:
            self.finish()

    def report_alone(self, event_type: str, error: KafkaError | None, _message: Message) -> None:
        """An event that was sent again has its report."""
        if error is not None:
            self.errors.append((event_type, error))
        self._reported += 1
        if self._reported == self._expected:
            self.finish()

    def _sent_alone(
        self, event_type: str, headers: Headers | None, error: KafkaError, message: Message
    ) -> bool:
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE and self._send_alone(
            message, headers, partial(self.report_alone, event_type)
        ):
            return True
        self.errors.append((event_type, error))
        return False

    def handed_over(self, accepted: int) -> None:
        """Reports come for so many of its events."""
        self._expected = accepted
        if self._reported == accepted:
            self.finish()
