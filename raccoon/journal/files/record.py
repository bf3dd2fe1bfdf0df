"""The bytes of one request in the journal, with their checksum."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

# Checksum of what follows; its length; when received; events; form; lengths of id and group.
_HEAD = struct.Struct("<IIdIBHH")
_CHECKED_FROM = 4


class DamagedError(Exception):
    """The bytes are not what was written; the message says what is wrong."""


class Record(NamedTuple):
    """One request.

    Attributes:
        client: the connection id.
        group: the connection group.
        received_at: Unix seconds.
        events: how many it holds.
        form: of `body`.
        body: its events; see raccoon.journal.files.body.
    """

    client: str
    group: str
    received_at: float
    events: int
    form: int
    body: bytes


def encode(record: Record) -> bytes:
    """The record as it is stored."""
    client, group = record.client.encode(), record.group.encode()
    length = _HEAD.size + len(client) + len(group) + len(record.body)
    head = _HEAD.pack(
        0, length, record.received_at, record.events, record.form, len(client), len(group)
    )
    rest = b"".join((head[_CHECKED_FROM:], client, group, record.body))
    return zlib.crc32(rest).to_bytes(_CHECKED_FROM, "little") + rest


def decode(stored: bytes) -> list[Record]:
    """The records of a group, in order.

    Raises:
        DamagedError: a checksum or a length does not hold.
    """
    records = []
    offset = 0
    while offset < len(stored):
        if offset + _HEAD.size > len(stored):
            raise DamagedError("a record ends within its head")
        checksum, length, received_at, events, form, client, group = _HEAD.unpack_from(
            stored, offset
        )
        end = offset + length
        group_at = offset + _HEAD.size + client
        body_at = group_at + group
        if not body_at <= end <= len(stored):
            raise DamagedError("a record's length is impossible")
        if zlib.crc32(stored[offset + _CHECKED_FROM : end]) != checksum:
            raise DamagedError("a record's checksum does not match")
        try:
            client_id = stored[offset + _HEAD.size : group_at].decode()
            group_name = stored[group_at:body_at].decode()
        except UnicodeDecodeError as error:
            raise DamagedError(f"a record's client is no text: {error.reason}") from None
        body = stored[body_at:end]
        records.append(Record(client_id, group_name, received_at, events, form, body))
        offset = end
    return records


def decode_intact(stored: bytes) -> Iterator[tuple[int | None, Record]]:
    """The records of a damaged group whose checksums hold.

    Each has its number in the group, or None behind a record whose length is damaged.
    """
    number: int | None = 0
    offset = 0
    while offset < len(stored):
        record = _intact_at(stored, offset)
        if record is not None:
            yield number, record
        end = offset + _length_at(stored, offset)
        if record is None and end != len(stored) and _intact_at(stored, end) is None:
            number = None
            offset += 1
            continue
        offset = end
        number = None if number is None else number + 1


def _intact_at(stored: bytes, offset: int) -> Record | None:
    length = _length_at(stored, offset)
    if not _HEAD.size <= length <= len(stored) - offset:
        return None
    try:
        return decode(stored[offset : offset + length])[0]
    except DamagedError:
        return None


def _length_at(stored: bytes, offset: int) -> int:
    if offset + _HEAD.size > len(stored):
        return 0
    length: int = _HEAD.unpack_from(stored, offset)[1]
    return length
