"""A fifth protocol, for `twistd -y`: a request in JSON a line over TCP, answered by a line."""

from __future__ import annotations

import os
from typing import Any

from twisted.application.service import Application, Service
from twisted.internet import reactor
from twisted.internet.defer import inlineCallbacks
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import ServerFactory
from twisted.protocols.basic import LineOnlyReceiver
from zope.interface import implementer

from raccoon import config
from raccoon.app import RaccoonService
from raccoon.deserialization import JsonDeserializer
from raccoon.intake import Answer, Arrival, Codec
from raccoon.listening import listen, shown
from raccoon.messages import Response
from raccoon.request import CollectRequest
from raccoon.serialization import JsonSerializer
from raccoon.service.edge import EdgeContext, IEdge


class LineProtocol(LineOnlyReceiver):
    """One client; its address is its id."""

    delimiter = b"\n"
    factory: LineFactory
    transport: Any

    def lineReceived(self, line: bytes) -> None:
        """A request."""
        edge = self.factory.edge
        arrival = Arrival(b"", self.transport.getPeer().host, None, line)
        edge.intake.take(arrival, edge.codec, self._respond)

    def _respond(
        self, answer: Answer, response: Response, request: CollectRequest | None, context: None
    ) -> None:
        self.sendLine(self.factory.edge.codec.serializer.serialize(response))


class LineFactory(ServerFactory):
    """Builds LineProtocols for an edge."""

    protocol = LineProtocol  # type: ignore[assignment]

    def __init__(self, edge: LineEdge) -> None:
        self.edge = edge


@implementer(IEdge)
class LineEdge(Service):
    """Listens on LINES_PORT."""

    name = "lines"
    address = ""

    def __init__(self, context: EdgeContext) -> None:
        settings = context.settings
        self.intake = context.intake("lines")
        self.codec = Codec(JsonDeserializer(settings.limits, settings.event), JsonSerializer())
        self._reactor = context.reactor
        self._port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """Bind."""
        port = f"tcp:{os.environ['LINES_PORT']}"
        self._port = listen(self._reactor, "LINES_PORT", port, LineFactory(self))
        self.address = shown(self._port.getHost())

    @inlineCallbacks
    def quiet(self, grace: float) -> Any:
        """Accept no more."""
        if self._port is not None:
            port, self._port = self._port, None
            yield port.stopListening()


settings = config.load({}, os.environ)
application = Application("raccoon")
RaccoonService(reactor, settings, more_edges=[LineEdge]).setServiceParent(application)
