"""Tests of raccoon.deserialization."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from typing import Any

import orjson
from google.protobuf.timestamp_pb2 import Timestamp
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from raccoon import deserialization
from raccoon.config import EventSettings, LimitSettings
from raccoon.deserialization import JsonDeserializer, ProtobufDeserializer
from raccoon.errors import BadRequestError, DeserializationError, LimitError
from raccoon.interfaces import IDeserializer
from raccoon.messages import Batch
from raccoon.proto.raccoon_pb2 import Event, SendEventRequest

EMPTY = Batch("", None, [], [])


def cpu_seconds(call: Callable[[], object]) -> float:
    """What a call costs: the best of three, in seconds of CPU."""

    def once() -> float:
        began = time.process_time()
        call()
        return time.process_time() - began

    return min(once() for _ in range(3))


class JsonTestCase(SynchronousTestCase):
    """Decodes JSON with limits that are easy to reach."""

    limits = LimitSettings(events=4, guid_length=8, json_depth=6)

    def setUp(self) -> None:
        self.deserializer = JsonDeserializer(self.limits, EventSettings())

    def decode(self, document: Any) -> Batch:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        return self.deserializer.deserialize(body)

    def reason(self, document: Any, kind: type[BadRequestError] = DeserializationError) -> str:
        with self.assertRaises(kind) as caught:
            self.decode(document)
        return str(caught.exception)


class JsonFormTests(JsonTestCase):
    """What is a request in JSON."""

    def test_interface(self) -> None:
        """It is an IDeserializer."""
        verifyObject(IDeserializer, self.deserializer)

    def test_whole_request(self) -> None:
        """Every field of the form that Go writes is read, in base64."""
        batch = self.decode(
            {
                "req_guid": "a",
                "sent_time": {"seconds": 1795494197, "nanos": 23000000},
                "events": [
                    {"event_bytes": "eyJhIjoxfQ==", "type": "click"},
                    {"event_bytes": "AP8=", "type": "page"},
                ],
            }
        )
        self.assertEqual(
            Batch("a", 1795494197.023, ["click", "page"], [b'{"a":1}', b"\x00\xff"]), batch
        )

    def test_array_of_byte_values(self) -> None:
        """event_bytes may be an array of byte values."""
        batch = self.decode({"events": [{"event_bytes": [123, 34, 0, 255]}, {"event_bytes": []}]})
        self.assertEqual([b'{"\x00\xff', b""], batch.payloads)

    def test_letter_case_of_keys(self) -> None:
        """Keys match whatever their letter case."""
        batch = self.decode(
            {
                "REQ_GUID": "a",
                "Sent_Time": {"Seconds": 1, "NANOS": 500000000},
                "eVents": [{"Event_Bytes": "YQ==", "TYPE": "t"}],
            }
        )
        self.assertEqual(Batch("a", 1.5, ["t"], [b"a"]), batch)

    def test_canonical_form(self) -> None:
        """Keys in camelCase and a time in RFC 3339, as protobuf's JSON has them, are read."""
        batch = self.decode(
            {
                "reqGuid": "a",
                "sentTime": "2026-11-24T07:03:17.250Z",
                "events": [{"eventBytes": "YQ==", "type": "t"}],
            }
        )
        self.assertEqual(Batch("a", 1795503797.25, ["t"], [b"a"]), batch)

    def test_times_in_text(self) -> None:
        """An RFC 3339 time may have an offset and nanoseconds."""
        for text, seconds in (
            ("1970-01-01T00:00:00Z", 0.0),
            ("1970-01-01T02:00:01+02:00", 1.0),
            ("1970-01-01T00:00:00.123456789Z", 0.123456),
        ):
            self.assertEqual(seconds, self.decode({"sent_time": text}).sent_time, text)

    def test_one_key_twice(self) -> None:
        """Of two keys that match the same field the later one holds."""
        self.assertEqual("b", self.decode(b'{"req_guid":"a","REQ_GUID":"b"}').guid)

    def test_unknown_keys(self) -> None:
        """Unknown keys are ignored at every level."""
        batch = self.decode(
            {
                "req_guid": "a",
                "extra": {"b": [1, {}]},
                "seconds": 5,
                "sent_time": {"seconds": 1, "zone": "x"},
                "events": [{"type": "t", "req_guid": 7, "nested": [[]]}],
            }
        )
        self.assertEqual(Batch("a", 1.0, ["t"], [b""]), batch)

    def test_dots_in_unknown_keys(self) -> None:
        """An unknown key is ignored however many dots its name has."""
        self.assertEqual(EMPTY, self.decode({"a.b.c.d.e.f.g.h.i.j": {}}))

    def test_null(self) -> None:
        """null is the zero value wherever it stands."""
        self.assertEqual(EMPTY, self.decode(b"null"))
        self.assertEqual(EMPTY, self.decode(dict.fromkeys(("req_guid", "sent_time", "events"))))
        batch = self.decode({"events": [None, {"event_bytes": None, "type": None}]})
        self.assertEqual((["", ""], [b"", b""]), (batch.types, batch.payloads))
        self.assertEqual(1.0, self.decode({"sent_time": {"seconds": 1, "nanos": None}}).sent_time)

    def test_empty_object(self) -> None:
        """Every field is optional."""
        self.assertEqual(EMPTY, self.decode({}))
        self.assertEqual(0.0, self.decode({"sent_time": {}}).sent_time)
        self.assertEqual([b""], self.decode({"events": [{}]}).payloads)

    def test_text_input(self) -> None:
        """A WebSocket text message may be given as it came, as text."""
        self.assertEqual("é", self.deserializer.deserialize('{"req_guid":"é"}').guid)

    def test_line_breaks_in_base64(self) -> None:
        """Line breaks in base64 are passed over, as Go's decoder does."""
        self.assertEqual(
            [b"abc"], self.decode({"events": [{"event_bytes": "YW\r\nJj\n"}]}).payloads
        )


class JsonRefusalTests(JsonTestCase):
    """What is no request in JSON."""

    def test_not_json(self) -> None:
        """What does not parse, trailing data and an empty body are refused as no JSON."""
        for body in (b"", b" ", b"{", b"{} {}", b"{}x", b'{"req_guid":"\xff"}', b"NaN", b"\x00"):
            self.assertTrue(self.reason(body).startswith("not JSON: "), body)

    def test_wrong_types(self) -> None:
        """A value of the wrong type is refused by the name of its field."""
        for document, field in (
            ([], "request"),
            ("text", "request"),
            (7, "request"),
            ({"req_guid": 7}, "req_guid"),
            ({"req_guid": True}, "req_guid"),
            ({"sent_time": 7}, "sent_time"),
            ({"sent_time": [1]}, "sent_time"),
            ({"sent_time": "yesterday"}, "sent_time"),
            ({"sent_time": ""}, "sent_time"),
            ({"sent_time": {"seconds": "1"}}, "sent_time.seconds"),
            ({"sent_time": {"seconds": 1.5}}, "sent_time.seconds"),
            ({"sent_time": {"seconds": True}}, "sent_time.seconds"),
            ({"sent_time": {"seconds": 1 << 63}}, "sent_time.seconds"),
            ({"sent_time": {"nanos": 1 << 31}}, "sent_time.nanos"),
            ({"events": {}}, "events"),
            ({"events": "x"}, "events"),
            ({"events": [{}, 7]}, "events[1]"),
            ({"events": [{"type": 7}]}, "events[0].type"),
            ({"events": [{}, {"event_bytes": 7}]}, "events[1].event_bytes"),
            ({"events": [{"event_bytes": {}}]}, "events[0].event_bytes"),
            ({"events": [{"event_bytes": [1, 256]}]}, "events[0].event_bytes[1]"),
            ({"events": [{"event_bytes": [-1]}]}, "events[0].event_bytes[0]"),
            ({"events": [{"event_bytes": [1, 2.0]}]}, "events[0].event_bytes[1]"),
            ({"events": [{"event_bytes": [True]}]}, "events[0].event_bytes[0]"),
            ({"events": [{"event_bytes": [1, None]}]}, "events[0].event_bytes[1]"),
            ({"events": [{"event_bytes": [1 << 70]}]}, "events[0].event_bytes[0]"),
        ):
            self.assertTrue(self.reason(document).startswith(f"{field}: expected "), document)

    def test_times_that_are_not_rfc_3339(self) -> None:
        """A date without a time of day, or another notation, is refused by its field's name."""
        for text in ("2026-11-24", "2026-W48-2", "20261124T070317Z"):
            self.assertTrue(self.reason({"sent_time": text}).startswith("sent_time: "), text)

    def test_bad_base64(self) -> None:
        """Text that is not standard, padded base64 is refused by its event's index."""
        for text in (
            "a",
            "YQ",
            "YQ=",
            "Y*==",
            "YQ==YQ==",
            "-_-_",
            "é",
            "Y Q=",
            "=",
            "====",
            "YWJj=",
            "YWJj====",
        ):
            reason = self.reason({"events": [{}, {"event_bytes": text}]})
            self.assertTrue(reason.startswith("events[1].event_bytes: not standard base64"), text)

    def test_reasons_are_short_and_printable(self) -> None:
        """A reason quotes what it names, escaped and cut."""
        for value in ("\n" * 1000, ["x" * 5000], {"k" * 5000: "\x1b[2J"}):
            reason = self.reason({"events": [{"event_bytes": [value]}]})
            self.assertTrue(reason.isprintable())
            self.assertLess(len(reason), 200)

    def test_nesting_without_end(self) -> None:
        """Nesting that no parser follows is a bad request wherever it stands."""
        for depth in (500, 990, 1015, 100_000):
            deep = b"[" * depth + b"]" * depth
            for body in (
                deep,
                b'{"x":' + deep + b"}",
                b'{"req_guid":' + deep + b"}",
                b'{"sent_time":{"seconds":' + deep + b"}}",
                b'{"events":[' + deep + b"]}",
                b'{"events":[{"event_bytes":' + deep + b"}]}",
            ):
                with self.assertRaises(BadRequestError):
                    self.decode(body)

    def test_refusal_is_cheap(self) -> None:
        """To refuse a large value of the wrong type takes little longer than to parse it."""
        body = b'{"req_guid":[' + b"1," * 1_000_000 + b"1]}"
        parsing = cpu_seconds(lambda: orjson.loads(body))
        refusing = cpu_seconds(lambda: self.reason(body))
        self.assertLess(refusing, 4 * parsing)


class JsonLimitTests(JsonTestCase):
    """The limits that hold for JSON."""

    def test_events(self) -> None:
        """As many events as the limit allows are taken, one more is refused by its name."""
        self.assertEqual(4, len(self.decode({"events": [{}] * 4}).types))
        self.assertEqual(
            "5 events; at most 4 are allowed in a request (LIMIT_EVENTS)",
            self.reason({"events": [{}] * 5}, LimitError),
        )

    def test_guid_length(self) -> None:
        """A guid of the limit's length is taken, a longer one is refused."""
        self.assertEqual("é" * 8, self.decode({"req_guid": "é" * 8}).guid)
        self.assertEqual(
            "req_guid has 9 characters; at most 8 are allowed (LIMIT_GUID_LENGTH)",
            self.reason({"req_guid": "a" * 9}, LimitError),
        )

    def test_depth(self) -> None:
        """JSON as deep as the limit allows is taken, one level more is refused."""
        self.assertEqual(EMPTY, self.decode(b'{"x":[[[[[]]]]]}'))
        self.assertEqual(["t"], self.decode(b'{"events":[{"type":"t","x":[[{}]]}]}').types)
        for body in (b'{"x":[[[[[[]]]]]]}', b'{"events":[{"x":[[[{}]]]}]}'):
            self.assertIn("(LIMIT_JSON_DEPTH)", self.reason(body, LimitError))

    def test_event_type(self) -> None:
        """A type that could not be routed is refused by its event's index and the option."""
        for event_type in ("a b", "a/b", "x" * 121, "a\n", "é"):
            reason = self.reason({"events": [{"type": "t"}, {"type": event_type}]}, LimitError)
            self.assertTrue(reason.startswith("events[1].type "), reason)
            self.assertIn("(EVENT_TYPE_PATTERN)", reason)

    def test_event_type_that_does_not_route(self) -> None:
        """Where the routing pattern does not use the type, any type is taken."""
        event = EventSettings(distribution_publisher_pattern="all")
        deserializer = JsonDeserializer(self.limits, event)
        self.assertEqual(["a b"], deserializer.deserialize(b'{"events":[{"type":"a b"}]}').types)

    def test_event_types_without_end(self) -> None:
        """The pattern still holds after any number of distinct types."""
        for number in range(5000):
            self.decode({"events": [{"type": f"t{number}"}]})
        self.assertIn("events[0].type", self.reason({"events": [{"type": "!"}]}, LimitError))


class ProtobufTests(SynchronousTestCase):
    """Protobuf requests."""

    def setUp(self) -> None:
        self.deserializer = ProtobufDeserializer(
            LimitSettings(events=4, guid_length=8), EventSettings()
        )

    def reason(self, body: bytes, kind: type[BadRequestError] = DeserializationError) -> str:
        with self.assertRaises(kind) as caught:
            self.deserializer.deserialize(body)
        return str(caught.exception)

    def test_interface(self) -> None:
        """It is an IDeserializer."""
        verifyObject(IDeserializer, self.deserializer)

    def test_whole_request(self) -> None:
        """Every field is read."""
        request = SendEventRequest(
            req_guid="a",
            sent_time=Timestamp(seconds=1795494197, nanos=23000000),
            events=[Event(event_bytes=b"\x00\xff", type="click"), Event(type="page")],
        )
        self.assertEqual(
            Batch("a", 1795494197.023, ["click", "page"], [b"\x00\xff", b""]),
            self.deserializer.deserialize(request.SerializeToString()),
        )

    def test_field_numbers(self) -> None:
        """The bytes of the protocol's field numbers are understood."""
        body = b"\x0a\x01a\x12\x02\x08\x05\x1a\x06\x0a\x01b\x12\x01t"
        self.assertEqual(Batch("a", 5.0, ["t"], [b"b"]), self.deserializer.deserialize(body))

    def test_empty_body(self) -> None:
        """An empty body is a valid empty request."""
        self.assertEqual(EMPTY, self.deserializer.deserialize(b""))

    def test_unknown_fields(self) -> None:
        """Unknown fields are passed over."""
        body = b"\x20\x05" + b"\x0a\x01a" + b"\xfa\x01\x03xyz"
        self.assertEqual(Batch("a", None, [], []), self.deserializer.deserialize(body))

    def test_not_protobuf(self) -> None:
        """Bytes that are no such message are refused."""
        for body in (b"\xff", b"\x1a", b"\x1a\x05a", b"\x0a\x01\xff", b"{}", b"\x07", b"\x1c"):
            self.assertTrue(self.reason(body).startswith("not a protobuf SendEventRequest: "), body)

    def test_nested_without_end(self) -> None:
        """Groups nested without end are a bad request."""
        self.reason(b"\x23" * 100_000)

    def test_events_limit(self) -> None:
        """As many events as the limit allows are taken, more are refused by its name."""
        self.assertEqual(4, len(self.deserializer.deserialize(b"\x1a\x00" * 4).types))
        allowed = "events; at most 4 are allowed in a request (LIMIT_EVENTS)"
        self.assertEqual(f"5 {allowed}", self.reason(b"\x1a\x00" * 5, LimitError))
        self.assertEqual(f"more than 4 {allowed}", self.reason(b"\x1a\x00" * 40_000, LimitError))

    def test_events_limit_however_they_are_encoded(self) -> None:
        """An unusual encoding of the tag, or other fields between, does not pass the limit."""
        for body in (
            b"\x9a\x00\x00" * 5,
            b"\x1a\x00\x20\x1a\x29abcdefgh\x35abcd\x0a\x01a" * 5,
            b"\x1a\x00\x9a\x00\x00" * 3,
        ):
            self.assertIn("(LIMIT_EVENTS)", self.reason(body, LimitError))
            self.assertIn("more than 4 events", self.reason(body * 20_000, LimitError))

    def test_bytes_that_look_like_events(self) -> None:
        """Payloads full of the byte that marks an event do not count as events."""
        for payload in (b"\x1a" * 100, b"\x1a" * 100_000):
            body = SendEventRequest(events=[Event(event_bytes=payload)]).SerializeToString()
            self.assertEqual([payload], self.deserializer.deserialize(body).payloads)

    def test_counting_events_is_cheap(self) -> None:
        """A body of 4 MB of unknown fields does not hold the reactor for long."""
        body = b"\x20\x1a" * 2_000_000

        def decode() -> None:
            with contextlib.suppress(BadRequestError):
                self.deserializer.deserialize(body)

        self.assertLess(cpu_seconds(decode), 0.3)

    def test_guid_length(self) -> None:
        """A longer guid than the limit allows is refused."""
        self.assertIn("(LIMIT_GUID_LENGTH)", self.reason(b"\x0a\x09" + b"a" * 9, LimitError))

    def test_event_type(self) -> None:
        """A type that could not be routed is refused by its event's index."""
        body = SendEventRequest(events=[Event(type="a"), Event(type="a b")]).SerializeToString()
        self.assertTrue(self.reason(body, LimitError).startswith("events[1].type 'a b'"))


class CostTests(SynchronousTestCase):
    """A large body of JSON costs no more than its events can."""

    LIMITS = LimitSettings(events=100)
    MOST = 8 * 100 + 10_000

    def decode(self, body: bytes) -> Batch:
        return JsonDeserializer(self.LIMITS, EventSettings()).deserialize(body)

    def test_refused_unparsed(self) -> None:
        """Values by the hundred thousand are refused before they are parsed, whatever they are."""
        self.patch(deserialization, "orjson", None)
        many = self.MOST * 3
        for body in (
            b'{"x":[' + b",".join([b"[]"] * many) + b"]}",
            b'{"x":[' + b",".join([b"{}"] * many) + b"]}",
            b'{"x":[' + b",".join([b'""'] * many) + b"]}",
            b'{"x":[' + b",".join([b'"\\\\"'] * many) + b"]}",
            b"{" + b",".join(b'"%d":1' % n for n in range(many)) + b"}",
            b'{"events":[' + b",".join([b"[[],[]]"] * many) + b"]}",
            b"[" * many * 7,
        ):
            error = self.assertRaises(LimitError, self.decode, body)
            self.assertIn("LIMIT_EVENTS", str(error))
            self.assertIn(f"at most {self.MOST}", str(error))

    def test_taken(self) -> None:
        """As many values as the events may have, any text and bytes as numbers are taken."""
        event = b'{"type":"a","event_bytes":"QQ==","more":{"x":[1,"2"]}}'
        self.assertEqual(100, len(self.decode(self.body(event, 100, b"1" + b" " * 70_000)).types))
        embedded = b'"' + b'{\\"a\\":[[]]}' * 30_000 + b'"'
        self.assertEqual(1, len(self.decode(self.body(event, 1, embedded)).types))
        numbers = b'{"event_bytes":[' + b",".join([b"200"] * 50_000) + b"]}"
        self.assertEqual([b"\xc8" * 50_000], self.decode(self.body(numbers, 1, b"1")).payloads)

    def body(self, event: bytes, count: int, more: bytes) -> bytes:
        """A body of the same event so many times, and one more field."""
        return b'{"events":[%b],"more":%b}' % (b",".join([event] * count), more)
