"""The destinations. Each backend is blocking code that imports no Twisted."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from raccoon.config import Settings
from raccoon.interfaces import IMetrics
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor


class PublisherContext(NamedTuple):
    """What a publisher is constructed with.

    Attributes:
        settings: the whole configuration; `settings.publisher.own` is the section that a
            publisher of another package declares.
        metrics: counts, safe from any thread.
        supervisor: runs the publisher's threads; see raccoon.supervision.
    """

    settings: Settings
    metrics: IMetrics
    supervisor: Supervisor

    def route(self, event_type: str) -> str:
        """The topic or stream of an event of this type."""
        return self.settings.event.distribution_publisher_pattern.replace("%s", event_type, 1)

    def partition_key(self, request: CollectRequest, event_type: str, longest: int) -> str | None:
        """What EVENT_PARTITION_KEY chooses for an event, or None.

        A key of more than `longest` bytes, the destination's limit, is replaced by its SHA-256 in
        hex: the same key stays the same.
        """
        chosen = self.settings.event.partition_key
        if chosen == "none":
            return None
        if chosen == "type":
            key = event_type
        elif chosen == "request":
            key = request.guid
        else:
            key = f"{request.identifier.group}/{request.identifier.id}"
        if len(key.encode()) > longest:
            key = hashlib.sha256(key.encode()).hexdigest()
        return key or None

    def metadata(self, request: CollectRequest, index: int) -> dict[str, str] | None:
        """What EVENT_METADATA_ENABLED sends with an event, or None.

        req_guid and event_index tell duplicates of an event; index counts from 0. received_at is
        in milliseconds since 1970.
        """
        if not self.settings.event.metadata_enabled:
            return None
        return {
            "req_guid": request.guid,
            "event_index": str(index),
            "conn_group": request.identifier.group,
            "received_at": str(round(request.received_at * 1000)),
        }
