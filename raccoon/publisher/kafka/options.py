"""What librdkafka and the worker are told of the user's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raccoon.config import Settings
from raccoon.errors import StartError

_MESSAGE_TIMEOUT = ("delivery.timeout.ms", "message.timeout.ms")
_MESSAGE_TIMEOUT_MS = 300_000  # librdkafka's default

# The linger is split. The worker lingers to gather requests into a group; lingering twice only adds
# latency, so librdkafka's linger just covers the hand-over of one group, which would be sent in
# several batches otherwise. Of a linger longer than the worker's maximum, librdkafka has the rest.
_LINGER = ("linger.ms", "queue.buffering.max.ms")
_HAND_OVER_MS = 0.5
_TIMER_MS = 1.0  # the reactor's timers are up to this late
_LINGER_MS_MAX = 900_000  # librdkafka's
# By acknowledgement level. At 0 it is librdkafka's default; at 1 clients wait for the delivery; at
# 2 they do not, only bytes bound the queue, and large groups cost least.
_LINGER_MS = (5.0, 2.0, 20.0)
_GATHERING_MS = (4.5, 4.5, 19.5)
# librdkafka's default, and ours at level 1: waiting for more than 64 KiB gains little.
_BATCH_BYTES, _ENOUGH_BYTES_AWAITED = 1_000_000, 65_536

_TRANSACTIONAL = "transactional.id"


class KafkaOptions:
    """The user's librdkafka options, and what follows from them.

    Unless an option says otherwise linger.ms is 5 at acknowledgement level 0, 2 at level 1, 20 at
    level 2. Up to 4.5 ms of it, at level 2 up to 19.5, are the worker's.

    Attributes:
        client: for librdkafka, without the worker's share of the linger.
        linger: the worker's share, in seconds.
        batch_bytes: in a batch of librdkafka at most.
        enough_bytes: that end the worker's linger: a batch, or 64 KiB at level 1 where batch.size
            is not set.
        group_bytes: in a group at most: a batch, or several small ones.
        message_timeout: seconds after which librdkafka gives a message up.
        chooses_partitions: whether partitions may be chosen for events without keys, and that
            matters; see Partitions.
    """

    def __init__(self, settings: Settings) -> None:
        self.client: dict[str, Any] = dict(settings.publisher.kafka.client)
        self.message_timeout = _message_timeout(self.client)
        ack = settings.event.ack
        self.linger = _take_linger(self.client, ack)
        size = self.client.get("batch.size", "")
        self.batch_bytes = int(size) if size.isdigit() else _BATCH_BYTES
        awaited = ack == 1 and not size.isdigit()
        self.enough_bytes = _ENOUGH_BYTES_AWAITED if awaited else self.batch_bytes
        self.group_bytes = max(self.batch_bytes, _BATCH_BYTES)
        self.chooses_partitions = settings.event.partition_key == "none" and _may_choose(
            self.client
        )

    @property
    def servers(self) -> str:
        """Where Kafka is, for people."""
        return str(self.client.get("bootstrap.servers") or self.client.get("metadata.broker.list"))

    def check(self) -> None:
        """Refuse what the publisher cannot do.

        Raises:
            StartError: an option cannot be used.
        """
        if _TRANSACTIONAL in self.client:
            raise StartError(
                f"{variable(_TRANSACTIONAL)}: cannot be used: events are not sent in transactions"
            )


def variable(option: str) -> str:
    """The variable that sets an option of librdkafka."""
    return "PUBLISHER_KAFKA_CLIENT_" + option.upper().replace(".", "_")


def _take_linger(client: dict[str, Any], ack: int) -> float:
    """The worker's share of the linger, in seconds; librdkafka's stays in `client`."""
    given = [client[name] for name in _LINGER if name in client]
    try:
        linger = float(given[-1]) if given else _LINGER_MS[ack]
    except ValueError:
        return 0.0  # the start fails, in librdkafka's words
    if not 0 <= linger <= _LINGER_MS_MAX:
        return 0.0  # likewise
    for name in _LINGER:
        client.pop(name, None)
    gathering = min(max(linger - _HAND_OVER_MS, 0), _GATHERING_MS[ack])
    client["linger.ms"] = linger - gathering
    return max(gathering - _TIMER_MS, _TIMER_MS) / 1000


def _may_choose(client: Mapping[str, str]) -> bool:
    """Whether no option says where events without keys go, and producers are idempotent."""
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
