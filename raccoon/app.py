"""The whole service: what it is made of, and the order in which it starts and stops."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.application.service import MultiService, Service
from twisted.internet.defer import DeferredList, TimeoutError, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import Logger

from raccoon import __version__
from raccoon.admission import ArrivingBytes
from raccoon.collector import Collector
from raccoon.config import Settings
from raccoon.errors import RaccoonError
from raccoon.health import RUNNING, STOPPING, Health
from raccoon.identification import Identification
from raccoon.interfaces import IPublisher
from raccoon.journal.adoption import left_parts, part_of
from raccoon.journal.service import JournalService
from raccoon.listening import shown
from raccoon.logs import bridge_standard_logging
from raccoon.memory import give_back, spare_the_collector
from raccoon.metrics.registry import Metrics, Snapshot
from raccoon.metrics.service import MetricsService
from raccoon.metrics.statsd import SampledMetrics, StatsdSender, StatsdService
from raccoon.publisher import PublisherContext
from raccoon.publisher.factory import make_publisher
from raccoon.publisher.service import PublisherService
from raccoon.service.edge import EdgeContext, IEdge, MakeEdge, Shared
from raccoon.service.grpc.service import make_grpc_service
from raccoon.service.rest.service import make_rest_service
from raccoon.signals import stop_on_signals
from raccoon.stopping import StopSteps, end_within
from raccoon.supervision import Supervisor
from raccoon.worker import WorkerService

SETTLE_SECONDS = 1.0
_FILES_BESIDE_CONNECTIONS = 200
_GIVE_BACK_SECONDS = 30.0
# Of the steps of a stop, beside what the configuration gives them.
_QUIET_SECONDS = 1.0
_MARGIN_SECONDS = 1.0
_JOURNAL_SECONDS = 5.0
_CLOSE_SECONDS = 3.0
# Of the whole stop beside WORKER_BUFFER_FLUSH_TIMEOUT_MS: the steps above, each at its worst.
_END_SECONDS = 15.0


class RaccoonService(MultiService):
    """Composed of the metrics endpoint, publisher, worker and the edges.

    Args:
        reactor: everything runs on it.
        settings: the configuration.
        http: endpoint string of the HTTP listener, or None for SERVER_WEBSOCKET_PORT.
        grpc: host:port of the gRPC listener, or None for SERVER_GRPC_PORT.
        shared: of a worker process among others; None: this is the only process.
        more_edges: make the listeners of further protocols.

    Raises:
        StartError: the chosen publisher is not installed.
    """

    _logger = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        http: str | None = None,
        grpc: str | None = None,
        shared: Shared | None = None,
        more_edges: Sequence[MakeEdge] = (),
    ) -> None:
        super().__init__()
        self._shared = shared
        self.left = 0
        self._reactor = reactor
        self._settings = settings
        sampled = None
        if settings.metric.statsd_enabled:
            sampled = SampledMetrics(settings.metric.label_values)
        self.metrics = sampled or Metrics(settings.metric.label_values)
        self.metrics.gauge("connections_limit_current", settings.websocket.max_conn)
        self.supervisor = Supervisor(self.metrics)
        self._give_back = self.supervisor.loop("giving memory back", give_back, reactor)
        publisher = make_publisher(PublisherContext(settings, self.metrics, self.supervisor))
        self._journal = _make_journal(reactor, settings, publisher, self.metrics, self.supervisor)
        self.collector = Collector(
            settings.worker,
            settings.event,
            self.metrics,
            reactor,
            self.supervisor,
            self._journal,
            publisher,
        )
        if self._journal is not None:
            self._journal.attach(self.collector.readmit, self.collector.waiting)
        self.health = Health(self.collector, publisher, self.supervisor, self._journal)
        self._prometheus = MetricsService(
            reactor,
            self.metrics,
            self.collector,
            publisher,
            self.health.reasons,
            settings.metric,
            self.supervisor,
        )
        self._statsd: StatsdService | None = None
        if sampled is not None and shared is None:
            self._statsd = StatsdService(
                reactor,
                self._prometheus.take,
                sampled,
                StatsdSender(settings.metric.statsd_address),
                settings.metric.statsd_address,
                settings.metric.statsd_flush_period_ms / 1000,
                self.supervisor,
            )
        self._publisher = PublisherService(reactor, publisher, settings.worker.pool_size)
        self._worker = WorkerService(
            reactor,
            self.collector,
            self._publisher.publish,
            publisher,
            settings.worker,
            self.metrics,
            self.supervisor,
        )
        context = EdgeContext(
            reactor,
            settings,
            self.collector,
            Identification(settings.websocket, settings.limits),
            self.metrics,
            self.supervisor,
            self.health.reasons,
            ArrivingBytes(settings.worker.buffer_max_bytes),
            shared,
        )
        edges: list[MakeEdge] = [
            partial(make_rest_service, endpoint=http),
            partial(make_grpc_service, address=grpc),
            *more_edges,
        ]
        self.edges: list[IEdge] = [make(context) for make in edges]
        services: tuple[Any, ...] = (
            self._statsd,
            self._journal,
            self._prometheus,
            self._publisher,
            self._worker,
            *self.edges,
        )
        for service in services:
            if service is not None:
                service.setServiceParent(self)

    def privilegedStartService(self) -> None:
        """Bind every port.

        Raises:
            StartError: one cannot be bound.
        """
        try:
            super().privilegedStartService()
        except RaccoonError as error:
            self._logger.critical("cannot start: {reason}", reason=str(error))
            raise

    def startService(self) -> None:
        """Start publisher, worker and listeners, in this order, and say where they are.

        Raises:
            StartError: the destination's options cannot be used.
        """
        self._raise_file_limit()
        bridge_standard_logging(self._settings.log.level)
        try:
            super().startService()
        except RaccoonError as error:
            self._logger.critical("cannot start: {reason}", reason=str(error))
            raise
        spare_the_collector()
        self._give_back.start(_GIVE_BACK_SECONDS, now=False)
        self._reactor.callWhenRunning(
            stop_on_signals, self._reactor, self.end_in_time, self._shared is None
        )
        self.health.phase = RUNNING
        self._say_where()

    @inlineCallbacks
    def stopService(self) -> Any:
        """Stop in the order that loses nothing.

        Readiness off; no more listening and reading; the queue drained, the publisher flushed,
        within WORKER_BUFFER_FLUSH_TIMEOUT_MS together; the answers that are due; the connections
        closed. A step that raises or hangs is passed over. What is left undelivered is logged and
        counted to the event.
        """
        self.health.phase = STOPPING
        self._give_back.stop()
        steps = StopSteps(self._reactor)
        began = self._reactor.seconds()
        total = self._settings.worker.buffer_flush_timeout_ms / 1000
        flush = min(self._settings.publisher.kafka.flush_interval_ms / 1000, total / 2)
        self._logger.info(
            "stopping: {waiting} events have {seconds} s to be delivered",
            waiting=self.collector.unsettled_events,
            seconds=total,
        )
        if self._journal is not None:
            yield steps.run("pausing the journal", _QUIET_SECONDS, self._journal.pause)
        for edge in self.edges:
            grace = total + SETTLE_SECONDS
            yield steps.run(f"quieting {edge.name}", _QUIET_SECONDS, edge.quiet, grace)
        failed_before = self._worker.failed_events
        drain = total - flush
        yield steps.run("draining the queue", drain + _MARGIN_SECONDS, self._worker.drain, drain)
        yield steps.run(
            "flushing the publisher", flush + _MARGIN_SECONDS, self._publisher.close, flush
        )
        with suppress(TimeoutError):
            yield self.collector.when_idle().addTimeout(SETTLE_SECONDS, self._reactor)
        yield deferLater(self._reactor, 0)  # who settled the last request counts it first
        left = self._worker.failed_events - failed_before
        unsettled = self.collector.unsettled_events
        if self._settings.event.ack != 2:
            left += unsettled
        if self._journal is not None:
            closed = yield steps.run("closing the journal", _JOURNAL_SECONDS, self._journal.close)
            kept, lost = closed or (0, self._journal.in_transit_events)
            left += lost
            if self._settings.event.ack == 2:
                kept += unsettled
            if kept:
                self._logger.info("{kept} events wait in the journal for the next start", kept=kept)
        self.left = left
        self.metrics.gauge("events_left_at_shutdown_current", left)
        yield DeferredList(
            [
                steps.run(f"closing {_name(service)}", _CLOSE_SECONDS, service.stopService)
                for service in reversed(list(self))
            ]
        )
        Service.stopService(self)
        if self._statsd is not None:
            yield steps.run("sending the last to StatsD", _CLOSE_SECONDS, self._statsd.close)
        took = round(self._reactor.seconds() - began, 3)
        if left:
            self._logger.error(
                "stopped in {took} s; {left} accepted events were not delivered",
                left=left,
                took=took,
            )
        else:
            self._logger.info("stopped in {took} s; no accepted event was lost", took=took)

    def end_in_time(self) -> None:
        """See to it that the process ends, whatever hangs: a thread, or the reactor itself."""
        total = self._settings.worker.buffer_flush_timeout_ms / 1000
        end_within(total + _END_SECONDS, self._say_left)

    def _say_left(self) -> str:
        waiting = self.collector.unsettled_events
        if self._settings.event.ack == 2:
            return f"{waiting} accepted events wait in the journal for the next start"
        return f"{waiting} accepted events were not delivered"

    def take(self) -> Snapshot:
        """All metrics as they are now."""
        return self._prometheus.take()

    def _say_where(self) -> None:
        settings = self._settings
        chosen = f"by the {settings.sources.get('PUBLISHER_TYPE')}"
        if "PUBLISHER_TYPE" not in settings.sources:
            known = settings.publisher_type == "kafka"
            chosen = "as bootstrap servers are set" if known else "as no Kafka servers are set"
        if self._shared is None:
            metrics = self._prometheus.address
            self._logger.info(
                "Raccoon {version} listens: {edges}, metrics {metrics}",
                version=__version__,
                edges=", ".join(f"{edge.name} {edge.address}" for edge in self.edges),
                metrics=shown(metrics) if metrics else "off",
            )
        self._logger.info(
            "events go to {destination} (publisher {publisher}: {chosen}; acknowledgement {ack})",
            destination=self._publisher.publisher.destination,
            publisher=settings.publisher_type,
            chosen=chosen,
            ack=settings.event.ack,
        )
        if self._journal is not None:
            self._logger.info(
                "requests are kept in the journal {directory} until they are delivered, up to"
                " {size} bytes",
                directory=str(self._journal.directory.absolute()),
                size=settings.journal.max_bytes,
            )

    def _raise_file_limit(self) -> None:
        """Have a file descriptor for each connection that the configuration allows."""
        needed = (
            self._settings.websocket.max_conn
            + self._settings.limits.http_connections
            + _FILES_BESIDE_CONNECTIONS
        )
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < needed:
            granted = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (granted, hard))
            if granted < needed:
                self._logger.warn(
                    "{granted} open files are allowed, {needed} are needed for as many connections"
                    " as configured; raise the limit (ulimit -n)",
                    granted=granted,
                    needed=needed,
                )


def _name(service: Any) -> str:
    return getattr(service, "name", None) or type(service).__name__


def _make_journal(
    reactor: Any,
    settings: Settings,
    publisher: IPublisher,
    metrics: Metrics,
    supervisor: Supervisor,
) -> JournalService | None:
    """The journal, where there is one."""
    if not settings.journal_enabled:
        return None
    workers, index = settings.server.workers, settings.server.index
    directory = Path(settings.journal.dir)
    return JournalService(
        reactor,
        attrs.evolve(
            settings.journal,
            max_bytes=settings.journal.max_bytes // workers,
            dead_letters_max_bytes=settings.journal.dead_letters_max_bytes // workers,
        ),
        part_of(directory, workers, index),
        partial(left_parts, directory, workers, index),
        settings.event,
        publisher,
        metrics,
        supervisor,
    )
