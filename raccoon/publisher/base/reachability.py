"""Whether the destination answers, and who is told when that changes."""

from __future__ import annotations

import logging
import threading

from raccoon.publisher import PublisherContext

_log = logging.getLogger(__name__)


class Reachability:
    """Logs each change once, and sets the gauge. Safe from any thread.

    Attributes:
        destination: named in the log.
        known: whether the destination answers; None while that is not known.

    Args:
        context: has the metrics, and the supervisor, which is told where a change cannot be.
        destination: its first name; a publisher may learn more at its start.
    """

    def __init__(self, context: PublisherContext, destination: str) -> None:
        self._metrics = context.metrics
        self._supervisor = context.supervisor
        self.destination = destination
        self.known: bool | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def reachable(self) -> bool:
        """See IPublisher: False only while the destination is known to be unreachable."""
        return self.known is not False

    def announce(self, reachable: bool, reason: str = "") -> None:
        """The destination answered, or did not, for a reason that is for the log."""
        if reachable == self.known or self._closed:
            return
        with self._lock:
            if reachable == self.known:
                return
            self.known = reachable
        # An answer of the destination stays what it is, whether or not this can be told.
        self._supervisor.call("reachability", self._tell, reachable, reason)

    def close(self) -> None:
        """Announce nothing more: what fails from now on fails because of the close."""
        self._closed = True

    def _tell(self, reachable: bool, reason: str) -> None:
        self._metrics.gauge("destination_reachable_current", float(reachable), ())
        if reachable:
            _log.info("%s is reachable", self.destination)
        else:
            why = reason and f": {reason}"
            _log.error("%s is unreachable; retrying%s", self.destination, why)
