"""Properties of the codecs that hold for any input."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from google.protobuf.json_format import MessageToJson
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from raccoon.config import EventSettings, LimitSettings
from raccoon.deserialization import JsonDeserializer, ProtobufDeserializer
from raccoon.errors import BadRequestError
from raccoon.interfaces import IDeserializer
from raccoon.messages import Batch, Response
from raccoon.proto.raccoon_pb2 import Event, SendEventRequest, SendEventResponse
from raccoon.serialization import JsonSerializer, ProtobufSerializer

KEYS = ["req_guid", "sentTime", "sent_time", "EVENTS", "events", "event_bytes", "type"]
KEYS += ["seconds", "nanos", "x"]

json_deserializer = JsonDeserializer(LimitSettings(), EventSettings())
protobuf_deserializer = ProtobufDeserializer(LimitSettings(), EventSettings())

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
guids = texts
event_types = st.from_regex(r"[A-Za-z0-9._-]{0,12}", fullmatch=True)
timestamps = st.builds(
    Timestamp,
    seconds=st.integers(-62_135_596_800, 253_402_300_799),
    nanos=st.integers(0, 999_999_999),
)
requests = st.builds(
    SendEventRequest,
    req_guid=guids,
    sent_time=st.none() | timestamps,
    events=st.lists(st.builds(Event, event_bytes=st.binary(max_size=64), type=event_types)),
)
responses = st.builds(
    Response,
    status=st.integers(1, 2),
    code=st.integers(1, 5),
    sent_time=st.integers(1, 1 << 40),
    reason=texts,
    guid=st.none() | guids,
)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.sampled_from(["YQ==", "YQ", "2026-11-24T07:03:17Z", "0001-01-01T00:00:00+23:59"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def go_json(request: SendEventRequest) -> bytes:
    """A request as Go's encoding/json writes the generated struct: zero values left out."""
    document: dict[str, Any] = {}
    if request.req_guid:
        document["req_guid"] = request.req_guid
    if request.HasField("sent_time"):
        document["sent_time"] = {
            name: value
            for name, value in (
                ("seconds", request.sent_time.seconds),
                ("nanos", request.sent_time.nanos),
            )
            if value
        }
    if request.events:
        document["events"] = [_go_event(event) for event in request.events]
    return json.dumps(document).encode()


def _go_event(event: Event) -> dict[str, str]:
    document = {}
    if event.event_bytes:
        document["event_bytes"] = base64.b64encode(event.event_bytes).decode()
    if event.type:
        document["type"] = event.type
    return document


def outcome(deserializer: IDeserializer, body: bytes) -> Batch | BadRequestError:
    """What a decoder makes of bytes: a Batch, or the BadRequestError it raised."""
    try:
        batch: Batch = deserializer.deserialize(body)
    except BadRequestError as error:
        return error
    return batch


class AnyBytesTests(SynchronousTestCase):
    """No bytes do more than be refused."""

    def check(self, found: Batch | BadRequestError) -> None:
        if isinstance(found, BadRequestError):
            self.assertTrue(str(found))
            return
        self.assertIsInstance(found.guid, str)
        self.assertTrue(found.sent_time is None or isinstance(found.sent_time, float))
        self.assertEqual(len(found.types), len(found.payloads))
        self.assertEqual({str}, {str, *map(type, found.types)})
        self.assertEqual({bytes}, {bytes, *map(type, found.payloads)})

    @given(st.binary(max_size=200))
    def test_protobuf(self, body: bytes) -> None:
        """Any bytes are a batch or a bad request to the protobuf decoder."""
        self.check(outcome(protobuf_deserializer, body))

    @given(requests, st.data())
    def test_damaged_protobuf(self, request: SendEventRequest, data: st.DataObject) -> None:
        """A request with one byte changed is a batch or a bad request."""
        body = bytearray(request.SerializeToString() or b"\x1a")
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        self.check(outcome(protobuf_deserializer, bytes(body)))

    @given(st.binary(max_size=200))
    def test_json(self, body: bytes) -> None:
        """Any bytes are a batch or a bad request to the JSON decoder."""
        self.check(outcome(json_deserializer, body))

    @given(json_values)
    def test_any_json(self, document: Any) -> None:
        """Any JSON is a batch or a bad request."""
        self.check(outcome(json_deserializer, json.dumps(document).encode()))

    @given(json_values, json_values, json_values)
    def test_any_fields(self, guid: Any, sent_time: Any, events: Any) -> None:
        """Any JSON in the places of the fields is a batch or a bad request."""
        document = {"req_guid": guid, "sent_time": sent_time, "events": [{"event_bytes": events}]}
        for key, value in document.items():
            self.check(outcome(json_deserializer, json.dumps({key: value}).encode()))

    @given(requests, st.data())
    def test_damaged_json(self, request: SendEventRequest, data: st.DataObject) -> None:
        """A JSON request with one byte changed is a batch or a bad request."""
        body = bytearray(go_json(request))
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        self.check(outcome(json_deserializer, bytes(body)))


class SameRequestTests(SynchronousTestCase):
    """Both encodings of a request mean the same."""

    @given(requests)
    def test_protobuf_and_go_json(self, request: SendEventRequest) -> None:
        """A request is read alike from protobuf and from the JSON that Go's encoder writes."""
        expected = Batch(
            request.req_guid,
            request.sent_time.seconds + request.sent_time.nanos / 1e9
            if request.HasField("sent_time")
            else None,
            [event.type for event in request.events],
            [event.event_bytes for event in request.events],
        )
        self.assertEqual(expected, protobuf_deserializer.deserialize(request.SerializeToString()))
        self.assertEqual(expected, json_deserializer.deserialize(go_json(request)))

    @given(requests)
    def test_canonical_json(self, request: SendEventRequest) -> None:
        """protobuf's canonical JSON is read alike, its times to the microsecond."""
        read = json_deserializer.deserialize(MessageToJson(request).encode())
        expected = protobuf_deserializer.deserialize(request.SerializeToString())
        self.assertEqual(expected._replace(sent_time=None), read._replace(sent_time=None))
        self.assertEqual(expected.sent_time is None, read.sent_time is None)
        if expected.sent_time is not None and read.sent_time is not None:
            # A float of Unix seconds in the year 1 or 9999 is good to some 30 microseconds.
            self.assertLess(abs(expected.sent_time - read.sent_time), 1e-4)

    @given(st.lists(st.binary(max_size=64), max_size=5))
    def test_arrays_of_byte_values(self, payloads: list[bytes]) -> None:
        """An array of byte values means the same as base64."""
        document = {"events": [{"event_bytes": list(payload)} for payload in payloads]}
        batch = json_deserializer.deserialize(json.dumps(document).encode())
        self.assertEqual(payloads, batch.payloads)

    @given(st.text("Ab+/=-_\n\r ", max_size=12))
    def test_base64_is_what_go_takes(self, text: str) -> None:
        """A text is taken where it is padded standard base64, but for line breaks; else refused."""
        body = json.dumps({"events": [{"event_bytes": text}]}).encode()
        found = outcome(json_deserializer, body)
        plain = text.replace("\n", "").replace("\r", "")
        whole = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"
        if re.fullmatch(whole, plain):
            self.assertEqual(Batch("", None, [""], [base64.b64decode(plain)]), found)
        else:
            self.assertIsInstance(found, BadRequestError)


class ResponseTests(SynchronousTestCase):
    """Responses survive both encodings."""

    @given(responses)
    def test_protobuf(self, response: Response) -> None:
        """A response in protobuf decodes to the values it was made of."""
        message = SendEventResponse.FromString(ProtobufSerializer().serialize(response))
        self.assertEqual(
            response,
            Response(
                message.status,
                message.code,
                message.sent_time,
                message.reason,
                message.data.get("req_guid"),
            ),
        )

    @given(responses)
    def test_json(self, response: Response) -> None:
        """A response in JSON decodes to the values it was made of."""
        document = json.loads(JsonSerializer().serialize(response))
        self.assertLessEqual(set(document), {"status", "code", "sent_time", "reason", "data"})
        self.assertEqual(
            response,
            Response(
                document["status"],
                document["code"],
                document["sent_time"],
                document.get("reason", ""),
                document["data"]["req_guid"] if "data" in document else None,
            ),
        )
