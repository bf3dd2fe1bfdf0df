"""Tests of raccoon.serialization."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from raccoon.interfaces import ISerializer
from raccoon.messages import (
    CODE_BAD_REQUEST,
    CODE_INTERNAL_ERROR,
    CODE_MAX_CONNECTION_LIMIT_REACHED,
    CODE_MAX_USER_LIMIT_REACHED,
    CODE_OK,
    STATUS_ERROR,
    STATUS_SUCCESS,
    Response,
    failure,
    success,
)
from raccoon.proto.raccoon_pb2 import Code, SendEventResponse, Status
from raccoon.serialization import JsonSerializer, ProtobufSerializer


class ResponseTests(SynchronousTestCase):
    """Responses and their numbers."""

    def test_numbers(self) -> None:
        """The numbers are those of the protocol's enums."""
        self.assertEqual(
            [1, 2, 1, 2, 3, 4, 5],
            [
                STATUS_SUCCESS,
                STATUS_ERROR,
                CODE_OK,
                CODE_BAD_REQUEST,
                CODE_INTERNAL_ERROR,
                CODE_MAX_CONNECTION_LIMIT_REACHED,
                CODE_MAX_USER_LIMIT_REACHED,
            ],
        )
        self.assertEqual(STATUS_SUCCESS, Status.STATUS_SUCCESS)
        self.assertEqual(STATUS_ERROR, Status.STATUS_ERROR)
        self.assertEqual(CODE_MAX_USER_LIMIT_REACHED, Code.CODE_MAX_USER_LIMIT_REACHED)

    def test_success(self) -> None:
        """A success carries whole seconds and the guid, and no reason."""
        self.assertEqual(Response(1, 1, 1795492430, "", "a"), success("a", 1795492430.9))

    def test_failure(self) -> None:
        """A failure carries code and reason, and a guid where one is known."""
        self.assertEqual(Response(2, 3, 7, "why", "a"), failure(3, "why", 7.5, "a"))
        self.assertIsNone(failure(2, "why", 7.5).guid)


class JsonSerializerTests(SynchronousTestCase):
    """The JSON form."""

    def setUp(self) -> None:
        self.serializer = JsonSerializer()

    def test_interface(self) -> None:
        """It is an ISerializer."""
        verifyObject(ISerializer, self.serializer)

    def test_success(self) -> None:
        """A success is, byte by byte, what the Go server writes."""
        self.assertEqual(
            b'{"status":1,"code":1,"sent_time":1795492430,"data":{"req_guid":"a"}}',
            self.serializer.serialize(success("a", 1795492430)),
        )

    def test_failure(self) -> None:
        """A failure without a guid has no data."""
        self.assertEqual(
            b'{"status":2,"code":2,"sent_time":5,"reason":"invalid content type"}',
            self.serializer.serialize(failure(CODE_BAD_REQUEST, "invalid content type", 5)),
        )

    def test_failure_with_guid(self) -> None:
        """Reason and data both appear where both are known."""
        self.assertEqual(
            {
                "status": 2,
                "code": 3,
                "sent_time": 5,
                "reason": "cannot publish events: x",
                "data": {"req_guid": "a"},
            },
            json.loads(
                self.serializer.serialize(
                    failure(CODE_INTERNAL_ERROR, "cannot publish events: x", 5, "a")
                )
            ),
        )

    def test_empty_guid(self) -> None:
        """An empty guid is still data: clients look it up."""
        document = json.loads(self.serializer.serialize(failure(2, "x", 5, "")))
        self.assertEqual({"req_guid": ""}, document["data"])

    def test_zero_values_are_left_out(self) -> None:
        """Fields that hold their zero value are left out, whichever they are."""
        self.assertEqual(b"{}", self.serializer.serialize(Response(0, 0, 0, "", None)))

    def test_text_is_escaped(self) -> None:
        """Quotes, line breaks and letters beyond ASCII survive."""
        text = 'a "b"\n\\ é \u2028 😀 \x00'
        document = json.loads(self.serializer.serialize(failure(2, text, 5, text)))
        self.assertEqual((text, text), (document["reason"], document["data"]["req_guid"]))


class ProtobufSerializerTests(SynchronousTestCase):
    """The protobuf form."""

    def setUp(self) -> None:
        self.serializer = ProtobufSerializer()

    def test_interface(self) -> None:
        """It is an ISerializer."""
        verifyObject(ISerializer, self.serializer)

    def test_field_numbers(self) -> None:
        """The bytes are those of the protocol's field numbers."""
        self.assertEqual(
            b"\x08\x02\x10\x03\x18\x05\x22\x01x\x2a\x0d\x0a\x08req_guid\x12\x01a",
            self.serializer.serialize(failure(CODE_INTERNAL_ERROR, "x", 5, "a")),
        )

    def test_success(self) -> None:
        """A success decodes to the same values."""
        message = SendEventResponse.FromString(self.serializer.serialize(success("a", 1795492430)))
        self.assertEqual(
            (1, 1, 1795492430, "", {"req_guid": "a"}),
            (message.status, message.code, message.sent_time, message.reason, dict(message.data)),
        )

    def test_success_is_what_protobuf_gives(self) -> None:
        """A success has the very bytes of protobuf's own encoder, second by second."""
        guids = ["", "ä", *("g" * length for length in range(0, 300, 5)), "g" * 115, "g" * 116]
        for now in (0, 5, 5, 1795492430, 1 << 40, 5):
            for guid in guids:
                message = SendEventResponse(status=1, code=1, sent_time=now)  # type: ignore[arg-type]
                message.data["req_guid"] = guid
                self.assertEqual(
                    message.SerializeToString(), self.serializer.serialize(success(guid, now))
                )

    def test_without_guid(self) -> None:
        """Without a guid there is no data; with an empty one there is."""
        without = SendEventResponse.FromString(self.serializer.serialize(failure(2, "x", 5)))
        empty = SendEventResponse.FromString(self.serializer.serialize(failure(2, "x", 5, "")))
        self.assertEqual({}, dict(without.data))
        self.assertEqual({"req_guid": ""}, dict(empty.data))
