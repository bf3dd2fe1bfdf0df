"""One batch of events on its way, as every part of the service hands it on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred

from raccoon.config import EVENT_OVERHEAD, REQUEST_OVERHEAD, TYPE_OVERHEAD
from raccoon.errors import PublishError
from raccoon.messages import Batch, Identifier

# About what an event takes in a batch beside its payload: some 40 bytes in Kafka, where 10,000
# events fill a batch of a million bytes.
EVENT_BATCH_BYTES = 100


class CollectRequest:
    """One batch of events as it came from a client.

    Attributes:
        identifier: the client.
        guid: the client's req_guid.
        sent_time: Unix seconds by the client's clock, or None.
        types: each event's type, in order.
        payloads: each event's bytes, in order.
        by_type: each type that occurs, with the bytes of its events, in order.
        received_at: Unix seconds when it was read.
        queued_at: Unix seconds when it was admitted, or read from the journal.
        published_at: Unix seconds when it was published; None before.
        payload_bytes: of all its events.
        batch_bytes: about what they take in a batch of the destination, more rather than less.
        size: bytes of memory it is charged with.
        entry: what the journal knows of it, or None.
        on_failed: called with the PublishError if the request is not delivered, whatever the
            acknowledgement level answered.
    """

    __slots__ = (
        "acknowledged",
        "batch_bytes",
        "by_type",
        "entry",
        "guid",
        "identifier",
        "on_failed",
        "payload_bytes",
        "payloads",
        "published_at",
        "queued_at",
        "received_at",
        "sent_time",
        "size",
        "types",
    )

    def __init__(
        self,
        identifier: Identifier,
        batch: Batch,
        received_at: float,
        on_failed: Callable[[PublishError], None] | None = None,
    ) -> None:
        self.identifier = identifier
        self.guid, self.sent_time, self.types, self.payloads = batch
        self.by_type = _by_type(self.types, self.payloads)
        self.received_at = received_at
        self.queued_at = received_at
        self.published_at: float | None = None
        self.payload_bytes = sum(map(len, self.payloads))
        self.batch_bytes = self.payload_bytes + EVENT_BATCH_BYTES * len(self.types)
        self.size = (
            REQUEST_OVERHEAD
            + EVENT_OVERHEAD * len(self.types)
            + TYPE_OVERHEAD * len(self.by_type)
            + self.payload_bytes
        )
        self.on_failed = on_failed
        self.acknowledged: Deferred[None] | None = None
        self.entry: Any = None


class Requests(NamedTuple):
    """Some requests, and what they are together.

    Attributes:
        each: of them, oldest first.
        events: how many they hold.
        payload_bytes: of all their events.
        size: bytes of memory they are charged with.
    """

    each: list[CollectRequest]
    events: int
    payload_bytes: int
    size: int

    @classmethod
    def of(cls, each: list[CollectRequest]) -> Requests:
        """These requests."""
        return cls(
            each,
            sum([len(request.types) for request in each]),
            sum([request.payload_bytes for request in each]),
            sum([request.size for request in each]),
        )


def _by_type(types: list[str], payloads: list[bytes]) -> dict[str, list[bytes]]:
    # Most requests have events of one type.
    if types and types.count(types[0]) == len(types):
        return {types[0]: payloads}
    found: dict[str, list[bytes]] = {}
    for event_type, payload in zip(types, payloads, strict=True):
        found.setdefault(event_type, []).append(payload)
    return found
