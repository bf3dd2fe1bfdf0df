"""The whole service: what it is made of, and the order in which it starts and stops."""

from __future__ import annotations

import resource
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import attrs
from twisted.application.service import MultiService, Service
from twisted.internet.defer import TimeoutError, inlineCallbacks
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from raccoon import __version__
from raccoon.collector import Collector
from raccoon.config import Settings
from raccoon.deserialization import JsonDeserializer, ProtobufDeserializer
from raccoon.errors import RaccoonError
from raccoon.health import RUNNING, STOPPING, Health
from raccoon.identification import Identification
from raccoon.interfaces import IMetrics, IPublisher
from raccoon.journal.adoption import left_parts, part_of
from raccoon.journal.service import JournalService
from raccoon.listening import default_endpoint, listen
from raccoon.logs import bridge_standard_logging
from raccoon.memory import give_back, spare_the_collector
from raccoon.metrics.registry import Metrics, Snapshot
from raccoon.metrics.service import MetricsService
from raccoon.metrics.statsd import SampledMetrics, StatsdSender, StatsdService
from raccoon.publisher import PublisherContext
from raccoon.publisher.factory import make_publisher
from raccoon.publisher.service import PublisherService
from raccoon.serialization import JsonSerializer, ProtobufSerializer
from raccoon.service.grpc.inbox import Inbox
from raccoon.service.grpc.service import GrpcService
from raccoon.service.grpc.servicer import EventServicer
from raccoon.service.grpc.stream import StreamServicer
from raccoon.service.rest.cors import CorsPolicy
from raccoon.service.rest.resource import Codec, RestResource
from raccoon.service.rest.service import RestService
from raccoon.service.rest.site import EventSite
from raccoon.service.rest.websocket.connections import ConnectionTable
from raccoon.service.rest.websocket.factory import EventWebSocketFactory, UpgradeResource
from raccoon.signals import stop_on_signals
from raccoon.supervision import Supervisor
from raccoon.worker import WorkerService

SETTLE_SECONDS = 1.0
_FILES_BESIDE_CONNECTIONS = 200
_GIVE_BACK_SECONDS = 30.0


class Shared(NamedTuple):
    """What a worker has in common with others; see raccoon.processes.

    Attributes:
        listen: opens the HTTP listener.
        make_table: makes the table of WebSocket connections.
    """

    listen: Callable[[IProtocolFactory], IListeningPort]
    make_table: Callable[[IMetrics], ConnectionTable]


class RaccoonService(MultiService):
    """Composed of the metrics endpoint, publisher, worker and the listeners.

    Args:
        reactor: everything runs on it.
        settings: the configuration.
        http: endpoint string of the HTTP listener, or None for SERVER_WEBSOCKET_PORT.
        grpc: host:port of the gRPC listener, or None for SERVER_GRPC_PORT.
        shared: of a worker among others; None: this is the only process.

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
    ) -> None:
        super().__init__()
        self._shared = shared
        self.left = 0
        self._reactor = reactor
        self._settings = settings
        self._give_back = LoopingCall(give_back)
        self._give_back.clock = reactor
        sampled = None
        if settings.metric.statsd_enabled:
            sampled = SampledMetrics(settings.metric.label_values)
        self.metrics = sampled or Metrics(settings.metric.label_values)
        self.metrics.gauge("connections_limit_current", settings.websocket.max_conn)
        identification = Identification(settings.websocket, settings.limits)
        json = Codec(JsonDeserializer(settings.limits, settings.event), JsonSerializer())
        protobuf = Codec(
            ProtobufDeserializer(settings.limits, settings.event), ProtobufSerializer()
        )
        self._supervisor = Supervisor(self.metrics)
        publisher = make_publisher(PublisherContext(settings, self.metrics, self._supervisor))
        self._journal = _make_journal(reactor, settings, publisher, self.metrics)
        self.collector = Collector(
            settings.worker, settings.event, self.metrics, reactor.seconds, self._journal
        )
        if self._journal is not None:
            self._journal.attach(self.collector.readmit, self.collector.waiting)
        self.health = Health(self.collector, publisher, self._supervisor, self._journal)
        websocket = EventWebSocketFactory(
            reactor,
            self.collector,
            json,
            protobuf,
            identification,
            settings.websocket,
            settings.limits,
            self.metrics,
            shared.make_table(self.metrics) if shared else None,
        )
        rest = RestResource(
            self.collector,
            json,
            protobuf,
            identification,
            CorsPolicy(settings.cors, identification.client_headers),
            self.health.reasons,
            self.metrics,
            reactor.seconds,
        )
        # gRPC decodes in its own threads, and so has a codec of its own.
        decoded_in_threads = Codec(
            ProtobufDeserializer(settings.limits, settings.event), ProtobufSerializer()
        )
        inbox = Inbox(reactor)
        servicer = EventServicer(
            inbox,
            self.collector,
            decoded_in_threads,
            identification,
            self.metrics,
            reactor.seconds,
        )
        streams = StreamServicer(
            inbox,
            self.collector,
            decoded_in_threads,
            identification,
            self.metrics,
            reactor.seconds,
            settings.limits.in_flight,
        )
        self._prometheus = MetricsService(
            reactor,
            self.metrics,
            self.collector,
            publisher,
            self.health.reasons,
            settings.metric,
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
            )
            self._statsd.setServiceParent(self)
        self._publisher = PublisherService(reactor, publisher, settings.worker.pool_size)
        self._worker = WorkerService(
            reactor,
            self.collector,
            self._publisher.publish,
            publisher,
            settings.worker,
            self.metrics,
        )
        self._rest = RestService(
            reactor,
            shared.listen if shared else partial(listen, reactor, *http_address(settings, http)),
            EventSite(rest, UpgradeResource(websocket), settings.limits, reactor),
            websocket,
        )
        self._grpc = GrpcService(
            reactor,
            *grpc_address(settings, grpc),
            servicer,
            streams,
            inbox,
            self.health.reasons,
            settings.grpc,
            settings.limits,
            shared is not None,
        )
        services: tuple[Service, ...] = (
            self._prometheus,
            self._publisher,
            self._worker,
            self._grpc,
            self._rest,
        )
        if self._journal is not None:
            self._journal.setServiceParent(self)
        for service in services:
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
        self._reactor.callWhenRunning(stop_on_signals, self._reactor, self._shared is None)
        self.health.phase = RUNNING
        self._say_where()

    @inlineCallbacks
    def stopService(self) -> Any:
        """Stop in the order that loses nothing.

        Readiness off; no more listening and reading; the queue drained, the publisher flushed,
        within WORKER_BUFFER_FLUSH_TIMEOUT_MS together; the answers that are due; the connections
        closed. What is left undelivered is logged and counted to the event.
        """
        self.health.phase = STOPPING
        if self._give_back.running:
            self._give_back.stop()
        began = self._reactor.seconds()
        total = self._settings.worker.buffer_flush_timeout_ms / 1000
        flush = min(self._settings.publisher.kafka.flush_interval_ms / 1000, total / 2)
        self._logger.info(
            "stopping: {waiting} events have {seconds} s to be delivered",
            waiting=self.collector.unsettled_events,
            seconds=total,
        )
        if self._journal is not None:
            self._journal.pause()
        yield self._rest.quiet()
        yield self._grpc.quiet(total + SETTLE_SECONDS)
        failed_before = self._worker.failed_events
        yield self._worker.drain(total - flush)
        yield self._publisher.close(flush)
        with suppress(TimeoutError):
            yield self.collector.when_idle().addTimeout(SETTLE_SECONDS, self._reactor)
        yield deferLater(self._reactor, 0)  # who settled the last request counts it first
        left = self._worker.failed_events - failed_before + self.collector.unsettled_events
        if self._journal is not None:
            kept, lost = yield self._journal.close()
            left += lost
            if kept:
                self._logger.info("{kept} events wait in the journal for the next start", kept=kept)
        self.left = left
        self.metrics.gauge("events_left_at_shutdown_current", left)
        yield super().stopService()
        if self._statsd is not None:
            yield self._statsd.close()
        took = round(self._reactor.seconds() - began, 3)
        if left:
            self._logger.error(
                "stopped in {took} s; {left} accepted events were not delivered",
                left=left,
                took=took,
            )
        else:
            self._logger.info("stopped in {took} s; no accepted event was lost", took=took)

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
            self._logger.info(
                "Raccoon {version} listens: HTTP {http}, gRPC {grpc}, metrics {metrics}",
                version=__version__,
                http=shown(self._rest.address),
                grpc=f"{self._grpc.host}:{self._grpc.port}",
                metrics=shown(self._prometheus.address) if self._prometheus.address else "off",
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


def http_address(settings: Settings, http: str | None) -> tuple[str, str]:
    """The setting that chose the HTTP listener, for an error, and its endpoint string."""
    if http:
        return f"--http {http}", http
    port = settings.websocket.port
    return f"SERVER_WEBSOCKET_PORT {port}", default_endpoint(port)


def grpc_address(settings: Settings, grpc: str | None) -> tuple[str, str]:
    """The setting that chose the gRPC listener, for an error, and its host:port."""
    if grpc:
        return f"--grpc {grpc}", grpc
    return f"SERVER_GRPC_PORT {settings.grpc.port}", f"[::]:{settings.grpc.port}"


def _make_journal(
    reactor: Any, settings: Settings, publisher: IPublisher, metrics: Metrics
) -> JournalService | None:
    """The journal, where there is one."""
    if not settings.journal_enabled:
        return None
    workers, index = settings.server.workers, settings.server.index
    directory = Path(settings.journal.dir)
    return JournalService(
        reactor,
        attrs.evolve(settings.journal, max_bytes=settings.journal.max_bytes // workers),
        part_of(directory, workers, index),
        partial(left_parts, directory, workers, index),
        settings.event,
        publisher,
        metrics,
    )


def shown(address: Any) -> str:
    """An address that is listened on, for people; a Unix socket has a name instead of a port."""
    if not hasattr(address, "port"):
        return str(getattr(address, "name", address))
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"
