"""EventService on fake calls: what each of them is answered."""

from __future__ import annotations

from typing import Any

import grpc

from raccoon.deserialization import ProtobufDeserializer
from raccoon.intake import Codec
from raccoon.messages import Identifier
from raccoon.serialization import ProtobufSerializer
from raccoon.service.grpc.inbox import Inbox
from raccoon.service.grpc.servicer import EventServicer
from tests.edges.bodies import NOW, protobuf_body, read_protobuf
from tests.edges.collector import FakeCollector
from tests.edges.edge import make_context
from tests.fakes import FakeMetrics, ThreadlessClock, make_settings
from tests.service.grpc.case import GrpcCase

SUCCESS, ERROR = 1, 2
OK, BAD_REQUEST, INTERNAL_ERROR = 1, 2, 3
METADATA = (("x-user-id", "phone"), ("user-agent", "grpc-test"))


class FakeAnswer:
    """Keeps what a call was answered, and refuses a second answer."""

    def __init__(self) -> None:
        self.body: bytes | None = None
        self.error: tuple[grpc.StatusCode, str] | None = None

    def send(self, body: bytes) -> None:
        assert not self.ended, "answered twice"
        self.body = body

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        assert not self.ended, "answered twice"
        self.error = (code, details)

    @property
    def ended(self) -> bool:
        return self.body is not None or self.error is not None

    def response(self) -> dict[str, Any]:
        """The response that was sent."""
        assert self.body is not None, self.error
        return read_protobuf(self.body)


class ServicerTestCase(GrpcCase):
    """A servicer on a fake collector and a clock."""

    def make(self, ack: int = 1, **sections: Any) -> None:
        """Make the servicer, with some options changed."""
        settings = make_settings(**sections)
        self.clock = ThreadlessClock()
        self.clock.advance(NOW)
        self.collector = FakeCollector(ack)
        self.metrics = FakeMetrics()
        context = make_context(settings, self.clock, self.collector, self.metrics)
        self.supervisor = context.supervisor
        self.inbox = Inbox(self.clock, context.supervisor)
        self.codec = Codec(
            ProtobufDeserializer(settings.limits, settings.event), ProtobufSerializer()
        )
        self.servicer = EventServicer(
            self.inbox,
            context.intake("gRPC", requires_id=True),
            self.codec,
            context.identification,
        )

    def setUp(self) -> None:
        self.make()

    def call(self, body: bytes, metadata: Any = METADATA) -> FakeAnswer:
        """One call, as gRPC's thread makes it; the reactor has not yet turned."""
        answer = FakeAnswer()
        self.servicer.send_event(body, metadata, answer)
        return answer

    def turn(self) -> None:
        """The reactor turns, and a little time passes."""
        self.clock.advance(0.01)


class AnswerTests(ServicerTestCase):
    """Outcomes and what the client reads."""

    def test_stored(self) -> None:
        """A call is answered SUCCESS once the destination has confirmed its request."""
        answer = self.call(protobuf_body("a"))
        self.turn()
        self.assertFalse(answer.ended)
        self.collector.deliver()
        self.assertEqual(
            answer.response(),
            {"status": SUCCESS, "code": OK, "sent_time": int(NOW), "data": {"req_guid": "a"}},
        )

    def test_level_0(self) -> None:
        """At level 0 the answer does not wait for the destination."""
        self.make(ack=0)
        answer = self.call(protobuf_body("a"))
        self.turn()
        self.assertEqual(answer.response()["code"], OK)

    def test_publishing_failed(self) -> None:
        """A lost request is a response with the code INTERNAL_ERROR, and no gRPC error."""
        answer = self.call(protobuf_body("a", [("click", b"1"), ("click", b"2")]))
        self.turn()
        self.collector.lose(why="no leader")
        self.assertIsNone(answer.error)
        self.assertEqual(
            answer.response(),
            {
                "status": ERROR,
                "code": INTERNAL_ERROR,
                "sent_time": int(NOW),
                "reason": "cannot publish events: 2 of 2 events failed: no leader",
                "data": {"req_guid": "a"},
            },
        )

    def test_undeliverable(self) -> None:
        """What no attempt can deliver is a bad request that is not to be sent again."""
        answer = self.call(protobuf_body("a"))
        self.turn()
        self.collector.reject(why="topic t does not exist")
        reason = "cannot publish events, do not retry: 1 of 1 events failed: topic t does not exist"
        self.assertEqual(answer.response()["code"], BAD_REQUEST)
        self.assertEqual(answer.response()["reason"], reason)

    def test_overloaded(self) -> None:
        """A refused request is a response that asks to retry, and no gRPC error."""
        self.collector.overloaded = True
        answer = self.call(protobuf_body("a"))
        self.turn()
        self.assertIsNone(answer.error)
        self.assertEqual(
            answer.response(),
            {
                "status": ERROR,
                "code": INTERNAL_ERROR,
                "sent_time": int(NOW),
                "reason": "overloaded, retry",
                "data": {"req_guid": "a"},
            },
        )

    def check_unidentified(self, answer: FakeAnswer) -> None:
        """The call has ended by INVALID_ARGUMENT, in the words that clients know."""
        self.assertEqual(
            answer.error, (grpc.StatusCode.INVALID_ARGUMENT, "connection id header missing")
        )
        self.check_not_collected("NA")

    def check_refused(self, answer: FakeAnswer, *words: str, group: str = "--default--") -> None:
        """The call has ended by a response that says why, and nothing is kept of it."""
        self.assertIsNone(answer.error)
        response = answer.response()
        self.assertEqual((response["status"], response["code"]), (ERROR, BAD_REQUEST))
        for word in ("cannot deserialize request: ", *words):
            self.assertIn(word, response["reason"])
        self.check_not_collected(group)

    def check_not_collected(self, group: str) -> None:
        """It was counted as one that could not be read."""
        self.assertEqual(self.metrics.total("batches_read_total", ("failed", "serde", group)), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_id(self) -> None:
        """A call without an id is refused in the words that clients know."""
        self.check_unidentified(self.call(protobuf_body(), (("user-agent", "x"),)))

    def test_no_metadata(self) -> None:
        """A call without any metadata is refused likewise."""
        self.check_unidentified(self.call(protobuf_body(), ()))

    def test_body_that_is_not_protobuf(self) -> None:
        """What is no SendEventRequest is refused."""
        self.check_refused(self.call(b"\x0a\xff\xff"), "SendEventRequest")

    def test_too_many_events(self) -> None:
        """More events than LIMIT_EVENTS are refused by name."""
        self.make(limits={"events": 1})
        self.check_refused(self.call(protobuf_body("a", [("t", b"")] * 2)), "LIMIT_EVENTS")

    def test_id_over_the_limit(self) -> None:
        """An id longer than LIMIT_ID_LENGTH is refused by name."""
        answer = self.call(protobuf_body(), (("x-user-id", "x" * 257),))
        self.check_refused(answer, "LIMIT_ID_LENGTH", group="NA")

    def test_answers_in_any_order(self) -> None:
        """Each call gets the outcome of its own request."""
        answers = [self.call(protobuf_body(guid)) for guid in "abc"]
        self.turn()
        self.collector.deliver(2)
        self.collector.lose(0)
        self.collector.deliver(1)
        responses = [answer.response() for answer in answers]
        self.assertEqual([r["data"]["req_guid"] for r in responses], ["a", "b", "c"])
        self.assertEqual([r["code"] for r in responses], [INTERNAL_ERROR, OK, OK])


class RequestTests(ServicerTestCase):
    """What reaches the collector."""

    def test_whole(self) -> None:
        """Guid, times, types, bytes and the client's identity arrive as they were sent."""
        self.make(websocket={"conn_group_header": "X-Group"})
        self.call(
            protobuf_body("g", [("click", b"\x00\xff"), ("view", b"")]),
            (*METADATA, ("x-group", "beta")),
        )
        self.turn()
        (request,) = self.collector.requests
        self.assertEqual(request.identifier, Identifier("phone", "beta"))
        self.assertEqual((request.guid, request.sent_time), ("g", NOW))
        self.assertEqual(request.received_at, NOW)
        self.assertEqual(request.types, ["click", "view"])
        self.assertEqual(request.payloads, [b"\x00\xff", b""])

    def test_default_group(self) -> None:
        """A call without a group is in the default one."""
        self.call(protobuf_body())
        self.turn()
        self.assertEqual(self.collector.requests[0].identifier, Identifier("phone", "--default--"))

    def test_header_names_are_lower_cased(self) -> None:
        """The metadata keys are the configured headers in lower case."""
        self.make(websocket={"conn_id_header": "X-Device-ID"})
        self.call(protobuf_body(), (("x-device-id", "tv"),))
        self.turn()
        self.assertEqual(self.collector.requests[0].identifier.id, "tv")

    def test_first_of_several_values(self) -> None:
        """Of a key that comes twice the first value holds."""
        self.call(protobuf_body(), (("x-user-id", "first"), ("x-user-id", "second")))
        self.turn()
        self.assertEqual(self.collector.requests[0].identifier.id, "first")

    def test_counted(self) -> None:
        """A request counts once, its events and their bytes by group and type."""
        self.call(protobuf_body("a", [("click", b"123"), ("click", b"45")]))
        self.assertEqual(self.metrics.counts, [], "counted before it is collected")
        self.turn()
        group = "--default--"
        self.assertEqual(self.metrics.total("batches_read_total", ("success", "NA", group)), 1)
        self.assertEqual(self.metrics.total("events_rx_total", (group, "click")), 2)
        self.assertEqual(self.metrics.total("events_rx_bytes_total", (group, "click")), 5)


class ThreadTests(ServicerTestCase):
    """What runs where."""

    def test_collector_is_touched_by_the_reactor_only(self) -> None:
        """A call is not collected in its own thread."""
        self.call(protobuf_body("a"))
        self.assertEqual(self.collector.requests, [])
        self.turn()
        self.assertEqual(self.collector.guids, ["a"])

    def test_stop_while_a_request_is_decoded(self) -> None:
        """The inbox is not empty from when a request is read until it is collected."""
        self.check_stop_while_decoded(self.call)
