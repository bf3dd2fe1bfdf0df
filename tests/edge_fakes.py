"""Clients, sockets and destinations in memory, for tests of the edges and of the publisher.

The codecs of HTTP and WebSocket here are written for the tests alone: what the edges say is
judged by bytes, not by the code that wrote them.
"""

from __future__ import annotations

import json
import struct
import threading
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from types import SimpleNamespace
from typing import Any, NamedTuple

import attrs
from confluent_kafka import KafkaError, KafkaException
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from raccoon.config import Settings
from raccoon.errors import Overloaded, PublishError
from raccoon.identification import Identification
from raccoon.interfaces import ICollector
from raccoon.proto.raccoon_pb2 import SendEventRequest, SendEventResponse
from raccoon.request import CollectRequest
from raccoon.service.edge import EdgeContext
from raccoon.service.rest.service import make_rest_service
from raccoon.supervision import Supervisor
from tests.fakes import Fake, FakeMetrics, can_fail

NOW = 1_795_492_430.0
_READ = 65536  # bytes that a Twisted transport reads at once
_WRITE_BUFFER = 65536  # of a Twisted transport; past it its producer is paused
_POLL = 0.01  # seconds; a poll may return early, and closing need not wait long for it


def make_settings(**sections: Mapping[str, Any]) -> Settings:
    """The default settings with some options of some sections changed."""
    changed = {
        name: attrs.evolve(getattr(Settings(), name), **options)
        for name, options in sections.items()
    }
    return attrs.evolve(Settings(), **changed)


def publish_failed(request: CollectRequest, why: str = "broker down") -> PublishError:
    """The error of a request of which no event was delivered."""
    events = len(request.types)
    return PublishError(events, events, [why] * events)


# What clients send and read.


def json_body(
    guid: str = "guid", events: Sequence[tuple[str, bytes]] = (("click", b"{}"),)
) -> bytes:
    """A SendEventRequest in the JSON form."""
    return json.dumps(
        {
            "req_guid": guid,
            "sent_time": {"seconds": int(NOW), "nanos": 0},
            "events": [
                {"type": event_type, "event_bytes": b64encode(payload).decode()}
                for event_type, payload in events
            ],
        }
    ).encode()


def protobuf_body(
    guid: str = "guid", events: Sequence[tuple[str, bytes]] = (("click", b"{}"),)
) -> bytes:
    """A SendEventRequest in protobuf."""
    message = SendEventRequest(req_guid=guid)
    message.sent_time.seconds = int(NOW)
    for event_type, payload in events:
        message.events.add(type=event_type, event_bytes=payload)
    return message.SerializeToString()


def read_protobuf(body: bytes) -> dict[str, Any]:
    """A protobuf SendEventResponse, in the terms of the JSON form."""
    message = SendEventResponse.FromString(body)
    document: dict[str, Any] = {
        "status": message.status,
        "code": message.code,
        "sent_time": message.sent_time,
    }
    if message.reason:
        document["reason"] = message.reason
    if message.data:
        document["data"] = dict(message.data)
    return document


def http_request(
    method: str = "POST",
    path: str = "/api/v1/events",
    headers: Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
    version: str = "HTTP/1.1",
) -> bytes:
    """A request as bytes, with Host and Content-Length."""
    lines = [f"{method} {path} {version}", "Host: raccoon.test"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def chunked(*pieces: bytes) -> bytes:
    """A body in chunked transfer encoding, its end included."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


class Reply(NamedTuple):
    """An HTTP answer; header names in lower case, each with the values of all its lines."""

    version: bytes
    status: int
    phrase: bytes
    headers: dict[str, list[str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header that comes at most once."""
        values = self.headers.get(name, [])
        assert len(values) <= 1, (name, values)
        return values[0] if values else None

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def read_replies(data: bytes, methods: Sequence[str] = ()) -> list[Reply]:
    """All answers in `data`; `methods` are those of the requests, where one was HEAD."""
    replies: list[Reply] = []
    while data:
        head, found, data = data.partition(b"\r\n\r\n")
        assert found, f"an answer without the end of its headers: {head!r}"
        status_line, *lines = head.split(b"\r\n")
        version, status, phrase = status_line.split(b" ", 2)
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            assert colon, line
            headers.setdefault(name.decode().lower(), []).append(value.strip().decode("latin-1"))
        method = methods[len(replies)] if len(replies) < len(methods) else "GET"
        if int(status) < 200 or method == "HEAD":
            body = b""
        elif "chunked" in headers.get("transfer-encoding", []):
            body, data = _unchunk(data)
        elif "content-length" in headers:
            length = int(headers["content-length"][0])
            assert len(data) >= length, f"{len(data)} of {length} bytes of body"
            body, data = data[:length], data[length:]
        else:
            body, data = data, b""
        replies.append(Reply(version, int(status), phrase, headers, body))
    return replies


def _unchunk(data: bytes) -> tuple[bytes, bytes]:
    pieces = []
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        pieces.append(data[:length])
        assert data[length : length + 2] == b"\r\n"
        data = data[length + 2 :]
        if not length:
            return b"".join(pieces), data


CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Frame(NamedTuple):
    """One WebSocket frame as a server sends it."""

    opcode: int
    payload: bytes
    fin: bool = True

    def close_code(self) -> int:
        """The status code of a close frame."""
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2], "big")

    def close_reason(self) -> str:
        """The reason of a close frame."""
        assert self.opcode == CLOSE, self
        return self.payload[2:].decode()


def client_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    mask: bytes | None = b"\x37\xfa\x21\x3d",
    length: int | None = None,
) -> bytes:
    """One frame as a client sends it; `length` lies about the payload's."""
    size = len(payload) if length is None else length
    masked = 0x80 if mask else 0
    head = bytes([opcode | (0x80 if fin else 0)])
    if size < 126:
        head += bytes([masked | size])
    elif size < 1 << 16:
        head += bytes([masked | 126]) + struct.pack("!H", size)
    else:
        head += bytes([masked | 127]) + struct.pack("!Q", size)
    if not mask:
        return head + payload
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def read_frames(data: bytes) -> list[Frame]:
    """All frames in `data`, which a server sent: whole and unmasked."""
    frames = []
    while data:
        first, second = data[0], data[1]
        assert not first & 0x70, "a reserved bit is set"
        assert not second & 0x80, "a server's frame is masked"
        length, start = second, 2
        if length == 126:
            (length,), start = struct.unpack("!H", data[2:4]), 4
        elif length == 127:
            (length,), start = struct.unpack("!Q", data[2:10]), 10
        assert len(data) >= start + length, "a frame is cut off"
        frames.append(Frame(first & 0x0F, data[start : start + length], bool(first & 0x80)))
        data = data[start + length :]
    return frames


# Sockets.


@implementer(ITCPTransport, IPushProducer)
class MemorySocket:
    """A server's TCP connection whose other end is the test.

    It does what Twisted's does: bytes wait while the server does not read; a full buffer pauses
    the producer; closing is told in the next turn of the reactor, once the buffer is empty.
    """

    def __init__(self, clock: Clock, port: int = 40000) -> None:
        self._clock = clock
        self._address = IPv4Address("TCP", "127.0.0.1", port)
        self.protocol: Any = None
        self.producer: Any = None
        self._paused_producer = False
        self.reading = True
        self.connected = True
        self.disconnecting = False
        self.write_closed = False
        self.aborted = False
        self.client_reads = True
        self._unread = b""
        self._buffer = b""
        self._wire = b""

    # The client's end.

    def deliver(self, data: bytes) -> None:
        """Bytes from the client; they wait while the server does not read."""
        self._unread += data
        self._flow()

    def received(self) -> bytes:
        """What the client has received since the last call."""
        received, self._wire = self._wire, b""
        return received

    def read_on(self) -> None:
        """The client, which did not read, reads again."""
        self.client_reads = True
        self._wire += self._buffer
        self._buffer = b""
        if self._paused_producer:
            self._paused_producer = False
            self.producer.resumeProducing()
        self._close_if_due()

    def hang_up(self) -> None:
        """The client is gone."""
        self._lose(ConnectionLost())

    @property
    def unread(self) -> int:
        """How many bytes of the client the server has not taken."""
        return len(self._unread)

    def _flow(self) -> None:
        while self._unread and self.reading and self.connected and not self.disconnecting:
            data, self._unread = self._unread[:_READ], self._unread[_READ:]
            self.protocol.dataReceived(data)

    def _lose(self, reason: Exception) -> None:
        if self.connected:
            self.connected = False
            self.reading = False
            self.protocol.connectionLost(Failure(reason))

    def _close_if_due(self) -> None:
        if self.disconnecting and not self._buffer:
            self._clock.callLater(0, self._lose, ConnectionDone())

    # The server's end: ITCPTransport, IConsumer and IPushProducer.

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if not self.connected or self.write_closed or self.aborted:
            return
        if self.client_reads:
            self._wire += data
            return
        self._buffer += data
        if self.producer is not None and len(self._buffer) > _WRITE_BUFFER:
            self._paused_producer = True
            self.producer.pauseProducing()

    def writeSequence(self, pieces: Iterable[bytes]) -> None:
        pieces = list(pieces)
        assert all(isinstance(piece, bytes) for piece in pieces)
        self.write(b"".join(pieces))

    def loseConnection(self) -> None:
        if self.connected and not self.disconnecting:
            self.reading = False
            self.disconnecting = True
            self._close_if_due()

    def loseWriteConnection(self) -> None:
        # What was written before in the same turn still goes out, and so does what follows in it.
        self._clock.callLater(0, setattr, self, "write_closed", True)

    def abortConnection(self) -> None:
        if self.connected and not self.aborted:
            self.aborted = self.disconnecting = True
            self.reading = False
            self._clock.callLater(0, self._lose, ConnectionAborted())

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError("a producer is registered")
        assert streaming
        if self.connected:
            self.producer = producer
        else:
            producer.stopProducing()

    def unregisterProducer(self) -> None:
        self.producer = None
        self._paused_producer = False

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        if self.connected and not self.disconnecting:
            self.reading = True
            self._clock.callLater(0, self._flow)

    def stopProducing(self) -> None:
        self.loseConnection()

    def getPeer(self) -> IPv4Address:
        return self._address

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 8080)

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    def getTcpKeepAlive(self) -> bool:
        return False


# The HTTP port.


@implementer(ICollector)
class FakeCollector(Fake):
    """Keeps requests until the test settles them; acknowledges as the level asks.

    Attributes:
        overloaded: whether requests are refused.

    Args:
        ack: the acknowledgement level.
    """

    def __init__(self, ack: int = 1) -> None:
        super().__init__()
        self.ack = ack
        self.overloaded = False
        self.requests: list[CollectRequest] = []
        self._acknowledged: list[Deferred[None]] = []
        self._waiters: list[Callable[[], None]] = []

    @property
    def guids(self) -> list[str]:
        """Guids of what was taken, in order."""
        return [request.guid for request in self.requests]

    @can_fail
    def collect(self, request: CollectRequest) -> Deferred[None]:
        if self.overloaded and request.types:
            return fail(Overloaded())
        self.requests.append(request)
        waits = self.ack and request.types
        acknowledged: Deferred[None] = Deferred() if waits else succeed(None)
        self._acknowledged.append(acknowledged)
        return acknowledged

    @can_fail
    def when_room(self, resume: Callable[[], None]) -> None:
        if self.overloaded:
            self._waiters.append(resume)
        else:
            resume()

    def deliver(self, index: int = -1) -> None:
        """The destination confirms the index-th request."""
        if self.ack:
            self._acknowledged[index].callback(None)

    def deliver_all(self) -> None:
        """The destination confirms whatever is not settled."""
        for acknowledged in self._acknowledged:
            if not acknowledged.called:
                acknowledged.callback(None)

    def lose(self, index: int = -1, why: str = "broker down") -> None:
        """The destination refuses the index-th request."""
        request = self.requests[index]
        error = publish_failed(request, why)
        if request.on_failed is not None:
            request.on_failed(error)
        if self.ack:
            self._acknowledged[index].errback(error)

    def reject(self, index: int = -1, why: str = "no such topic") -> None:
        """No attempt can ever deliver the index-th request."""
        request = self.requests[index]
        failed = {kind: len(payloads) for kind, payloads in request.by_type.items()}
        events = len(request.types)
        error = PublishError(events, events, [why] * events, failed)
        if request.on_failed is not None:
            request.on_failed(error)
        if self.ack:
            self._acknowledged[index].errback(error)

    def make_room(self) -> None:
        """The overload ends."""
        self.overloaded = False
        waiters, self._waiters = self._waiters, []
        for resume in waiters:
            resume()


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


WEBSOCKET_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def upgrade_request(id: str | None = "client", headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """An upgrade of the events path, by a client with this id (None: no such header)."""
    identity = [] if id is None else [("X-User-ID", id)]
    return http_request(
        "GET",
        headers=[
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", WEBSOCKET_KEY),
            ("Sec-WebSocket-Version", "13"),
            *identity,
            *headers,
        ],
    )


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


def read_answer(frame: Frame) -> dict[str, Any]:
    """A response in a frame of its own: JSON in a text frame, protobuf in a binary one."""
    assert frame.fin, frame
    assert frame.opcode in (TEXT, BINARY), frame
    if frame.opcode == BINARY:
        return read_protobuf(frame.payload)
    document: dict[str, Any] = json.loads(frame.payload)
    return document


# Kafka.


class FakeMessage:
    """confluent_kafka's Message, as a delivery report has it."""

    def __init__(self, topic: str, value: bytes, key: str | bytes | None) -> None:
        self._topic = topic
        self._value = value
        self._key = key

    def topic(self) -> str:
        return self._topic

    def value(self) -> bytes:
        return self._value

    def key(self) -> str | bytes | None:
        return self._key


class FakeProducer:
    """confluent_kafka's Producer, set to report errors only, with a cluster in memory.

    A thread that polls is served at once: of every event that is not held it lets go, and has
    reported its failure before.

    Attributes:
        partitions: of each topic.
        leaderless: those that have no leader.
        refuses_to_list: raised when it is asked for a topic.
        asked: for each event that was taken, the partition that it was to go to.

    Args:
        on_error: the producer's error_cb.
        capacity: events in its queue at most.
    """

    def __init__(self, on_error: Callable[[KafkaError], None], capacity: int = 100_000) -> None:
        self._on_error = on_error
        self._capacity = capacity
        self._changed = threading.Condition()
        self._queue: list[tuple[bytes, Callable[..., None]]] = []
        self._purged: list[tuple[bytes, Callable[..., None]]] = []
        self._topics: dict[bytes, str] = {}
        self.partitions = 3
        self.leaderless: set[int] = set()
        self.refuses_to_list: Exception | None = None
        self.asked: list[int] = []
        self._errors: list[KafkaError] = []
        self._broken = False
        self.accepted: list[tuple[str, bytes]] = []
        self.keys: dict[bytes, str | bytes | None] = {}
        self.headers: dict[bytes, dict[str, str]] = {}
        self.refusals: dict[bytes, int] = {}
        self.failures: dict[bytes, int] = {}
        self.held: set[bytes] = set()
        self.reachable = True
        self.topics: set[str] = set()
        self.full_times = 0

    # For the test.

    def release(self, still: Set[bytes] = frozenset()) -> None:
        """Nothing else is held any more."""
        with self._changed:
            self.held &= still
            self._changed.notify_all()

    def break_down(self, error: KafkaError) -> None:
        """Report an error of the client as a whole; after a fatal one it takes nothing more."""
        with self._changed:
            self._errors.append(error)
            self._broken = error.fatal()
            self._changed.notify_all()

    # confluent_kafka.Producer.

    def produce(
        self,
        topic: str,
        value: bytes,
        key: str | bytes | None,
        partition: int = -1,
        on_delivery: Callable[..., None] | None = None,
        *,
        headers: dict[str, str] | None = None,
    ) -> None:
        assert on_delivery is not None
        with self._changed:
            if self._broken:
                raise KafkaException(KafkaError(KafkaError._FATAL))
            if value in self.refusals:
                raise KafkaException(KafkaError(self.refusals[value]))
            if partition >= self.partitions:
                raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))
            if len(self._queue) >= self._capacity:
                self.full_times += 1
                raise BufferError
            self.asked.append(partition)
            self._queue.append((value, on_delivery))
            self.accepted.append((topic, value))
            if key is not None:
                self.keys[value] = key
            if headers:
                self.headers[value] = headers
            self._topics[value] = topic
            self._changed.notify_all()

    def poll(self, timeout: float) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._errors or self._due(), min(timeout, _POLL))
            errors, self._errors = self._errors, []
        for error in errors:
            self._on_error(error)
        return len(errors) + self._serve()

    def flush(self, timeout: float) -> int:
        self._serve()
        with self._changed:
            return len(self._queue)

    def purge(self) -> None:
        with self._changed:
            self._purged += self._queue
            self._queue = []

    def list_topics(self, topic: str | None = None, *, timeout: float) -> object:
        if not self.reachable:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        if topic and self.refuses_to_list:
            raise self.refuses_to_list
        partitions = {
            number: SimpleNamespace(leader=-1 if number in self.leaderless else 1)
            for number in range(self.partitions)
        }
        known = SimpleNamespace(partitions=partitions)
        return SimpleNamespace(topics=dict.fromkeys([topic] if topic else self.topics, known))

    def _due(self) -> bool:
        return bool(self._purged) or any(value not in self.held for value, _ in self._queue)

    def _serve(self) -> int:
        with self._changed:
            purged, self._purged = self._purged, []
            due = [entry for entry in self._queue if entry[0] not in self.held]
            self._queue = [entry for entry in self._queue if entry[0] in self.held]
        served = len(due) + len(purged)
        while due:
            value, callback = due.pop(0)
            if value in self.failures:
                message = FakeMessage(self._topics[value], value, self.keys.get(value))
                try:
                    callback(KafkaError(self.failures[value]), message)
                except Exception:
                    with self._changed:
                        self._queue[:0] = due
                    raise
            del callback
        while purged:
            _, callback = purged.pop(0)
            callback(KafkaError(KafkaError._PURGE_QUEUE), None)
            del callback
        return served
