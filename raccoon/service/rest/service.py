"""The HTTP listener: opened, quieted and closed in the order that loses nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, TimeoutError, inlineCallbacks
from twisted.internet.interfaces import IListeningPort, IProtocolFactory

from raccoon.service.rest.site import EventSite
from raccoon.service.rest.websocket.factory import EventWebSocketFactory

_CLOSE_HANDSHAKE_SECONDS = 1.0


class RestService(Service):
    """REST and WebSocket on one port.

    Args:
        reactor: gives time.
        listen: opens the listener.
        site: the HTTP server.
        websocket: the WebSocket connections on it.
    """

    def __init__(
        self,
        reactor: Any,
        listen: Callable[[IProtocolFactory], IListeningPort],
        site: EventSite,
        websocket: EventWebSocketFactory,
    ) -> None:
        self._reactor = reactor
        self._listen = listen
        self._site = site
        self._websocket = websocket
        self._port: IListeningPort | None = None

    def privilegedStartService(self) -> None:
        """Bind, while a port below 1024 still can be.

        Raises:
            StartError: the endpoint is not one, or its address is taken.
        """
        super().privilegedStartService()
        self._port = self._listen(self._site)

    def startService(self) -> None:
        """Serve."""
        super().startService()
        self._websocket.doStart()

    @property
    def address(self) -> Any:
        """Where it listens, once it does."""
        assert self._port is not None
        return self._port.getHost()

    @inlineCallbacks
    def quiet(self) -> Any:
        """Accept no connection and read no request any more; answers still go out."""
        if self._port is not None:
            port, self._port = self._port, None
            yield port.stopListening()
        self._websocket.stop_reading()
        self._site.close_idle()

    @inlineCallbacks
    def stopService(self) -> Any:
        """Close every connection."""
        yield super().stopService()
        yield self.quiet()
        closing: Deferred[None] = self._websocket.close_all()
        try:
            yield closing.addTimeout(_CLOSE_HANDSHAKE_SECONDS, self._reactor)
        except TimeoutError:
            for connection in self._websocket.table:
                connection.abort()
        for channel in list(self._site.channels):
            channel.transport.loseConnection()
        if self._websocket.numPorts:
            self._websocket.doStop()
