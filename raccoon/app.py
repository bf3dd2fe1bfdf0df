"""The whole service: what it is made of, and the order in which it starts and stops."""

from __future__ import annotations

import gc
import resource
import signal
from typing import Any

from twisted.application.service import MultiService, Service
from twisted.internet.defer import TimeoutError, inlineCallbacks
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

from raccoon import __version__
from raccoon.collector import Collector
from raccoon.config import Settings
from raccoon.deserialization import JsonDeserializer, ProtobufDeserializer
from raccoon.errors import RaccoonError
from raccoon.health import RUNNING, STOPPING, Health
from raccoon.identification import Identification
from raccoon.listening import default_endpoint
from raccoon.logs import bridge_standard_logging
from raccoon.metrics.registry import Metrics
from raccoon.metrics.service import MetricsService
from raccoon.publisher import PublisherContext
from raccoon.publisher.factory import make_publisher
from raccoon.publisher.service import PublisherService
from raccoon.serialization import JsonSerializer, ProtobufSerializer
from raccoon.service.grpc.service import GrpcService
from raccoon.service.grpc.servicer import EventServicer
from raccoon.service.rest.cors import CorsPolicy
from raccoon.service.rest.resource import Codec, RestResource
from raccoon.service.rest.service import RestService
from raccoon.service.rest.site import EventSite
from raccoon.service.rest.websocket.factory import EventWebSocketFactory, UpgradeResource
from raccoon.worker import WorkerService

_SETTLE_SECONDS = 1.0
_FILES_BESIDE_CONNECTIONS = 200
_COLLECT_AFTER = (20_000, 10, 10)


class RaccoonService(MultiService):
    """Composed of the metrics endpoint, publisher, worker and the listeners.

    Args:
        reactor: everything runs on it.
        settings: the configuration.
        http: endpoint string of the HTTP listener, or None for SERVER_WEBSOCKET_PORT.
        grpc: host:port of the gRPC listener, or None for SERVER_GRPC_PORT.

    Raises:
        StartError: the chosen publisher is not installed.
    """

    _logger = Logger()

    def __init__(
        self, reactor: Any, settings: Settings, http: str | None = None, grpc: str | None = None
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._settings = settings
        self.metrics = Metrics(settings.metric.label_values)
        self.collector = Collector(settings.worker, settings.event, self.metrics, reactor.seconds)
        identification = Identification(settings.websocket, settings.limits)
        json = Codec(JsonDeserializer(settings.limits, settings.event), JsonSerializer())
        protobuf = Codec(
            ProtobufDeserializer(settings.limits, settings.event), ProtobufSerializer()
        )
        publisher = make_publisher(PublisherContext(settings, self.metrics))
        self.health = Health(self.collector, publisher)
        websocket = EventWebSocketFactory(
            reactor,
            self.collector,
            json,
            protobuf,
            identification,
            settings.websocket,
            settings.limits,
            self.metrics,
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
        servicer = EventServicer(
            reactor,
            self.collector,
            Codec(ProtobufDeserializer(settings.limits, settings.event), ProtobufSerializer()),
            identification,
            self.metrics,
            reactor.seconds,
        )
        self._prometheus = MetricsService(reactor, self.metrics, self.collector, settings.metric)
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
            f"--http {http}" if http else f"SERVER_WEBSOCKET_PORT {settings.websocket.port}",
            http or default_endpoint(settings.websocket.port),
            EventSite(rest, UpgradeResource(websocket), settings.limits, reactor),
            websocket,
        )
        self._grpc = GrpcService(
            reactor,
            f"--grpc {grpc}" if grpc else f"SERVER_GRPC_PORT {settings.grpc.port}",
            grpc or f"[::]:{settings.grpc.port}",
            servicer,
            self.health.reasons,
            settings.grpc,
            settings.limits,
        )
        services: tuple[Service, ...] = (
            self._prometheus,
            self._publisher,
            self._worker,
            self._grpc,
            self._rest,
        )
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
        _spare_the_collector()
        self._reactor.callWhenRunning(self._install_signals)
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
        began = self._reactor.seconds()
        total = self._settings.worker.buffer_flush_timeout_ms / 1000
        flush = min(self._settings.publisher.kafka.flush_interval_ms / 1000, total / 2)
        self._logger.info(
            "stopping: {waiting} events have {seconds} s to be delivered",
            waiting=self.collector.unsettled_events,
            seconds=total,
        )
        yield self._rest.quiet()
        self._grpc.quiet(total + _SETTLE_SECONDS)
        left = yield self._worker.drain(total - flush)
        left += yield self._publisher.close(flush)
        try:
            yield self.collector.when_idle().addTimeout(_SETTLE_SECONDS, self._reactor)
        except TimeoutError:
            left += self.collector.unsettled_events
        self.metrics.gauge("events_left_at_shutdown_current", left)
        yield super().stopService()
        took = round(self._reactor.seconds() - began, 3)
        if left:
            self._logger.error(
                "stopped in {took} s; {left} accepted events were not delivered",
                left=left,
                took=took,
            )
        else:
            self._logger.info("stopped in {took} s; every accepted event was delivered", took=took)

    def _say_where(self) -> None:
        settings = self._settings
        chosen = f"by the {settings.sources.get('PUBLISHER_TYPE')}"
        if "PUBLISHER_TYPE" not in settings.sources:
            known = settings.publisher_type == "kafka"
            chosen = "as bootstrap servers are set" if known else "as no Kafka servers are set"
        self._logger.info(
            "Raccoon {version} listens: HTTP {http}, gRPC {grpc}, metrics {metrics}",
            version=__version__,
            http=_shown(self._rest.address),
            grpc=f"{self._grpc.host}:{self._grpc.port}",
            metrics=_shown(self._prometheus.address) if self._prometheus.address else "off",
        )
        self._logger.info(
            "events go to {destination} (publisher {publisher}: {chosen}; acknowledgement {ack})",
            destination=self._publisher.publisher.destination,
            publisher=settings.publisher_type,
            chosen=chosen,
            ack=settings.event.ack,
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

    def _install_signals(self) -> None:
        """SIGTERM and SIGINT drain and exit 0, where twistd would end by the signal itself."""

        def stop(*_: object) -> None:
            self._reactor.callFromThread(self._stop_reactor)

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(
            signal.SIGHUP,
            lambda *_: self._reactor.callFromThread(
                self._logger.warn,
                "SIGHUP: the configuration is read at start only; restart to change it",
            ),
        )

    def _stop_reactor(self) -> None:
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            self._logger.info("already stopping")


def _spare_the_collector() -> None:
    """Have the garbage collector pass over what start-up made, and run less often.

    Requests leave few cycles behind; its default, every 700 allocations, costs 6 to 10% of the
    CPU of a loaded server and its longest pauses.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


def _shown(address: Any) -> str:
    """An address that is listened on, for people; a Unix socket has a name instead of a port."""
    if not hasattr(address, "port"):
        return str(getattr(address, "name", address))
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"
