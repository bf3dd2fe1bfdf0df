"""The gRPC server: bound, started, and stopped with grace."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1.health import SERVICE_NAME, HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from raccoon.config import GrpcSettings, LimitSettings, Settings
from raccoon.deserialization import ProtobufDeserializer
from raccoon.errors import StartError
from raccoon.intake import Codec
from raccoon.serialization import ProtobufSerializer
from raccoon.service.edge import EdgeContext, IEdge
from raccoon.service.grpc.handlers import make_handler
from raccoon.service.grpc.inbox import Inbox
from raccoon.service.grpc.servicer import METHOD, SERVICE, EventServicer
from raccoon.service.grpc.stream import STREAM_METHOD, STREAM_SERVICE, StreamServicer
from raccoon.service.grpc.stream_handlers import make_stream_handler
from raccoon.supervision import Supervisor

_THREADS = 64  # started on demand; only calls that cannot be served without one take them
_STOP_MARGIN = 1.0
_HEALTH_SECONDS = 1.0
_PING_MS = 30_000


@implementer(IEdge)
class GrpcService(Service):
    """grpcio's threaded server.

    Args:
        reactor: waits for the server's end in its thread pool.
        option: the setting that chose the address, for an error.
        address: host:port to listen on.
        servicer: serves the calls.
        streams: serves the streams.
        inbox: where both put what they have read.
        not_ready: why requests should not be sent here now; empty when they may.
        settings: concurrency.
        limits: message and metadata size.
        supervisor: watches the loop that tells health, and callbacks.
        shared: whether other worker processes listen there too.
    """

    name = "gRPC"

    def __init__(
        self,
        reactor: Any,
        option: str,
        address: str,
        servicer: EventServicer,
        streams: StreamServicer,
        inbox: Inbox,
        not_ready: Callable[[], list[str]],
        settings: GrpcSettings,
        limits: LimitSettings,
        supervisor: Supervisor,
        shared: bool = False,
    ) -> None:
        self._reactor = reactor
        self._option = option
        self._address = address
        self._servicer = servicer
        self._streams = streams
        self._inbox = inbox
        self._not_ready = not_ready
        self._health = HealthServicer()
        self._supervisor = supervisor
        self._tell_health = supervisor.loop("gRPC health", self._set_health, reactor)
        self._settings = settings
        self._limits = limits
        self._shared = shared
        self._server: grpc.Server | None = None
        self._stopped: Any = None
        self._port = 0

    @property
    def address(self) -> str:
        """See IEdge."""
        return f"{self._address.rpartition(':')[0]}:{self._port}"

    def privilegedStartService(self) -> None:
        """Bind, while a port below 1024 still can be.

        Raises:
            StartError: the address cannot be had.
        """
        super().privilegedStartService()
        concurrent = self._settings.max_concurrent
        self._server = grpc.server(
            ThreadPoolExecutor(_THREADS, "grpc"),
            maximum_concurrent_rpcs=concurrent,
            options=[
                # Two servers on one port would each get a part of the clients unnoticed.
                ("grpc.so_reuseport", int(self._shared)),
                # So that a stream's client that vanished without a word is noticed.
                ("grpc.keepalive_time_ms", _PING_MS),
                ("grpc.http2.ping_timeout_ms", _PING_MS),
                ("grpc.http2.max_pings_without_data", 0),
                ("grpc.max_receive_message_length", self._limits.request_bytes),
                ("grpc.max_metadata_size", self._limits.header_bytes),
                ("grpc.absolute_max_metadata_size", self._limits.header_bytes),
            ],
        )
        handler = make_handler(self._servicer.send_event, self._supervisor)
        self._server.add_registered_method_handlers(SERVICE, {METHOD: handler})
        stream_handler = make_stream_handler(self._streams.open, self._supervisor)
        self._server.add_registered_method_handlers(STREAM_SERVICE, {STREAM_METHOD: stream_handler})
        add_HealthServicer_to_server(self._health, self._server)
        if self._settings.reflection:
            services = (SERVICE, STREAM_SERVICE, SERVICE_NAME, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(services, self._server)
        try:
            self._port = self._server.add_insecure_port(self._address)
        except RuntimeError:
            self._port = 0
        if not self._port:
            raise StartError(
                f"{self._option}: cannot listen: the address is taken, or is not host:port"
            )

    def startService(self) -> None:
        """Serve."""
        super().startService()
        assert self._server is not None
        self._server.start()
        # Once the whole service has started, or it would say for a second that it had not.
        self._reactor.callWhenRunning(self._tell_health.start, _HEALTH_SECONDS)

    def quiet(self, grace: float) -> Deferred[None]:
        """Refuse new calls and read no stream; see IEdge."""
        self._take_nothing_new(grace)
        emptied: Deferred[None] = self._inbox.emptied()
        return emptied

    def _take_nothing_new(self, grace: float) -> None:
        self._tell_health.stop()
        self._health.enter_graceful_shutdown()
        if self._server is not None and self._stopped is None:
            self._stopped = self._server.stop(grace)
            self._streams.stop()

    def _set_health(self) -> None:
        """Say what /readyz says by the standard health service, for the server and its services."""
        status = (
            HealthCheckResponse.NOT_SERVING if self._not_ready() else HealthCheckResponse.SERVING
        )
        for service in ("", SERVICE, STREAM_SERVICE):
            self._health.set(service, status)

    def stopService(self) -> Deferred[None] | None:
        """Fires when no call runs any more."""
        super().stopService()
        self._take_nothing_new(0)
        if self._server is None:
            return None
        server, self._server = self._server, None
        stopped, self._stopped = self._stopped, None
        waiting: Deferred[None] = deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), _end, server, stopped
        )
        return waiting


def _end(server: grpc.Server, stopped: Any) -> None:
    """Wait for the calls under way, but not for clients that do not read their answers."""
    if not stopped.wait(_STOP_MARGIN):
        server.stop(0).wait(_STOP_MARGIN)


def grpc_address(settings: Settings, address: str | None) -> tuple[str, str]:
    """The setting that chose the gRPC listener, for an error, and its host:port."""
    if address:
        return f"--grpc {address}", address
    return f"SERVER_GRPC_PORT {settings.grpc.port}", f"[::]:{settings.grpc.port}"


def make_grpc_service(context: EdgeContext, address: str | None = None) -> GrpcService:
    """gRPC, on host:port or on SERVER_GRPC_PORT."""
    reactor, settings = context.reactor, context.settings
    # Not REST's: it is used in gRPC's threads.
    codec = Codec(ProtobufDeserializer(settings.limits, settings.event), ProtobufSerializer())
    inbox = Inbox(reactor, context.supervisor)
    servicer = EventServicer(
        inbox, context.intake("gRPC", requires_id=True), codec, context.identification
    )
    streams = StreamServicer(
        inbox,
        context.intake("gRPC stream", requires_id=True),
        codec,
        context.identification,
        context.metrics,
        context.supervisor,
        reactor.seconds,
        settings.limits.in_flight,
    )
    return GrpcService(
        reactor,
        *grpc_address(settings, address),
        servicer,
        streams,
        inbox,
        context.not_ready,
        settings.grpc,
        settings.limits,
        context.supervisor,
        context.shared is not None,
    )
