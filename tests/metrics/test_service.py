"""Tests of raccoon.metrics.service."""

from __future__ import annotations

import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import NOT_DONE_YET
from twisted.web.test.requesthelper import DummyRequest

from raccoon.collector import Collector
from raccoon.config import EventSettings, MetricSettings, WorkerSettings
from raccoon.metrics.registry import Metrics, Snapshot
from raccoon.metrics.service import MetricsService, _Scrape
from raccoon.supervision import Supervisor
from tests.fakes import FakePublisher, ThreadlessClock, make_request


class IdlePool:
    """A reactor and its thread pool, in which nothing runs yet."""

    def getThreadPool(self) -> IdlePool:
        return self

    def callInThreadWithCallback(self, *_: object) -> None:
        pass


class TakeTests(SynchronousTestCase):
    """Gauges that are read when all values are taken."""

    def setUp(self) -> None:
        self.clock = ThreadlessClock()
        self.metrics = Metrics()
        self.supervisor = Supervisor(self.metrics, self.clock.seconds)
        self.collector = Collector(
            WorkerSettings(buffer_channel_size=4),
            EventSettings(ack=1),
            self.metrics,
            self.clock,
            self.supervisor,
        )
        self.publisher = FakePublisher()
        self.reasons: list[str] = []
        self.service = MetricsService(
            self.clock,
            self.metrics,
            self.collector,
            self.publisher,
            lambda: self.reasons,
            MetricSettings(),
            self.supervisor,
        )

    def value(self, name: str) -> float:
        return self.service.take().values[name][()]

    def test_waiting(self) -> None:
        """What waits is as it is at that moment."""
        self.collector.collect(make_request(events=[("t", b"")] * 3))
        self.assertEqual(3, self.value("events_waiting_current"))
        self.assertEqual(1, self.value("requests_waiting_current"))
        self.assertEqual(0.25, self.value("queue_fullness_current"))

    def test_no_more_files(self) -> None:
        """Gauges that cannot be read once are read again, and meanwhile that is told."""

        def broken(path: str) -> list[str]:
            raise OSError(24, "too many open files")

        self.service.startService()
        self.addCleanup(self.service.stopService)
        files = self.value("server_open_files_current")
        patched = self.patch(os, "listdir", broken)
        self.clock.advance(10)
        reason = "the process's gauges failed: [Errno 24] too many open files"
        self.assertEqual([reason], self.supervisor.reasons())
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))
        patched.restore()
        self.metrics.gauge("server_open_files_current", 0)
        self.clock.advance(10)
        self.assertEqual([], self.supervisor.reasons())
        self.assertAlmostEqual(files, self.value("server_open_files_current"), delta=5)

    def test_ready(self) -> None:
        """ready_current is 1 as long as there is no reason against it."""
        self.assertEqual(1, self.value("ready_current"))
        self.reasons.append("the server is stopping")
        self.assertEqual(0, self.value("ready_current"))

    def test_reachable(self) -> None:
        """A destination counts as reachable until it is known not to be, whatever the publisher."""
        self.assertEqual(1, self.value("destination_reachable_current"))
        self.publisher.reachable = False
        self.assertEqual(0, self.value("destination_reachable_current"))

    def test_refusals_from_the_start(self) -> None:
        """Refusals are shown as none before the first, so that the first is an increase."""
        self.service.startService()
        self.addCleanup(self.service.stopService)
        snapshot = self.service.take()
        for name in ("requests_refused_total", "events_refused_total"):
            self.assertEqual({("overloaded",): 0}, snapshot.values[name])

    def test_snapshot_stays(self) -> None:
        """What is counted later is not in a snapshot that was taken before."""
        self.metrics.count("events_rx_total", 1, ("web", "click"))
        self.metrics.observe("event_rtt_ms", 1)
        snapshot = self.service.take()
        self.metrics.count("events_rx_total", 1, ("web", "click"))
        self.metrics.observe("event_rtt_ms", 1)
        self.assertEqual({("web", "click"): 1}, snapshot.values["events_rx_total"])
        self.assertEqual(2, sum(snapshot.histograms["event_rtt_ms"][()]))

    def test_scrape(self) -> None:
        """A scrape is of the moment it is asked for, in the reactor's thread, not of its rendering.

        In another thread, events could change sides while they are added up.
        """
        taken: list[int] = []

        def take() -> Snapshot:
            taken.append(1)
            return self.service.take()

        scrape = _Scrape(IdlePool(), take, "/metrics")
        request: Any = DummyRequest([b""])
        request.path = b"/metrics"
        self.assertEqual(NOT_DONE_YET, scrape.render_GET(request))
        self.assertEqual([1], taken)
