"""Whether the destination answers."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from raccoon.config import load
from raccoon.publisher import PublisherContext
from raccoon.publisher.base import reachability
from raccoon.publisher.base.reachability import Reachability
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics


class ReachabilityTests(SynchronousTestCase):
    """Reachability."""

    def setUp(self) -> None:
        self.metrics = FakeMetrics()
        context = PublisherContext(load({}, {}), self.metrics, Supervisor(self.metrics))
        self.reachability = Reachability(context, "Kafka at broker.test")

    def announce(self, *states: bool) -> list[str]:
        """The lines of the log."""
        with self.assertLogs(reachability.__name__, "INFO") as logged:
            for state in states:
                self.reachability.announce(state, "" if state else "connection refused")
        return [record.getMessage() for record in logged.records]

    def test_changes(self) -> None:
        """Each change is told once."""
        self.assertTrue(self.reachability.reachable)
        self.assertIsNone(self.reachability.known)
        self.assertEqual(
            [
                "Kafka at broker.test is unreachable; retrying: connection refused",
                "Kafka at broker.test is reachable",
            ],
            self.announce(False, False, True, True),
        )
        self.assertTrue(self.reachability.reachable)
        self.assertEqual([0.0, 1.0], [value for _, value, _ in self.metrics.gauges])

    def test_without_a_reason(self) -> None:
        """A reason that is not known is left out."""
        with self.assertLogs(reachability.__name__, "ERROR") as logged:
            self.reachability.announce(False)
        self.assertTrue(logged.output[0].endswith("is unreachable; retrying"))
        self.assertFalse(self.reachability.reachable)

    def test_closed(self) -> None:
        """What fails after the close is no news."""
        self.reachability.close()
        with self.assertNoLogs(reachability.__name__):
            self.reachability.announce(False, "closed")
        self.assertTrue(self.reachability.reachable)

    def test_change_that_cannot_be_told(self) -> None:
        """It is one nevertheless."""

        def broken(*_: object) -> None:
            raise ValueError("no such metric")

        self.patch(self.metrics, "gauge", broken)
        self.reachability.announce(False)
        self.assertFalse(self.reachability.reachable)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
