"""Whether the service can take requests, and if not, why: from cached state, never by asking."""

from __future__ import annotations

from raccoon.collector import Collector
from raccoon.interfaces import IPublisher

STARTING = "starting"
RUNNING = "running"
STOPPING = "stopping"

_NEARLY_FULL = 0.9


class Health:
    """What readiness is made of.

    Args:
        collector: whose queue may be nearly full.
        publisher: whose destination may be unreachable.
    """

    def __init__(self, collector: Collector, publisher: IPublisher) -> None:
        self._collector = collector
        self._publisher = publisher
        self.phase = STARTING

    def reasons(self) -> list[str]:
        """Why no request should be sent here now; empty when the service is ready."""
        reasons = []
        if self.phase != RUNNING:
            reasons.append(f"the server is {self.phase}")
        if self._collector.fullness() >= _NEARLY_FULL:
            reasons.append("the queue is nearly full")
        if not self._publisher.reachable:
            reasons.append(f"{self._publisher.destination} does not answer")
        return reasons
