"""The destinations. Each backend is blocking code that imports no Twisted."""

from __future__ import annotations

from typing import NamedTuple

from raccoon.config import Settings
from raccoon.interfaces import IMetrics


class PublisherContext(NamedTuple):
    """What a publisher is constructed with.

    Attributes:
        settings: the whole configuration.
        metrics: counts, safe from any thread.
    """

    settings: Settings
    metrics: IMetrics

    def route(self, event_type: str) -> str:
        """The topic or stream of an event of this type."""
        return self.settings.event.distribution_publisher_pattern.replace("%s", event_type, 1)
