"""The HTTP port of a server in memory, and its clients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from twisted.internet.task import Clock

from raccoon.admission import ArrivingBytes
from raccoon.config import Settings
from raccoon.identification import Identification
from raccoon.service.edge import EdgeContext
from raccoon.service.rest.service import make_rest_service
from raccoon.supervision import Supervisor
from tests.edges.bodies import NOW
from tests.edges.collector import FakeCollector
from tests.edges.frames import (
    BINARY,
    TEXT,
    Frame,
    client_frame,
    read_answer,
    read_frames,
    upgrade_request,
)
from tests.edges.http import Reply, read_replies
from tests.edges.socket import MemorySocket
from tests.fakes import FakeMetrics


def make_context(
    settings: Settings,
    clock: Clock,
    collector: Any,
    metrics: Any,
    supervisor: Supervisor | None = None,
    not_ready: Callable[[], list[str]] = list,
) -> EdgeContext:
    """What an edge is made of, in memory."""
    return EdgeContext(
        clock,
        settings,
        collector,
        Identification(settings.websocket, settings.limits),
        metrics,
        supervisor or Supervisor(metrics, clock.seconds),
        not_ready,
        ArrivingBytes(settings.worker.buffer_max_bytes),
    )


class Edge:
    """The HTTP port of one server: REST and WebSocket on a clock.

    Args:
        settings: the configuration.
        ack: the fake collector's level.
        clock: which stands at NOW, if not one of its own.
        metrics: not fake ones.
        collector: not a fake one.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        ack: int = 1,
        clock: Clock | None = None,
        metrics: Any = None,
        collector: Any = None,
    ) -> None:
        settings = settings or Settings()
        self.clock = clock or Clock()
        self.clock.advance(NOW - self.clock.seconds())
        self.metrics = metrics or FakeMetrics()
        self.collector = collector or FakeCollector(ack)
        self.supervisor = Supervisor(self.metrics, self.clock.seconds)
        self.not_ready: list[str] = []
        context = make_context(
            settings,
            self.clock,
            self.collector,
            self.metrics,
            self.supervisor,
            lambda: self.not_ready,
        )
        service = make_rest_service(context)
        self.site = service.site
        self.rest = self.site.rest
        self.websocket = service.hub
        self.json, self.protobuf = self.websocket.json, self.websocket.protobuf
        self._ports = iter(range(40001, 65536))
        self._sockets: list[MemorySocket] = []

    def connect(self) -> HttpClient:
        """A new connection.

        Raises:
            ConnectionRefusedError: the server closes it at once.
        """
        socket = MemorySocket(self.clock, next(self._ports))
        channel = self.site.buildProtocol(socket.getPeer())
        if channel is None:
            raise ConnectionRefusedError
        socket.protocol = channel
        channel.makeConnection(socket)
        self._sockets.append(socket)
        return HttpClient(self, socket)

    def ask(self, request: bytes) -> Reply:
        """The answer to one request on a connection of its own."""
        client = self.connect()
        client.send(request)
        return client.reply()

    def upgrade(
        self, id: str | None = "client", headers: Iterable[tuple[str, str]] = ()
    ) -> WebSocketClient:
        """A WebSocket client whose upgrade was accepted."""
        client = self.connect()
        client.send(upgrade_request(id, headers))
        head, _, rest = client.socket.received().partition(b"\r\n\r\n")
        (reply,) = read_replies(head + b"\r\n\r\n")
        assert reply.status == 101, reply
        return WebSocketClient(self, client.socket, reply, rest)

    def advance(self, seconds: float, step: float | None = None) -> None:
        """Time passes, with the reactor turning at each `step`."""
        steps = max(1, round(seconds / step)) if step else 1
        self.clock.pump([seconds / steps] * steps)

    def hang_up(self) -> None:
        """Every client is gone; call it at the end of a test."""
        for socket in self._sockets:
            socket.hang_up()


class HttpClient:
    """The client's end of one connection to an Edge.

    Attributes:
        in_pieces: whether what is sent arrives in two reads, the last byte by itself.
    """

    in_pieces = False

    def __init__(self, edge: Edge, socket: MemorySocket) -> None:
        self.edge = edge
        self.socket = socket

    def send(self, data: bytes) -> None:
        """Send bytes; the reactor turns once."""
        if self.in_pieces and len(data) > 1:
            self.socket.deliver(data[:-1])
            self.edge.clock.advance(0)
            data = data[-1:]
        self.socket.deliver(data)
        self.edge.clock.advance(0)

    def replies(self, methods: Sequence[str] = ()) -> list[Reply]:
        """The answers that came since the last look."""
        return read_replies(self.socket.received(), methods)

    def reply(self) -> Reply:
        """The one answer that came since the last look."""
        replies = self.replies()
        assert len(replies) == 1, replies
        return replies[0]

    @property
    def closed(self) -> bool:
        """Whether the server closed the connection, at least in its direction."""
        return not self.socket.connected or self.socket.write_closed


class WebSocketClient:
    """The client's end of a WebSocket connection."""

    def __init__(self, edge: Edge, socket: MemorySocket, upgrade: Reply, rest: bytes) -> None:
        self.edge = edge
        self.socket = socket
        self.upgrade = upgrade
        self._rest = rest

    def send(self, *frames: bytes) -> None:
        """Send frames in one piece; the reactor turns once."""
        self.socket.deliver(b"".join(frames))
        self.edge.clock.advance(0)

    def text(self, payload: bytes) -> None:
        """Send a text message."""
        self.send(client_frame(TEXT, payload))

    def binary(self, payload: bytes) -> None:
        """Send a binary message."""
        self.send(client_frame(BINARY, payload))

    def frames(self) -> list[Frame]:
        """The frames that came since the last look, and by the end of the reactor's turn."""
        self.edge.clock.advance(0)
        data, self._rest = self._rest + self.socket.received(), b""
        return read_frames(data)

    def frame(self) -> Frame:
        """The one frame that came since the last look."""
        frames = self.frames()
        assert len(frames) == 1, frames
        return frames[0]

    def answers(self) -> list[dict[str, Any]]:
        """The responses that came since the last look, whichever their form."""
        return [read_answer(frame) for frame in self.frames()]

    def answer(self) -> dict[str, Any]:
        """The one response that came since the last look."""
        return read_answer(self.frame())

    @property
    def closed(self) -> bool:
        """Whether the server closed the connection."""
        return not self.socket.connected
