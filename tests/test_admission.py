"""Tests of raccoon.admission, and of what the HTTP port does where there is no room."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from raccoon.admission import ArrivingBytes
from tests.edges.bodies import json_body, protobuf_body
from tests.edges.edge import Edge, HttpClient, WebSocketClient
from tests.edges.frames import BINARY, CLOSE, CONTINUATION, TEXT, client_frame, read_answer
from tests.edges.http import chunked, http_request
from tests.fakes import make_settings

MIB = 1 << 20
OVERLOADED = "overloaded, retry"
JSON = ("Content-Type", "application/json")
ERROR, INTERNAL_ERROR = 2, 3


class ArrivingBytesTests(SynchronousTestCase):
    """The budget."""

    def test_large(self) -> None:
        """Large bodies get half of WORKER_BUFFER_MAX_BYTES together, counted as they come."""
        arriving = ArrivingBytes(16 * MIB)
        self.assertTrue(all(arriving.take(MIB, n * MIB) for n in range(4)))
        self.assertTrue(all(arriving.take(MIB, n * MIB) for n in range(4)))
        self.assertFalse(arriving.take(MIB, 4 * MIB))
        self.assertEqual(8 * MIB, arriving.held)
        arriving.give(4 * MIB)
        self.assertTrue(arriving.take(MIB, 4 * MIB))

    def test_small(self) -> None:
        """Small ones get in beside them, up to a bound of their own."""
        arriving = ArrivingBytes(16 * MIB)
        arriving.take(8 * MIB, 0)
        self.assertEqual(32, sum(arriving.take(65_536, 0) for _ in range(100)))
        self.assertFalse(arriving.take(1, 0))


class AdmissionCase(SynchronousTestCase):
    """An HTTP port with room for 8 MiB of large bodies on their way."""

    def setUp(self) -> None:
        settings = make_settings(
            worker={"buffer_max_bytes": 16 * MIB}, limits={"body_timeout_ms": 10_000}
        )
        self.edge = Edge(settings)
        self.addCleanup(self.edge.hang_up)
        self.arriving = self.edge.site.arriving

    def fill(self) -> None:
        """No room is left for large ones."""
        self.assertTrue(self.arriving.take(8 * MIB, 0))


class BodyTests(AdmissionCase):
    """Bodies of HTTP."""

    def begin(
        self, sent: bytes, headers: tuple[str, str] = ("Content-Length", "3000000")
    ) -> HttpClient:
        """A client that has sent a part of a body."""
        client = self.edge.connect()
        client.send(http_request(headers=[JSON, headers]) + sent)
        return client

    def test_counted_while_it_comes(self) -> None:
        """A body counts what has come of it, and nothing once it is whole, or gone."""
        body = json_body("a", [("click", b"x" * 100_000)])
        client = self.begin(body[:-1], ("Content-Length", str(len(body))))
        self.assertEqual(len(body) - 1, self.arriving.held)
        client.send(body[-1:])
        self.assertEqual((0, ["a"]), (self.arriving.held, self.edge.collector.guids))
        client = self.begin(b"x" * 100_000)
        self.assertEqual(100_000, self.arriving.held)
        client.socket.hang_up()
        self.assertEqual(0, self.arriving.held)

    def test_announced(self) -> None:
        """Who announces much and sends nothing takes no room."""
        for _ in range(100):
            self.begin(b"")
        self.assertEqual(0, self.arriving.held)

    def check_refused(self, client: HttpClient) -> None:
        """It is told to come again, and what it sent is let go of."""
        reply = client.reply()
        self.assertEqual((503, "1"), (reply.status, reply.header("retry-after")))
        self.assertEqual((ERROR, INTERNAL_ERROR), (reply.json()["status"], reply.json()["code"]))
        self.assertIn(OVERLOADED, reply.json()["reason"])
        self.assertEqual(8 * MIB, self.arriving.held)
        client.socket.deliver(b"x" * 1000)
        self.edge.advance(3, step=1)
        self.assertFalse(client.socket.connected)
        refused = self.edge.metrics.total("requests_refused_total", ("arriving",))
        self.assertEqual(1, refused)

    def test_no_room(self) -> None:
        """A large body that finds no room is refused, and may come again."""
        self.fill()
        client = self.begin(b"x" * 65_000)
        self.assertEqual([], client.replies())
        client.send(b"x" * 1000)
        self.check_refused(client)

    def test_no_room_for_chunks(self) -> None:
        """So is one in chunks."""
        self.fill()
        client = self.begin(chunked(b"x" * 100_000)[:-5], ("Transfer-Encoding", "chunked"))
        self.check_refused(client)

    def test_small(self) -> None:
        """An ordinary body is taken all the same."""
        self.fill()
        client = self.edge.connect()
        body = json_body("a")
        client.send(http_request(headers=[JSON], body=body)[:-1])
        client.send(body[-1:])
        self.assertEqual(["a"], self.edge.collector.guids)


class MessageTests(AdmissionCase):
    """Messages of WebSocket, in a frame that is not whole or in fragments."""

    def check_refused(self, client: WebSocketClient, opcode: int) -> None:
        """It is told in its own form to come again, and the connection closes with 1013."""
        answer, close = client.frames()
        self.assertEqual(opcode, answer.opcode)
        told = read_answer(answer)
        self.assertEqual((ERROR, INTERNAL_ERROR), (told["status"], told["code"]))
        self.assertIn(OVERLOADED, told["reason"])
        self.assertEqual((CLOSE, 1013), (close.opcode, close.close_code()))
        self.assertEqual(8 * MIB, self.arriving.held)
        client.send(b"x" * 100_000)
        self.edge.advance(3, step=1)
        self.assertTrue(client.closed)
        self.assertEqual(8 * MIB, self.arriving.held)

    def frame(self, opcode: int, size: int) -> bytes:
        """The beginning of a large frame."""
        body = protobuf_body("a", [("click", b"x" * 1_000_000)])
        return client_frame(opcode, body)[:size]

    def test_counted_while_it_comes(self) -> None:
        """A message counts what has come of it, and nothing once it is whole, or gone."""
        client = self.edge.upgrade()
        frame = client_frame(BINARY, protobuf_body("a", [("click", b"x" * 100_000)]))
        client.send(frame[:60_000])
        client.send(frame[60_000:-1])
        self.assertEqual(len(frame) - 1, self.arriving.held)
        client.send(frame[-1:])
        self.assertEqual((0, ["a"]), (self.arriving.held, self.edge.collector.guids))
        client.send(frame[:60_000])
        client.socket.hang_up()
        self.assertEqual(0, self.arriving.held)

    def test_fragments(self) -> None:
        """So does one in fragments."""
        client = self.edge.upgrade()
        body = json_body("a")
        client.send(client_frame(TEXT, body[:10], fin=False))
        client.send(client_frame(CONTINUATION, body[10:20], fin=False))
        self.assertGreater(self.arriving.held, 20)
        client.send(client_frame(CONTINUATION, body[20:]))
        self.assertEqual((0, ["a"]), (self.arriving.held, self.edge.collector.guids))
        client.send(client_frame(TEXT, body[:10], fin=False))
        client.socket.hang_up()
        self.assertEqual(0, self.arriving.held)

    def test_no_room(self) -> None:
        """A large message that finds no room is refused."""
        self.fill()
        for opcode in (TEXT, BINARY):
            client = self.edge.upgrade(f"client-{opcode}")
            client.send(self.frame(opcode, 100_000))
            self.check_refused(client, opcode)

    def test_no_room_for_fragments(self) -> None:
        """So is one in fragments."""
        self.fill()
        client = self.edge.upgrade()
        client.send(client_frame(TEXT, b"x" * 60_000, fin=False))
        self.assertEqual([], client.frames())
        client.send(client_frame(CONTINUATION, b"x" * 60_000, fin=False))
        self.check_refused(client, TEXT)

    def test_small(self) -> None:
        """An ordinary message is taken all the same, whole or in pieces."""
        self.fill()
        client = self.edge.upgrade()
        frame = client_frame(TEXT, json_body("a"))
        client.send(frame + frame[:10])
        client.send(frame[10:])
        self.assertEqual(["a", "a"], self.edge.collector.guids)

    def test_deadline(self) -> None:
        """A message that does not come whole in time ends its connection, in a frame or many."""
        self.edge.websocket.start()
        for begin in (self.frame(BINARY, 1000), client_frame(TEXT, b"x", fin=False)):
            client = self.edge.upgrade(f"client-{len(begin)}")
            client.send(begin)
            self.edge.advance(9, step=1)
            self.assertNotIn(CLOSE, [frame.opcode for frame in client.frames()])
            self.edge.advance(2, step=1)
            close = next(frame for frame in client.frames() if frame.opcode == CLOSE)
            self.assertEqual(1008, close.close_code())
            self.assertEqual(0, self.arriving.held)

    def test_in_time(self) -> None:
        """Each message has the time to itself."""
        self.edge.websocket.start()
        client = self.edge.upgrade()
        frame = client_frame(TEXT, json_body("a"))
        for _ in range(4):
            client.send(frame[:10])
            self.edge.advance(6, step=1)
            client.send(frame[10:])
        self.assertEqual(4, len(self.edge.collector.guids))
