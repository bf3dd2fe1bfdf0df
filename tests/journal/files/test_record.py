"""Tests of raccoon.journal.files.record."""

from __future__ import annotations

import zlib

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from raccoon.journal.files.body import MESSAGEPACK
from raccoon.journal.files.record import (
    DamagedError,
    Record,
    decode,
    decode_intact,
    encode,
)
from tests.journal.fakes import make_record

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
records = st.builds(
    Record,
    client=texts,
    group=texts,
    received_at=st.floats(allow_nan=False),
    events=st.integers(0, 2**32 - 1),
    form=st.integers(0, 255),
    body=st.binary(max_size=200),
)


class RecordTests(SynchronousTestCase):
    """What holds for any record and for any bytes."""

    @given(st.lists(records, max_size=5))
    def test_round_trip(self, written: list[Record]) -> None:
        """Records written one behind the other are read as they were, in order."""
        self.assertEqual(written, decode(b"".join(map(encode, written))))

    @given(st.binary(max_size=300))
    def test_any_bytes(self, stored: bytes) -> None:
        """Bytes that are no records are damaged, and nothing else happens."""
        if stored:
            self.assertRaises(DamagedError, decode, stored)
        else:
            self.assertEqual([], decode(stored))

    @given(st.lists(records, min_size=1, max_size=3), st.data())
    def test_any_bit(self, written: list[Record], data: st.DataObject) -> None:
        """A bit that is not as it was written is found."""
        stored = bytearray(b"".join(map(encode, written)))
        bit = data.draw(st.integers(0, len(stored) * 8 - 1))
        stored[bit >> 3] ^= 1 << (bit & 7)
        self.assertRaises(DamagedError, decode, bytes(stored))

    @given(st.lists(records, min_size=1, max_size=3), st.data())
    def test_any_end(self, written: list[Record], data: st.DataObject) -> None:
        """A group that was cut off within a record is damaged."""
        whole = list(map(encode, written))
        stored = b"".join(whole)
        ends = {sum(map(len, whole[:count])) for count in range(len(whole) + 1)}
        end = data.draw(st.integers(0, len(stored)).filter(lambda at: at not in ends))
        self.assertRaises(DamagedError, decode, stored[:end])

    @given(records, st.binary(min_size=1, max_size=20))
    @example(Record("ab", "", 0.0, 1, MESSAGEPACK, b""), b"\xff\xfe")
    def test_right_checksum(self, record: Record, name: bytes) -> None:
        """Bytes of a client that are no text are damaged even where the checksum holds."""
        stored = bytearray(encode(record._replace(client="x" * len(name))))
        at = len(encode(record._replace(client="", group="", body=b"")))
        stored[at : at + len(name)] = name
        stored[:4] = zlib.crc32(stored[4:]).to_bytes(4, "little")
        try:
            text = name.decode()
        except UnicodeDecodeError:
            self.assertRaises(DamagedError, decode, bytes(stored))
        else:
            self.assertEqual([record._replace(client=text)], decode(bytes(stored)))

    def test_intact(self) -> None:
        """Those of a damaged group are found, whatever is damaged of one; some have no number."""
        records = [make_record(f"{number}", 300) for number in range(20)]
        each = [encode(record) for record in records]
        stored = b"".join(each)
        begin = sum(map(len, each[:7]))
        for bit in range(8 * len(each[7])):
            changed = bytearray(stored)
            changed[begin + bit // 8] ^= 1 << bit % 8
            found = list(decode_intact(bytes(changed)))
            self.assertEqual(records[:7] + records[8:], [record for _, record in found], bit)
            for number, record in found:
                self.assertIn(number, (None, records.index(record)), bit)
        self.assertEqual(list(enumerate(records)), list(decode_intact(stored)))
        self.assertEqual([], list(decode_intact(bytes(10_000))))

    def test_impossible_lengths(self) -> None:
        """A length that is shorter than its head does not lead round in circles."""
        stored = bytearray(encode(Record("", "", 0.0, 1, MESSAGEPACK, b"")))
        stored[4:8] = bytes(4)
        stored[:4] = zlib.crc32(b"").to_bytes(4, "little")
        self.assertRaises(DamagedError, decode, bytes(stored))
