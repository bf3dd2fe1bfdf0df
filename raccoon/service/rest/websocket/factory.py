"""The factory of WebSocket connections, and the resource that upgrades to them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory
from twisted.web.http import Request

from raccoon.service.rest.resource import header
from raccoon.service.rest.websocket.hub import WebSocketHub
from raccoon.service.rest.websocket.protocol import EventWebSocketProtocol


class EventWebSocketFactory(WebSocketServerFactory):  # type: ignore[misc]
    """Builds EventWebSocketProtocols.

    Args:
        hub: what they share.
    """

    protocol = EventWebSocketProtocol
    noisy = False

    def __init__(self, hub: WebSocketHub) -> None:
        super().__init__(reactor=hub.reactor, server="Raccoon")
        # Autobahn's own is on the global reactor.
        self._batched_timer = SimpleNamespace(call_later=hub.reactor.callLater)
        self.hub = hub

    def buildProtocol(self, addr: Any) -> EventWebSocketProtocol:
        """A connection with the limits of the configuration."""
        protocol: EventWebSocketProtocol = super().buildProtocol(addr)
        protocol.hub = self.hub
        protocol.maxFramePayloadSize = self.hub.max_message
        protocol.maxMessagePayloadSize = self.hub.max_message
        return protocol


class UpgradeResource(WebSocketResource):  # type: ignore[misc]
    """Hands the transport of an upgrade request over to a WebSocket connection."""

    def render(self, request: Request) -> Any:
        """Check the origin, then take the transport; its HTTP channel lets go of it first."""
        hub = self._factory.hub
        origin = header(request, b"origin") or ""
        if hub.check_origin and not _same_host(origin, header(request, b"host") or ""):
            group = header(request, hub.identification.group_header_bytes)
            hub.upgrade_failed(group, "the origin is not this host")
            request.setResponseCode(403)
            request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
            return b"the origin is not this host (SERVER_WEBSOCKET_CHECK_ORIGIN)\n"
        request.requestHeaders.removeHeader(
            "origin"
        )  # checked; Autobahn takes only what it can parse
        channel: Any = request.channel
        channel.let_go()
        return super().render(request)


def _same_host(origin: str, host: str) -> bool:
    """Whether an Origin header, where there is one, names the host of the request."""
    if not origin:
        return True
    try:
        return urlsplit(origin).netloc.lower() == host.lower()
    except ValueError:
        return False
