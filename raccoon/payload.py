"""An event's bytes for people: JSON, text, protobuf field by field without a schema, or hex."""

from __future__ import annotations

import struct

import orjson

_LENGTH = 1000
_MAX_DEPTH = 8


def show(payload: bytes) -> tuple[str, str]:
    """An event's bytes for a person: (form, text), the text of at most 1,000 characters.

    JSON as it is, else text, else protobuf field by field, else hex.
    """
    try:
        form, text = "json", orjson.dumps(orjson.loads(payload)).decode()
    except (orjson.JSONDecodeError, orjson.JSONEncodeError):
        form, text = _not_json(payload)
    return form, text if len(text) <= _LENGTH else text[:_LENGTH] + "…"


def _not_json(payload: bytes) -> tuple[str, str]:
    text = _printable(payload)
    if text is not None:
        return "text", text
    fields = render(payload)
    return ("hex", payload[:_LENGTH].hex()) if fields is None else ("protobuf", "{" + fields + "}")


def _printable(payload: bytes) -> str | None:
    """The bytes as text, where a person can read all of it."""
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text and "".join(text.split()).isprintable() else None


def render(data: bytes, depth: int = 0) -> str | None:
    """`1: 42, 2: "text", 3: {1: 5}`, or None where the bytes are not protobuf.

    The wire format says how long a field is, not what it means: length-delimited fields are
    shown as text where they are printable, else as a message where they parse as one, else as
    hex. Source: protobuf.dev, Encoding.
    """
    if not data or depth > _MAX_DEPTH:
        return None
    parts = []
    position = 0
    while position < len(data):
        field = _field(data, position, depth)
        if field is None:
            return None
        text, position = field
        parts.append(text)
    return ", ".join(parts)


def _field(data: bytes, position: int, depth: int) -> tuple[str, int] | None:  # noqa: PLR0911
    tag = _varint(data, position)
    if tag is None or tag[0] >> 3 == 0:
        return None
    number, wire_type = tag[0] >> 3, tag[0] & 7
    position = tag[1]
    if wire_type == 0:
        value = _varint(data, position)
        return None if value is None else (f"{number}: {value[0]}", value[1])
    if wire_type in (1, 5):
        size, code = (8, "<d") if wire_type == 1 else (4, "<f")
        chunk = data[position : position + size]
        if len(chunk) < size:
            return None
        return f"{number}: {struct.unpack(code, chunk)[0]:g}", position + size
    if wire_type == 2:
        length = _varint(data, position)
        if length is None or length[1] + length[0] > len(data):
            return None
        chunk = data[length[1] : length[1] + length[0]]
        return f"{number}: {_delimited(chunk, depth)}", length[1] + length[0]
    return None


def _delimited(chunk: bytes, depth: int) -> str:
    try:
        text = chunk.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if text.isprintable():
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    nested = render(chunk, depth + 1)
    return f"0x{chunk.hex()}" if nested is None else "{" + nested + "}"


def _varint(data: bytes, position: int) -> tuple[int, int] | None:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            return None
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    return None
