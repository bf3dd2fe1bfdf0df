"""Both handlers of a stream, on a real gRPC server and channel of this machine.

What grpcio does with a handler cannot be had in memory: these tests hold what a client may rely
on, for the handler that rests on names that are not public and for the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, ClassVar, Self

import grpc
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from raccoon.deserialization import ProtobufDeserializer
from raccoon.intake import Codec
from raccoon.request import CollectRequest
from raccoon.serialization import ProtobufSerializer
from raccoon.service.grpc import stream_handlers
from raccoon.service.grpc.inbox import Inbox
from raccoon.service.grpc.stream import EventStream, StreamServicer
from raccoon.service.grpc.stream_handlers import (
    Handler,
    Open,
    blocking_stream_handler,
    direct_stream_handler,
    make_stream_handler,
)
from raccoon.supervision import Supervisor
from tests.edges.bodies import protobuf_body, read_protobuf
from tests.edges.collector import FakeCollector
from tests.edges.edge import make_context
from tests.fakes import FakeMetrics, make_settings
from tests.mixin import Mixin

SERVICE, METHOD = "test.Stream", "Send"
METADATA = (("x-user-id", "phone"),)
PATIENCE = 20  # seconds that no test should ever wait
LIMIT = 8
OK, BAD_REQUEST = 1, 2
BODY_LIMIT = 100_000


class InboxAtOnce(Inbox):
    """In the place of the reactor: one call at a time, in the thread that puts it down."""

    def __init__(self) -> None:
        super().__init__(None, Supervisor(FakeMetrics()))
        self.lock = threading.RLock()

    def put(self, function: Callable[..., None], *args: Any) -> None:
        with self.lock:
            function(*args)


class CountingCollector(FakeCollector):
    """Tells of each request, and how many were unsettled at most."""

    def __init__(self, ack: int) -> None:
        super().__init__(ack)
        self.came = threading.Semaphore(0)
        self.unsettled = self.most = 0

    def collect(self, request: CollectRequest) -> Deferred[None]:
        self.unsettled += 1
        self.most = max(self.most, self.unsettled)
        try:
            return super().collect(request)
        finally:
            self.came.release()

    def deliver(self, index: int = -1) -> None:
        self.unsettled -= 1
        super().deliver(index)


class Streams(set[Any]):
    """The streams that are open; tells of each that ends."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Semaphore(0)

    def discard(self, stream: Any) -> None:
        super().discard(stream)
        self.ended.release()


class Client:
    """One stream of a client: `send` and `finish` never block, the rest waits."""

    def __init__(self, channel: grpc.Channel, metadata: Any = METADATA, timeout: float = PATIENCE):
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        method: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            f"/{SERVICE}/{METHOD}"
        )
        self.call: Any = method(iter(self._requests.get, None), metadata=metadata, timeout=timeout)

    def send(self, *bodies: bytes) -> Self:
        for body in bodies:
            self._requests.put(body)
        return self

    def finish(self) -> Self:
        """Send no more."""
        self._requests.put(None)
        return self

    def read(self) -> dict[str, Any]:
        """The next answer."""
        return read_protobuf(next(self.call))

    def rest(self) -> list[str]:
        """The guids of all further answers, until the stream ends with OK."""
        return [read_protobuf(body)["data"]["req_guid"] for body in self.call]


class Contract(Mixin):
    """What a client may rely on, with either handler."""

    make: ClassVar[Callable[[Open, Supervisor], Handler]]
    threads = 16

    def setUp(self) -> None:
        self.serve(1)

    def serve(self, ack: int) -> None:
        """Start a server at this level of acknowledgement."""
        settings = make_settings()
        self.collector = CountingCollector(ack)
        self.inbox = InboxAtOnce()
        self.deserializer = ProtobufDeserializer(settings.limits, settings.event)
        context = make_context(settings, Clock(), self.collector, FakeMetrics())
        self.servicer = StreamServicer(
            self.inbox,
            context.intake("gRPC stream", requires_id=True),
            Codec(self.deserializer, ProtobufSerializer()),
            context.identification,
            context.metrics,
            context.supervisor,
            context.reactor.seconds,
            LIMIT,
        )
        self.servicer.streams = self.streams = Streams()
        self.server = grpc.server(
            ThreadPoolExecutor(self.threads),
            options=[("grpc.max_receive_message_length", BODY_LIMIT), ("grpc.so_reuseport", 0)],
        )
        handler = type(self).make(self.servicer.open, Supervisor(FakeMetrics()))
        self.server.add_registered_method_handlers(SERVICE, {METHOD: handler})
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.addCleanup(self._end, self.server, self.channel)

    def _end(self, server: grpc.Server, channel: grpc.Channel) -> None:
        channel.close()
        assert server.stop(0).wait(PATIENCE), "the server did not end"

    def wait(self, count: int = 1) -> None:
        """Until so many requests have come since the last wait."""
        for _ in range(count):
            assert self.collector.came.acquire(timeout=PATIENCE), "no request came"

    def deliver(self, index: int) -> None:
        """The destination confirms the index-th request."""
        with self.inbox.lock:
            self.collector.deliver(index)

    def wait_for_end(self) -> None:
        """Until one more stream has ended."""
        assert self.streams.ended.acquire(timeout=PATIENCE), "no stream ended"

    def check_failed(self, client: Client, code: grpc.StatusCode, details: str = "") -> None:
        """The stream ends with this code, and without a further answer."""
        with self.assertRaises(grpc.RpcError):
            next(client.call)
        self.assertEqual(client.call.code(), code)
        self.assertIn(details, client.call.details())

    def check_serves_on(self) -> None:
        """The next stream is served."""
        client = Client(self.channel).send(protobuf_body("next")).finish()
        self.wait()
        self.deliver(-1)
        self.assertEqual(client.rest(), ["next"])

    def test_many_messages(self) -> None:
        """Each of many messages is answered, on several streams at once."""
        self.serve(0)

        def run(name: int) -> bool:
            guids = [f"{name}/{number}" for number in range(200)]
            client = Client(self.channel).send(*map(protobuf_body, guids)).finish()
            return client.rest() == guids

        with ThreadPoolExecutor(4) as clients:
            self.assertEqual(list(clients.map(run, range(4))), [True] * 4)

    def test_any_order(self) -> None:
        """Answers come in the order of the outcomes, while the client still sends."""
        guids = [str(number) for number in range(LIMIT)]
        client = Client(self.channel).send(*map(protobuf_body, guids))
        self.wait(LIMIT)
        for index in reversed(range(LIMIT)):
            self.deliver(index)
        self.assertEqual([client.read()["data"]["req_guid"] for _ in guids], guids[::-1])
        client.send(protobuf_body("one more")).finish()
        self.wait()
        self.deliver(-1)
        self.assertEqual(client.rest(), ["one more"])

    def test_headers_come_first(self) -> None:
        """A client learns that its stream is served before it has sent anything."""
        client = Client(self.channel)
        self.assertIsNotNone(client.call.initial_metadata())
        self.assertEqual(client.finish().rest(), [])

    def test_bad_message_among_good_ones(self) -> None:
        """A message that is no request is answered with bad request; the stream goes on."""
        self.serve(0)
        client = Client(self.channel)
        client.send(protobuf_body("a"), b"\xff", protobuf_body("b"), b"").finish()
        answers = [read_protobuf(body) for body in client.call]
        self.assertEqual(
            [(a["code"], a["data"]["req_guid"]) for a in answers],
            [(OK, "a"), (BAD_REQUEST, ""), (OK, "b"), (OK, "")],
        )

    def test_no_id(self) -> None:
        """A stream without an id ends with INVALID_ARGUMENT."""
        client = Client(self.channel, metadata=()).send(protobuf_body("a"))
        code = grpc.StatusCode.INVALID_ARGUMENT
        self.check_failed(client, code, "connection id header missing")
        self.check_serves_on()

    def test_limit_in_flight(self) -> None:
        """A client that sends without end is read only as its requests are answered."""
        total = 10 * LIMIT
        guids = [str(number) for number in range(total)]
        client = Client(self.channel).send(*map(protobuf_body, guids)).finish()
        self.wait(LIMIT)
        for index in range(total):
            self.deliver(index)
            if index < total - LIMIT:
                self.wait()
        self.assertEqual(client.rest(), guids)
        self.assertEqual(self.collector.most, LIMIT)

    def test_half_close(self) -> None:
        """A client that sends no more gets what is due, and then OK."""
        client = Client(self.channel).send(protobuf_body("a")).finish()
        self.wait()
        self.deliver(0)
        self.assertEqual(client.rest(), ["a"])
        self.assertEqual(client.call.code(), grpc.StatusCode.OK)
        self.wait_for_end()
        self.assertEqual(self.streams, set())

    def test_cancel(self) -> None:
        """A client that goes away is forgotten; the answers that come later are dropped."""
        client = Client(self.channel).send(*map(protobuf_body, "abc"))
        self.wait(3)
        self.deliver(1)
        client.read()
        client.call.cancel()
        self.wait_for_end()
        self.deliver(0)
        self.deliver(2)
        self.check_serves_on()

    def test_cancel_where_it_is_not_read(self) -> None:
        """So is one that goes away while the server does not read it."""
        guids = [str(number) for number in range(2 * LIMIT)]
        client = Client(self.channel).send(*map(protobuf_body, guids))
        self.wait(LIMIT)
        client.call.cancel()
        self.wait_for_end()
        self.check_serves_on()

    def test_deadline(self) -> None:
        """A client's deadline ends its stream."""
        client = Client(self.channel, timeout=0.3).send(protobuf_body("a"))
        self.wait()
        self.check_failed(client, grpc.StatusCode.DEADLINE_EXCEEDED)
        self.wait_for_end()
        self.deliver(0)
        self.check_serves_on()

    def test_message_over_the_size(self) -> None:
        """A message over the server's size ends its stream, and only that."""
        client = Client(self.channel).send(bytes(BODY_LIMIT + 1))
        self.check_failed(client, grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.wait_for_end()
        self.assertEqual(self.collector.requests, [])
        self.check_serves_on()

    def test_large_messages(self) -> None:
        """Messages up to that size are requests, many of them too."""
        self.serve(0)
        guids = [str(number) for number in range(40)]
        events = [("click", b"x" * (BODY_LIMIT - 100))]
        client = Client(self.channel)
        client.send(*(protobuf_body(guid, events) for guid in guids)).finish()
        self.assertEqual(client.rest(), guids)

    def test_stop(self) -> None:
        """A server that stops answers what is in flight and ends the stream with UNAVAILABLE."""
        client = Client(self.channel).send(protobuf_body("a"))
        silent = Client(self.channel)
        silent.call.initial_metadata()
        self.wait()
        stopped = self.server.stop(PATIENCE)
        self.servicer.stop()
        self.deliver(0)
        self.assertEqual(client.read()["data"], {"req_guid": "a"})
        for each in (client, silent):
            self.check_failed(each, grpc.StatusCode.UNAVAILABLE, "the server is stopping")
        assert stopped.wait(PATIENCE), "the server did not end"

    def test_stop_without_grace(self) -> None:
        """A server ends although a stream's requests are never answered."""
        client = Client(self.channel).send(protobuf_body("a"))
        self.wait()
        self.servicer.stop()
        assert self.server.stop(0.1).wait(PATIENCE), "the server did not end"
        self.assertRaises(grpc.RpcError, next, client.call)
        self.deliver(0)

    def test_fault(self) -> None:
        """A fault of ours is INTERNAL for its client, says nothing of it, and is logged."""

        received = EventStream.received

        def fail(stream: EventStream, body: bytes | None) -> None:
            raise ZeroDivisionError("inside")

        self.patch(EventStream, "received", fail)
        client = Client(self.channel).send(b"")
        self.check_failed(client, grpc.StatusCode.INTERNAL, "internal error")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.wait_for_end()
        self.patch(EventStream, "received", received)
        self.check_serves_on()


class DirectStreamTests(Contract, SynchronousTestCase):
    """The handler that serves in the server's own thread."""

    make = direct_stream_handler

    def test_streams_hold_no_thread(self) -> None:
        """Far more streams than the server has threads are served together."""
        self.serve(0)
        clients = [Client(self.channel) for _ in range(100)]
        for client in clients:
            self.assertEqual(client.send(protobuf_body("a")).read()["code"], OK)
        for client in clients:
            self.assertEqual(client.finish().rest(), [])


class BlockingStreamTests(Contract, SynchronousTestCase):
    """The handler that rests on public names alone."""

    make = blocking_stream_handler


class ChoiceTests(SynchronousTestCase):
    """Which handler is taken."""

    def taken(self) -> Any:
        return type(
            make_stream_handler(
                lambda metadata, wire: None, Supervisor(FakeMetrics())
            ).stream_stream
        )

    def test_direct_where_grpcio_has_its_names(self) -> None:
        """The grpcio of the project's requirements has what the direct handler needs."""
        direct = direct_stream_handler(lambda metadata, wire: None, Supervisor(FakeMetrics()))
        self.assertIs(self.taken(), type(direct.stream_stream))

    def test_blocking_where_it_has_not(self) -> None:
        """Where a name of grpcio is missing, streams are served by the public ones."""
        self.patch(stream_handlers, "DIRECT", False)
        blocking = blocking_stream_handler(lambda metadata, wire: None, Supervisor(FakeMetrics()))
        self.assertIs(self.taken(), type(blocking.stream_stream))
