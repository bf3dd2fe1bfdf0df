"""Whether the service can take requests, and if not, why: from cached state, never by asking."""

from __future__ import annotations

from raccoon.collector import Collector
from raccoon.interfaces import IJournal, IPublisher
from raccoon.supervision import Supervisor

STARTING = "starting"
RUNNING = "running"
STOPPING = "stopping"

_NEARLY_FULL = 0.9


class Health:
    """What readiness is made of.

    Args:
        collector: whose queue may be nearly full.
        publisher: whose destination may be unreachable.
        supervisor: of threads, loops and callbacks that may have failed.
        journal: which may be full, or None.
    """

    def __init__(
        self,
        collector: Collector,
        publisher: IPublisher,
        supervisor: Supervisor,
        journal: IJournal | None = None,
    ) -> None:
        self._collector = collector
        self._publisher = publisher
        self._supervisor = supervisor
        self._journal = journal
        self.phase = STARTING

    def reasons(self) -> list[str]:
        """Why no request should be sent here now; empty when the service is ready."""
        reasons = []
        journal = self._journal
        bridged = journal is not None and journal.bridges_outages
        if self.phase != RUNNING:
            reasons.append(f"the server is {self.phase}")
        if not bridged and self._collector.fullness() >= _NEARLY_FULL:
            reasons.append("the queue is nearly full")
        if not bridged and not self._publisher.reachable:
            reasons.append(f"{self._publisher.destination} does not answer")
        if journal is not None:
            reasons += journal.not_ready()
        return reasons + self._supervisor.reasons()
