"""Tests of raccoon.payload."""

from __future__ import annotations

import struct

from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from raccoon.payload import render, show
from raccoon.proto.raccoon_pb2 import Event, SendEventRequest


class ShowTests(SynchronousTestCase):
    """An event's bytes for a person."""

    def test_json(self) -> None:
        """JSON is shown as JSON, on one line."""
        self.assertEqual(("json", '{"a":1,"b":"é"}'), show(b'{"a": 1,\n "b": "\xc3\xa9"}'))

    def test_protobuf(self) -> None:
        """Protobuf is shown field by field."""
        self.assertEqual(("protobuf", '{1: "ab", 2: 5}'), show(b"\x0a\x02ab\x10\x05"))

    def test_hex(self) -> None:
        """Anything else is shown in hex."""
        self.assertEqual(("hex", "fffe00"), show(b"\xff\xfe\x00"))
        self.assertEqual(("hex", ""), show(b""))

    def test_text(self) -> None:
        """Text that is no JSON is shown as it is."""
        self.assertEqual(("text", "página=1 & más"), show("página=1 & más".encode()))
        self.assertEqual(("text", "two\nlines\tand more"), show(b"two\nlines\tand more"))

    def test_deep_json(self) -> None:
        """JSON that is nested deeper than can be written again is shown as text."""
        for depth in (200, 300, 1000, 100_000):
            form, text = show(b"[" * depth + b"]" * depth)
            self.assertEqual(("json" if depth < 254 else "text", "[[["), (form, text[:3]))
            self.assertLessEqual(len(text), 1001)

    @given(
        st.binary()
        | st.text().map(str.encode)
        | st.recursive(st.none(), st.lists).map(repr).map(str.encode)
    )
    def test_any_bytes(self, payload: bytes) -> None:
        """Whatever an event holds, something short is shown of it."""
        form, text = show(payload)
        self.assertIn(form, ("json", "text", "protobuf", "hex"))
        self.assertLessEqual(len(text), 1001)

    def test_length(self) -> None:
        """A large event is cut, and shows that it was."""
        for payload in (b'"' + b"x" * 100_000 + b'"', b"\xff" * 100_000):
            _, text = show(payload)
            self.assertEqual(1001, len(text))
            self.assertTrue(text.endswith("…"))


class RenderTests(SynchronousTestCase):
    """Protobuf without a schema."""

    def test_each_wire_type(self) -> None:
        """Varints, text, bytes, doubles and floats are shown by field number."""
        data = (
            b"\x08\x96\x01"
            + b'\x12\x04a"b\\'
            + b"\x1a\x02\xff\xfe"
            + b"\x21"
            + struct.pack("<d", 1.5)
            + b"\x2d"
            + struct.pack("<f", -2.0)
        )
        self.assertEqual(r'1: 150, 2: "a\"b\\", 3: 0xfffe, 4: 1.5, 5: -2', render(data))

    def test_nested(self) -> None:
        """A message in a message is shown in braces."""
        request = SendEventRequest(
            req_guid="guid-1",
            sent_time=Timestamp(seconds=5),
            events=[Event(event_bytes=b"\x00\xff", type="click")],
        )
        self.assertEqual(
            '1: "guid-1", 2: {1: 5}, 3: {1: 0x00ff, 2: "click"}',
            render(request.SerializeToString()),
        )

    def test_large_field_numbers(self) -> None:
        """A tag of several bytes is one field number."""
        self.assertEqual("16: 1", render(b"\x80\x01\x01"))

    def test_not_protobuf(self) -> None:
        """Bytes that are not protobuf, cut short or empty, are None."""
        for data in (
            b"",
            b"\x00\x01",
            b"\x08",
            b"\x08\xff",
            b"\x12\x05ab",
            b"\x21\x00",
            b"\x2d\x00",
            b"\x0b",
            b"\x0f",
            b"\xff" * 20,
            b"hello world",
        ):
            self.assertIsNone(render(data), data)

    def test_nested_without_end(self) -> None:
        """Messages nested deeper than anyone reads are shown as bytes from there on."""
        data = b"\x08\x01"
        for _ in range(12):
            data = b"\x0a" + bytes([len(data)]) + data
        text = render(data) or ""
        self.assertTrue(text.startswith("1: {1: {1: "), text)
        self.assertIn("0x", text)

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes are a printable text or None."""
        text = render(data)
        self.assertTrue(text is None or (text and text.isprintable()), text)
