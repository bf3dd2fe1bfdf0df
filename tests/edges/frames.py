"""WebSocket's frames as a client writes and reads them, for the tests alone."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import Any, NamedTuple

from tests.edges.bodies import read_protobuf
from tests.edges.http import http_request

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Frame(NamedTuple):
    """One WebSocket frame as a server sends it."""

    opcode: int
    payload: bytes
    fin: bool = True

    def close_code(self) -> int:
        """The status code of a close frame."""
        assert self.opcode == CLOSE, self
        return int.from_bytes(self.payload[:2], "big")

    def close_reason(self) -> str:
        """The reason of a close frame."""
        assert self.opcode == CLOSE, self
        return self.payload[2:].decode()


def client_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    mask: bytes | None = b"\x37\xfa\x21\x3d",
    length: int | None = None,
) -> bytes:
    """One frame as a client sends it; `length` lies about the payload's."""
    size = len(payload) if length is None else length
    masked = 0x80 if mask else 0
    head = bytes([opcode | (0x80 if fin else 0)])
    if size < 126:
        head += bytes([masked | size])
    elif size < 1 << 16:
        head += bytes([masked | 126]) + struct.pack("!H", size)
    else:
        head += bytes([masked | 127]) + struct.pack("!Q", size)
    if not mask:
        return head + payload
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def read_frames(data: bytes) -> list[Frame]:
    """All frames in `data`, which a server sent: whole and unmasked."""
    frames = []
    while data:
        first, second = data[0], data[1]
        assert not first & 0x70, "a reserved bit is set"
        assert not second & 0x80, "a server's frame is masked"
        length, start = second, 2
        if length == 126:
            (length,), start = struct.unpack("!H", data[2:4]), 4
        elif length == 127:
            (length,), start = struct.unpack("!Q", data[2:10]), 10
        assert len(data) >= start + length, "a frame is cut off"
        frames.append(Frame(first & 0x0F, data[start : start + length], bool(first & 0x80)))
        data = data[start + length :]
    return frames


def read_answer(frame: Frame) -> dict[str, Any]:
    """A response in a frame of its own: JSON in a text frame, protobuf in a binary one."""
    assert frame.fin, frame
    assert frame.opcode in (TEXT, BINARY), frame
    if frame.opcode == BINARY:
        return read_protobuf(frame.payload)
    document: dict[str, Any] = json.loads(frame.payload)
    return document


WEBSOCKET_KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def upgrade_request(id: str | None = "client", headers: Iterable[tuple[str, str]] = ()) -> bytes:
    """An upgrade of the events path, by a client with this id (None: no such header)."""
    identity = [] if id is None else [("X-User-ID", id)]
    return http_request(
        "GET",
        headers=[
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", WEBSOCKET_KEY),
            ("Sec-WebSocket-Version", "13"),
            *identity,
            *headers,
        ],
    )
