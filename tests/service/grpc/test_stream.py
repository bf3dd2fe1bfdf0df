"""A stream on a fake wire: what is read and when, what each request is answered, and the end."""

from __future__ import annotations

import threading
from typing import Any

import grpc

from raccoon.deserialization import ProtobufDeserializer
from raccoon.intake import Codec
from raccoon.messages import Identifier
from raccoon.serialization import ProtobufSerializer
from raccoon.service.grpc.inbox import Inbox
from raccoon.service.grpc.stream import EventStream, StreamServicer
from tests.edges.bodies import NOW, protobuf_body, read_protobuf
from tests.edges.collector import FakeCollector
from tests.edges.edge import make_context
from tests.fakes import FakeMetrics, ThreadlessClock, make_settings
from tests.service.grpc.case import GrpcCase

SUCCESS, ERROR = 1, 2
OK, BAD_REQUEST, INTERNAL_ERROR = 1, 2, 3
METADATA = (("x-user-id", "phone"), ("user-agent", "grpc-test"))
GROUP = "--default--"
LIMIT = 4
LARGE = protobuf_body("large", [("click", b"x" * 70_000)])
STOPPING = (grpc.StatusCode.UNAVAILABLE, "the server is stopping")


class FakeWire:
    """Counts what is asked for, and refuses what the contract forbids."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.reading = False
        self.writing: bytes | None = None
        self.more: list[bool] = []
        self.status: tuple[grpc.StatusCode, str] | None = None

    def read(self) -> None:
        assert not self.reading, "two reads at once"
        assert self.status is None, "read after the end"
        self.reading = True

    def write(self, body: bytes, more: bool) -> None:
        assert self.writing is None, "two writes at once"
        assert self.status is None, "written after the end"
        self.writing = body
        self.more.append(more)

    def end(self, code: grpc.StatusCode, details: str) -> None:
        assert self.status is None, "ended twice"
        self.status = (code, details)


class StreamTestCase(GrpcCase):
    """One stream on a fake collector and a clock, with LIMIT requests in flight."""

    def make(self, ack: int = 1, metadata: Any = METADATA, **sections: Any) -> None:
        """Open the stream, with some options changed."""
        settings = make_settings(**sections)
        self.clock = ThreadlessClock()
        self.clock.advance(NOW)
        self.collector = FakeCollector(ack)
        self.metrics = FakeMetrics()
        context = make_context(settings, self.clock, self.collector, self.metrics)
        self.inbox = Inbox(self.clock, context.supervisor)
        self.codec = Codec(
            ProtobufDeserializer(settings.limits, settings.event), ProtobufSerializer()
        )
        self.servicer = StreamServicer(
            self.inbox,
            context.intake("gRPC stream", requires_id=True),
            self.codec,
            context.identification,
            self.metrics,
            context.supervisor,
            self.clock.seconds,
            LIMIT,
        )
        self.wire, self.stream = self.open(metadata)

    def setUp(self) -> None:
        self.make()

    def open(self, metadata: Any = METADATA) -> tuple[FakeWire, EventStream]:
        """One more stream; None where it is refused."""
        wire = FakeWire()
        stream: Any = self.servicer.open(metadata, wire)
        if stream is not None:
            stream.begin()
        return wire, stream

    def send(self, body: bytes) -> None:
        """A message of the client, as gRPC's thread gives it; the reactor turns."""
        self.give(body)
        self.turn()

    def give(self, body: bytes | None) -> None:
        """A message of the client, or the end of them; the reactor has not yet turned."""
        assert self.wire.reading, "nothing was asked for"
        self.wire.reading = False
        self.stream.received(body)

    def turn(self) -> None:
        """The reactor turns, twice: what it puts down for itself is done too."""
        self.clock.advance(0.01)
        self.clock.advance(0.01)

    def read(self) -> dict[str, Any]:
        """The client reads the answer that is being written."""
        body = self.wire.writing
        assert body is not None, "nothing is written"
        self.wire.writing = None
        self.stream.written()
        return read_protobuf(body)

    def read_all(self) -> list[dict[str, Any]]:
        """The client reads all that there is."""
        answers = []
        while self.wire.writing is not None:
            answers.append(self.read())
        return answers


class AnswerTests(StreamTestCase):
    """Outcomes and what the client reads."""

    def test_stored(self) -> None:
        """A request is answered SUCCESS once the destination has confirmed it."""
        self.send(protobuf_body("a"))
        self.assertIsNone(self.wire.writing)
        self.collector.deliver()
        self.turn()
        self.assertEqual(
            self.read(),
            {"status": SUCCESS, "code": OK, "sent_time": int(NOW), "data": {"req_guid": "a"}},
        )
        self.assertIsNone(self.wire.status)

    def test_level_0(self) -> None:
        """At level 0 the answer does not wait for the destination."""
        self.make(ack=0)
        self.send(protobuf_body("a"))
        self.assertEqual(self.read()["code"], OK)

    def test_answers_in_any_order(self) -> None:
        """Answers come as the outcomes do, one after the other."""
        for guid in "abc":
            self.send(protobuf_body(guid))
        self.collector.deliver(2)
        self.collector.lose(0, why="no leader")
        self.collector.deliver(1)
        self.turn()
        answers = self.read_all()
        self.assertEqual([a["data"]["req_guid"] for a in answers], ["c", "a", "b"])
        self.assertEqual([a["code"] for a in answers], [OK, INTERNAL_ERROR, OK])
        self.assertEqual(
            answers[1]["reason"], "cannot publish events: 1 of 1 events failed: no leader"
        )

    def test_answers_of_one_turn(self) -> None:
        """Of the answers of one turn only the last asks to be sent on its own."""
        for guid in "abc":
            self.send(protobuf_body(guid))
        self.collector.deliver_all()
        self.turn()
        self.read_all()
        self.assertEqual(self.wire.more, [True, True, False])

    def test_overloaded(self) -> None:
        """A refusal is a response that asks to retry; nothing is read until there is room."""
        self.collector.overloaded = True
        self.send(protobuf_body("a"))
        answer = self.read()
        self.assertEqual((answer["status"], answer["code"]), (ERROR, INTERNAL_ERROR))
        self.assertEqual(answer["reason"], "overloaded, retry")
        self.assertEqual(answer["data"], {"req_guid": "a"})
        # One message had been asked for before the refusal was known.
        self.send(protobuf_body("b"))
        self.assertEqual(self.read()["reason"], "overloaded, retry")
        self.assertFalse(self.wire.reading)
        self.collector.make_room()
        self.send(protobuf_body("c"))
        self.collector.deliver()
        self.turn()
        self.assertEqual(self.read()["code"], OK)

    def test_gone_while_overloaded(self) -> None:
        """A stream that is lost while it waits for room is forgotten at once."""
        self.collector.overloaded = True
        self.send(protobuf_body("a"))
        self.read()
        self.assertEqual(1, len(self.collector.waiters))
        self.stream.lost()
        self.assertEqual([], self.collector.waiters)

    def test_bad_message_among_good_ones(self) -> None:
        """What is no request is answered with BAD_REQUEST, and the stream goes on."""
        self.send(protobuf_body("a"))
        self.send(b"\x0a\xff\xff")
        answer = self.read()
        self.assertEqual((answer["status"], answer["code"]), (ERROR, BAD_REQUEST))
        self.assertTrue(answer["reason"].startswith("cannot deserialize request: "), answer)
        self.assertEqual(answer["data"], {"req_guid": ""})
        self.assertEqual(self.metrics.total("batches_read_total", ("failed", "serde", GROUP)), 1)
        self.send(protobuf_body("b"))
        self.collector.deliver_all()
        self.turn()
        self.assertEqual([a["data"]["req_guid"] for a in self.read_all()], ["a", "b"])

    def test_over_a_limit(self) -> None:
        """More events than LIMIT_EVENTS are a bad request by name."""
        self.make(limits={"events": 1})
        self.send(protobuf_body("a", [("t", b"")] * 2))
        self.assertIn("LIMIT_EVENTS", self.read()["reason"])

    def test_no_events(self) -> None:
        """No bytes at all are a request, as in a unary call."""
        self.make(ack=0)
        self.send(b"")
        self.assertEqual(self.read()["code"], OK)


class IdentityTests(StreamTestCase):
    """Who the client is: the stream's metadata say it once."""

    def test_requests_carry_it(self) -> None:
        """Each request has the client's id and group, its bytes, and the time it was read."""
        self.make(
            websocket={"conn_group_header": "X-Group"}, metadata=(*METADATA, ("x-group", "beta"))
        )
        self.send(protobuf_body("g", [("click", b"\x00\xff"), ("view", b"")]))
        (request,) = self.collector.requests
        self.assertEqual(request.identifier, Identifier("phone", "beta"))
        self.assertEqual((request.guid, request.sent_time), ("g", NOW))
        self.assertEqual(request.received_at, NOW)
        self.assertEqual(request.types, ["click", "view"])
        self.assertEqual(request.payloads, [b"\x00\xff", b""])

    def test_counted_when_collected(self) -> None:
        """A request counts once, in the reactor's thread."""
        self.give(protobuf_body("a", [("click", b"123"), ("click", b"45")]))
        self.assertEqual((self.metrics.counts, self.collector.requests), ([], []))
        self.turn()
        self.assertEqual(self.metrics.total("batches_read_total", ("success", "NA", GROUP)), 1)
        self.assertEqual(self.metrics.total("events_rx_total", (GROUP, "click")), 2)

    def test_refused(self) -> None:
        """A stream without an id, or with one that cannot be, ends before it is read."""
        for metadata, words in (
            ((), "connection id header missing"),
            ((("user-agent", "x"),), "connection id header missing"),
            ((("x-user-id", "x" * 257),), "LIMIT_ID_LENGTH"),
        ):
            wire, stream = self.open(metadata)
            self.assertIsNone(stream)
            self.assertFalse(wire.reading)
            assert wire.status is not None
            self.assertEqual(wire.status[0], grpc.StatusCode.INVALID_ARGUMENT)
            self.assertIn(words, wire.status[1])
        self.assertEqual(self.metrics.total("batches_read_total", ("failed", "serde", "NA")), 3)
        self.assertEqual(self.servicer.streams, {self.stream})


class FlowTests(StreamTestCase):
    """How far a client is read."""

    def fill(self) -> None:
        """Bring as many requests in flight as may be."""
        for number in range(LIMIT):
            self.send(protobuf_body(str(number)))

    def test_unanswered_requests(self) -> None:
        """Past the limit of unanswered requests nothing is read until one is answered."""
        self.fill()
        self.assertFalse(self.wire.reading)
        self.collector.deliver(0)
        self.turn()
        self.assertFalse(self.wire.reading, "read before the answer was written")
        self.read()
        self.assertTrue(self.wire.reading)

    def test_answers_that_are_not_read(self) -> None:
        """Answers that the client does not read count as unanswered requests do."""
        self.make(ack=0)
        self.fill()
        self.assertFalse(self.wire.reading)
        self.assertEqual(len(self.read_all()), LIMIT)
        self.assertTrue(self.wire.reading)

    def test_bad_messages_that_are_not_read(self) -> None:
        """So do answers to what is no request."""
        for _ in range(LIMIT):
            self.send(b"\xff")
        self.assertFalse(self.wire.reading)

    def test_large_message(self) -> None:
        """Behind a large message nothing is read until the collector has it."""
        self.give(LARGE)
        self.assertFalse(self.wire.reading)
        self.turn()
        self.assertTrue(self.wire.reading)

    def test_large_message_that_is_bad(self) -> None:
        """Nor is a stream left standing behind one that is no request."""
        self.send(b"\xff" * 70_000)
        self.assertEqual(self.read()["code"], BAD_REQUEST)
        self.assertTrue(self.wire.reading)


class EndTests(StreamTestCase):
    """The client sends no more, goes away, or the server stops."""

    def test_half_close(self) -> None:
        """A client that sends no more gets what is due, and then OK."""
        for guid in "ab":
            self.send(protobuf_body(guid))
        self.give(None)
        self.collector.deliver(1)
        self.turn()
        self.read()
        self.assertIsNone(self.wire.status)
        self.collector.lose(0)
        self.turn()
        self.assertEqual(self.read()["data"], {"req_guid": "a"})
        self.assertEqual(self.wire.status, (grpc.StatusCode.OK, ""))
        self.assertFalse(self.wire.reading)

    def test_half_close_at_once(self) -> None:
        """A client that sends nothing gets OK."""
        self.give(None)
        self.assertEqual(self.wire.status, (grpc.StatusCode.OK, ""))

    def test_stop_with_nothing_in_flight(self) -> None:
        """A server that stops ends a silent stream at once."""
        self.servicer.stop()
        self.assertEqual(self.wire.status, STOPPING)

    def test_stop_with_requests_in_flight(self) -> None:
        """What is in flight is answered first, and nothing more is taken."""
        self.send(protobuf_body("a"))
        self.servicer.stop()
        self.assertIsNone(self.wire.status)
        self.send(protobuf_body("too late"))
        self.assertFalse(self.wire.reading)
        self.assertEqual(self.collector.guids, ["a"])
        self.collector.deliver()
        self.turn()
        self.assertEqual(self.read()["data"], {"req_guid": "a"})
        self.assertEqual(self.wire.status, STOPPING)

    def test_stop_after_half_close(self) -> None:
        """A client that had ended by itself gets OK all the same."""
        self.send(protobuf_body("a"))
        self.give(None)
        self.servicer.stop()
        self.collector.deliver()
        self.turn()
        self.read()
        self.assertEqual(self.wire.status, (grpc.StatusCode.OK, ""))

    def test_stream_that_comes_while_stopping(self) -> None:
        """A stream that comes too late ends likewise."""
        self.servicer.stop()
        wire, _ = self.open()
        self.assertEqual(wire.status, STOPPING)
        self.assertFalse(wire.reading)

    def test_client_is_gone(self) -> None:
        """Outcomes for a client that is gone go nowhere, in silence; its stream is forgotten."""
        for guid in "abc":
            self.send(protobuf_body(guid))
        self.collector.deliver(0)
        self.turn()
        self.collector.deliver(1)
        self.stream.lost()
        self.collector.lose(2)
        self.turn()
        self.stream.written()  # what was being written has failed
        self.stream.received(None)
        self.turn()
        self.assertIsNone(self.wire.status)
        self.assertEqual(self.servicer.streams, set())
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_client_is_gone_before_its_request_is_collected(self) -> None:
        """A request that was read is delivered whether or not its client is there."""
        self.give(protobuf_body("a"))
        self.stream.lost()
        self.turn()
        self.assertEqual(self.collector.guids, ["a"])
        self.collector.deliver()
        self.turn()
        self.assertIsNone(self.wire.writing)

    def test_stop_while_a_request_is_decoded(self) -> None:
        """The inbox is not empty from when a request is read until it is collected."""
        self.check_stop_while_decoded(self.give)


class FaultTests(StreamTestCase):
    """Faults of ours."""

    def test_answer_that_cannot_be_written(self) -> None:
        """A stream whose answer cannot be written ends, and does not leave its client waiting."""

        def broken(body: bytes, more: bool) -> None:
            raise ValueError("boom")

        self.send(protobuf_body("a"))
        self.patch(self.wire, "write", broken)
        self.collector.deliver()
        self.turn()
        self.assertEqual((grpc.StatusCode.INTERNAL, "internal error"), self.wire.status)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
