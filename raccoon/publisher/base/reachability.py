"""Whether the destination answers, and who is told when that changes."""

from __future__ import annotations

import logging
import threading

from raccoon.interfaces import IMetrics

_log = logging.getLogger(__name__)


class Reachability:
    """Logs each change once, and sets the gauge. Safe from any thread.

    Attributes:
        destination: named in the log.
        known: whether the destination answers; None while that is not known.

    Args:
        metrics: sets destination_reachable_current.
        destination: its first name; a publisher may learn more at its start.
    """

    def __init__(self, metrics: IMetrics, destination: str) -> None:
        self._metrics = metrics
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
        self._metrics.gauge("destination_reachable_current", float(reachable), ())
        if reachable:
            _log.info("%s is reachable", self.destination)
        else:
            why = reason and f": {reason}"
            _log.error("%s is unreachable; retrying%s", self.destination, why)

    def close(self) -> None:
        """Announce nothing more: what fails from now on fails because of the close."""
        self._closed = True
