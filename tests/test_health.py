"""Tests of raccoon.health."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from raccoon.collector import Collector
from raccoon.config import EventSettings, WorkerSettings
from raccoon.health import RUNNING, STOPPING, Health
from raccoon.supervision import Supervisor
from tests.fakes import FakeJournal, FakeMetrics, FakePublisher, make_request


class Destination(FakePublisher):
    """A publisher of which only its reachability matters."""

    destination = "the far end"


class HealthTests(SynchronousTestCase):
    """What readiness is made of."""

    def setUp(self) -> None:
        worker = WorkerSettings(buffer_channel_size=10)
        self.collector = Collector(
            worker, EventSettings(ack=1), FakeMetrics(), Clock(), Supervisor(FakeMetrics())
        )
        self.destination = Destination()
        self.supervisor = Supervisor(FakeMetrics())
        self.health = Health(self.collector, self.destination, self.supervisor)

    def test_before_the_start(self) -> None:
        """A server that is not up is not ready."""
        self.assertEqual(["the server is starting"], self.health.reasons())

    def test_running(self) -> None:
        """A running server without trouble is ready."""
        self.health.phase = RUNNING
        self.assertEqual([], self.health.reasons())

    def test_stopping(self) -> None:
        """A server that drains is not ready."""
        self.health.phase = STOPPING
        self.assertEqual(["the server is stopping"], self.health.reasons())

    def test_nearly_full(self) -> None:
        """At nine tenths of the queue no more should come, and below that it may."""
        self.health.phase = RUNNING
        for _ in range(8):
            self.collector.collect(make_request())
        self.assertEqual([], self.health.reasons())
        self.collector.collect(make_request())
        self.assertEqual(["the queue is nearly full"], self.health.reasons())

    def test_unreachable(self) -> None:
        """Every reason is given: an unreachable destination too."""
        self.destination.reachable = False
        self.assertEqual(
            ["the server is starting", "the far end does not answer"], self.health.reasons()
        )

    def test_supervised(self) -> None:
        """What failed under supervision is a reason."""
        self.health.phase = RUNNING
        self.supervisor.failed("worker", ValueError("boom"))
        self.assertEqual(["worker failed: boom"], self.health.reasons())
        self.flushLoggedErrors(ValueError)

    def test_journal(self) -> None:
        """A journal has what finds no room and what cannot be delivered: its own room counts."""
        journal = FakeJournal()
        settings = WorkerSettings(buffer_channel_size=1)
        self.collector = Collector(
            settings,
            EventSettings(ack=0),
            FakeMetrics(),
            Clock(),
            Supervisor(FakeMetrics()),
            journal,
        )
        self.health = Health(self.collector, self.destination, self.supervisor, journal)
        self.health.phase = RUNNING
        self.destination.reachable = False
        for _ in range(2):
            self.collector.collect(make_request())
        self.assertEqual((1.0, 1), (self.collector.fullness(), len(journal.added)))
        self.assertEqual([], self.health.reasons())
        journal.reasons = ["the journal is nearly full"]
        self.assertEqual(["the journal is nearly full"], self.health.reasons())
        journal.bridges_outages = False
        self.assertEqual(3, len(self.health.reasons()))
