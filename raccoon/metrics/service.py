"""Metrics to Prometheus, and the gauges of the process itself."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks, succeed
from twisted.internet.interfaces import IListeningPort
from twisted.internet.threads import deferToThreadPool
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from raccoon.collector import Collector
from raccoon.config import MetricSettings
from raccoon.interfaces import IPublisher
from raccoon.listening import default_endpoint, listen
from raccoon.metrics.registry import Metrics, Snapshot
from raccoon.supervision import Supervisor

_LATENESS_INTERVAL = 0.1
_CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_PAGE = os.sysconf("SC_PAGE_SIZE")
# Shown as 0 before anything is refused: Prometheus sees no increase in a series that appears.
_REFUSALS = ("requests_refused_total", "events_refused_total")


class _Scrape(Resource):
    """The scrape, rendered in a thread: a large one takes longer than the reactor may stand."""

    isLeaf = True

    def __init__(
        self, reactor: Any, take: Callable[[], Snapshot | Deferred[Snapshot]], path: str
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._take = take
        self._path = path.encode()

    def render_GET(self, request: Request) -> bytes | int:
        if request.path != self._path:
            request.setResponseCode(404)
            return b"Not Found\n"
        taken = self._take()
        taking = taken if isinstance(taken, Deferred) else succeed(taken)
        rendering = taking.addCallback(self._render)
        rendering.addCallbacks(
            self._write,
            request.processingFailed,
            (request,),
        )
        return NOT_DONE_YET

    def _render(self, snapshot: Snapshot) -> Deferred[bytes]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), snapshot.expose)

    def _write(self, body: bytes, request: Request) -> None:
        if not request._disconnected:
            request.setHeader(b"Content-Type", _CONTENT_TYPE)
            request.setHeader(b"Content-Length", b"%d" % len(body))
            request.write(body)
            request.finish()


class _QuietSite(Site):
    noisy = False
    displayTracebacks = False

    def log(self, request: Any) -> None:
        """No access log."""


class MetricsEndpoint(Service):
    """Serves the scrape, and records the process's gauges and the reactor's lateness.

    Args:
        reactor: listens and gives time.
        metrics: where to record.
        settings: port, path and interval.
        supervisor: of what records.
    """

    def __init__(
        self, reactor: Any, metrics: Metrics, settings: MetricSettings, supervisor: Supervisor
    ) -> None:
        self._reactor = reactor
        self._metrics = metrics
        self._settings = settings
        self._port: IListeningPort | None = None
        self._runtime = supervisor.loop("the process's gauges", self._record_runtime, reactor)
        self._lateness = supervisor.loop("reactor's lateness", self._record_lateness, reactor)
        self._expected = 0.0

    @property
    def address(self) -> Any:
        """Where the scrape is served, or None."""
        return self._port.getHost() if self._port is not None else None

    def privilegedStartService(self) -> None:
        """Bind.

        Raises:
            StartError: the port is taken.
        """
        super().privilegedStartService()
        if self._settings.prometheus_enabled:
            site = _QuietSite(_Scrape(self._reactor, self.fresh, self._settings.prometheus_path))
            port = self._settings.prometheus_port
            self._port = listen(
                self._reactor, f"METRIC_PROMETHEUS_PORT {port}", default_endpoint(port), site
            )

    def startService(self) -> None:
        """Begin to record."""
        super().startService()
        for name in _REFUSALS:
            self._metrics.count(name, 0, ("overloaded",))
        self._runtime.start(self._settings.runtime_stats_record_interval_ms / 1000)
        self._expected = self._reactor.seconds()
        self._lateness.start(_LATENESS_INTERVAL, now=False)

    @inlineCallbacks
    def stopService(self) -> Any:
        """Stop recording and serving."""
        yield super().stopService()
        for loop in (self._runtime, self._lateness):
            loop.stop()
        if self._port is not None:
            port, self._port = self._port, None
            yield port.stopListening()

    def take(self) -> Snapshot:
        """All values as they are now, in the reactor thread."""
        return self._metrics.snapshot()

    def fresh(self) -> Snapshot | Deferred[Snapshot]:
        """What a scrape shows."""
        return self.take()

    def _record_runtime(self) -> None:
        with open("/proc/self/statm", encoding="ascii") as file:
            resident = int(file.read().split()[1]) * _PAGE
        collections = sum(generation["collections"] for generation in gc.get_stats())
        gauge = self._metrics.gauge
        gauge("server_mem_heap_alloc_bytes_current", resident)
        gauge("server_mem_gc_count_current", collections)
        gauge("server_go_routines_count_current", threading.active_count())
        gauge("server_open_files_current", len(os.listdir("/proc/self/fd")))

    def _record_lateness(self) -> None:
        now = self._reactor.seconds()
        late = now - self._expected - _LATENESS_INTERVAL
        self._expected = now
        self._metrics.observe("reactor_lateness_milliseconds", max(late, 0) * 1000)


class MetricsService(MetricsEndpoint):
    """Adds the gauges of a service that takes events.

    Args:
        reactor: listens and gives time.
        metrics: what is served.
        collector: whose waiting requests are gauges.
        publisher: whether its destination answers is one.
        not_ready: why requests should not be sent here now; empty when they may.
        settings: port, path and interval.
        supervisor: of what records.
    """

    def __init__(
        self,
        reactor: Any,
        metrics: Metrics,
        collector: Collector,
        publisher: IPublisher,
        not_ready: Callable[[], list[str]],
        settings: MetricSettings,
        supervisor: Supervisor,
    ) -> None:
        super().__init__(reactor, metrics, settings, supervisor)
        self._collector = collector
        self._publisher = publisher
        self._not_ready = not_ready

    def take(self) -> Snapshot:
        """All values as they are now, in the reactor thread.

        A request's way is counted in that thread alone, so that in each snapshot the events
        received are those delivered, refused, failed and waiting, to the event.
        """
        gauge = self._metrics.gauge
        gauge("events_waiting_current", self._collector.waiting_events)
        gauge("requests_waiting_current", self._collector.unsettled_requests)
        gauge("queue_fullness_current", self._collector.fullness())
        gauge("destination_reachable_current", float(self._publisher.reachable))
        gauge("ready_current", float(not self._not_ready()))
        return super().take()
