"""Tests of raccoon.journal.files.body."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from raccoon.journal.files.body import (
    JSON,
    MESSAGEPACK,
    PROTOBUF,
    UnreadableError,
    decode_body,
    encode_body,
)
from raccoon.messages import Batch
from tests.edges.bodies import NOW, json_body, protobuf_body

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
events = st.lists(st.tuples(texts, st.binary(max_size=300)), max_size=20)
times = st.none() | st.floats(allow_nan=False)


class BodyTests(SynchronousTestCase):
    """What holds for any batch and for any bytes."""

    @given(texts, times, events)
    def test_round_trip(
        self, guid: str, sent_time: float | None, events: list[tuple[str, bytes]]
    ) -> None:
        """A batch is read as it was stored."""
        batch = Batch(guid, sent_time, [kind for kind, _ in events], [data for _, data in events])
        self.assertEqual(batch, decode_body(MESSAGEPACK, encode_body(batch)))

    @given(st.integers(0, 255), st.binary(max_size=300))
    def test_any_bytes(self, form: int, body: bytes) -> None:
        """Bytes that are no batch are unreadable, and nothing else happens."""
        self.read(form, body)

    def test_any_bit(self) -> None:
        """So is a batch in which a bit is not as it was stored, unless it is another batch then."""
        events = [("click", b"\x00\xff"), ("größe", b"{}")]
        whole = encode_body(Batch("guid", NOW, [kind for kind, _ in events], [b"1", b""]))
        for form, body in (
            (MESSAGEPACK, whole),
            (JSON, json_body("guid", events)),
            (PROTOBUF, protobuf_body("guid", events)),
        ):
            for bit in range(8 * len(body)):
                changed = bytearray(body)
                changed[bit >> 3] ^= 1 << (bit & 7)
                self.read(form, bytes(changed))

    def read(self, form: int, body: bytes) -> None:
        """Read what may be no batch."""
        try:
            batch = decode_body(form, body)
        except UnreadableError:
            return
        self.assertEqual(len(batch.types), len(batch.payloads))

    def test_older_forms(self) -> None:
        """Requests as they came, whatever the limits of this version are."""
        events = [("no name of a topic/", b"\x00\xff")] * 50_000
        batch = Batch("g" * 5000, NOW, [kind for kind, _ in events], [data for _, data in events])
        deep = b'"other":' + b"[" * 500 + b"]" * 500
        body = json_body(batch.guid, events)[:-1] + b"," + deep + b"}"
        self.assertEqual(batch, decode_body(JSON, body))
        self.assertEqual(batch, decode_body(PROTOBUF, protobuf_body(batch.guid, events)))

    def test_unreadable(self) -> None:
        """The error says what is wrong."""
        whole = encode_body(Batch("guid", NOW, ["click"], [b"12"]))
        uneven = encode_body(Batch("guid", NOW, ["click"], []))
        other = msgspec.msgpack.encode(["guid", NOW, ["click"], ["text"]])
        for form, body, reason in (
            (MESSAGEPACK, whole[:-1], "truncated"),
            (MESSAGEPACK, uneven, "1 types of 0 events"),
            (MESSAGEPACK, other, "got `str`"),
            (JSON, b"{", "not JSON"),
            (PROTOBUF, b"\xff", "SendEventRequest"),
            (7, whole, "form 7, of another version"),
        ):
            error = self.assertRaises(UnreadableError, decode_body, form, body)
            self.assertIn(reason, str(error))
