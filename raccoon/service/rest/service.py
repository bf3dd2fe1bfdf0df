"""The HTTP listener: opened, quieted and closed in the order that loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError, inlineCallbacks
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from zope.interface import implementer

from raccoon.config import Settings
from raccoon.deserialization import JsonDeserializer, ProtobufDeserializer
from raccoon.intake import UNDECODABLE_BY_REST, Codec
from raccoon.listening import default_endpoint, listen, shown
from raccoon.serialization import JsonSerializer, ProtobufSerializer
from raccoon.service.edge import EdgeContext, IEdge
from raccoon.service.rest.cors import CorsPolicy
from raccoon.service.rest.resource import RestResource
from raccoon.service.rest.site import EventSite
from raccoon.service.rest.websocket.factory import EventWebSocketFactory, UpgradeResource
from raccoon.service.rest.websocket.hub import WebSocketHub

_CLOSE_HANDSHAKE_SECONDS = 1.0


@implementer(IEdge)
class RestService(Service):
    """REST and WebSocket on one port.

    Args:
        reactor: gives time.
        listen: opens the listener.
        site: the HTTP server.
        websocket: makes the WebSocket connections on it.
    """

    name = "HTTP"

    def __init__(
        self,
        reactor: Any,
        listen: Callable[[IProtocolFactory], IListeningPort],
        site: EventSite,
        websocket: EventWebSocketFactory,
    ) -> None:
        self._reactor = reactor
        self._listen = listen
        self.site = site
        self._factory = websocket
        self.hub = websocket.hub
        self._address: Any = None
        self._port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """Bind, while a port below 1024 still can be.

        Raises:
            StartError: the endpoint is not one, or its address is taken.
        """
        super().privilegedStartService()
        self._port = self._listen(self.site)
        self._address = self._port.getHost()

    def startService(self) -> None:
        """Serve."""
        super().startService()
        self._factory.doStart()
        self.hub.start()

    @property
    def address(self) -> str:
        """See IEdge."""
        return shown(self._address)

    @inlineCallbacks
    def quiet(self, grace: float) -> Any:
        """Accept no connection and read no request any more; see IEdge."""
        if self._port is not None:
            port, self._port = self._port, None
            yield port.stopListening()
        self.hub.stop_reading()
        self.site.close_idle()

    @inlineCallbacks
    def stopService(self) -> Any:
        """Close every connection."""
        yield super().stopService()
        yield self.quiet(0)
        closing: Deferred[None] = self.hub.close_all()
        try:
            yield closing.addTimeout(_CLOSE_HANDSHAKE_SECONDS, self._reactor)
        except TimeoutError:
            for connection in self.hub.table:
                connection.abort()
        for channel in list(self.site.channels):
            channel.transport.loseConnection()
        if self._factory.numPorts:
            self._factory.doStop()


def http_address(settings: Settings, endpoint: str | None) -> tuple[str, str]:
    """The setting that chose the HTTP listener, for an error, and its endpoint string."""
    if endpoint:
        return f"--http {endpoint}", endpoint
    port = settings.websocket.port
    return f"SERVER_WEBSOCKET_PORT {port}", default_endpoint(port)


def make_rest_service(context: EdgeContext, endpoint: str | None = None) -> RestService:
    """REST and WebSocket, on an endpoint or on SERVER_WEBSOCKET_PORT."""
    reactor, settings, shared = context.reactor, context.settings, context.shared
    json = Codec(JsonDeserializer(settings.limits, settings.event), JsonSerializer())
    protobuf = Codec(ProtobufDeserializer(settings.limits, settings.event), ProtobufSerializer())
    rest = RestResource(
        context.intake("REST", UNDECODABLE_BY_REST),
        json,
        protobuf,
        context.identification,
        CorsPolicy(settings.cors, context.identification.client_headers),
        context.not_ready,
    )
    hub = WebSocketHub(
        reactor,
        context.intake("WebSocket"),
        json,
        protobuf,
        context.identification,
        settings.websocket,
        settings.limits,
        context.metrics,
        context.supervisor,
        context.arriving,
        shared.make_table(context.metrics) if shared else None,
    )
    websocket = EventWebSocketFactory(hub)
    site = EventSite(
        rest,
        UpgradeResource(websocket),
        settings.limits,
        settings.websocket.write_wait_interval_ms / 1000,
        context.arriving,
        reactor,
    )
    opens = shared.listen if shared else partial(listen, reactor, *http_address(settings, endpoint))
    return RestService(reactor, opens, site, websocket)
