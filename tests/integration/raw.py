"""Bytes on a socket, for what no well-behaved client library sends."""

from __future__ import annotations

import http.client
import socket
import struct
from contextlib import suppress
from typing import NamedTuple, Self

TIMEOUT = 10.0
EVENTS = "/api/v1/events"

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
FIN = 0x80


class HttpAnswer(NamedTuple):
    """Status, headers and body; status 0 where the connection ended without an answer."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes


class RawSocket:
    """A TCP connection to 127.0.0.1 on which every read and write has a deadline.

    Args:
        port: where to.
        receive_buffer: bytes that the kernel keeps unread; its own choice for None.
    """

    def __init__(self, port: int, receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer is not None:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(("127.0.0.1", port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send everything, unless the other end has gone: what it said before can be read."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def http_answer(self) -> HttpAnswer:
        """Read one HTTP answer."""
        response = http.client.HTTPResponse(self.socket)
        try:
            response.begin()
            return HttpAnswer(response.status, response.headers, response.read())
        except (http.client.BadStatusLine, ConnectionError):
            return HttpAnswer(0, http.client.HTTPMessage(), b"")
        finally:
            response.close()

    def ended(self) -> bool:
        """Whether the other end closes or resets the connection before the deadline."""
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass
        except TimeoutError:
            return False
        return True


def http_once(port: int, data: bytes) -> HttpAnswer:
    """Send bytes on a new connection, then read the answer."""
    with RawSocket(port) as raw:
        raw.send(data)
        return raw.http_answer()


def post(
    port: int, body: bytes, content_type: str | bytes | None = "application/json"
) -> HttpAnswer:
    """POST a body to the events path."""
    lines = [b"POST %s HTTP/1.1" % EVENTS.encode(), b"Host: localhost", b"X-User-ID: raw"]
    if content_type is not None:
        if isinstance(content_type, str):
            content_type = content_type.encode()
        lines.append(b"Content-Type: " + content_type)
    lines.append(b"Content-Length: %d" % len(body))
    return http_once(port, b"\r\n".join(lines) + b"\r\n\r\n" + body)


def frame(opcode: int, payload: bytes, *, head: int = FIN, masked: bool = True) -> bytes:
    """A WebSocket frame; `head` holds FIN and the reserved bits."""
    mask_bit = 0x80 if masked else 0
    length = len(payload)
    if length < 126:
        start = struct.pack("!BB", head | opcode, mask_bit | length)
    elif length < 1 << 16:
        start = struct.pack("!BBH", head | opcode, mask_bit | 126, length)
    else:
        start = struct.pack("!BBQ", head | opcode, mask_bit | 127, length)
    # A mask of zeros leaves the payload as it is.
    return start + (bytes(4) if masked else b"") + payload


class RawWebSocket(RawSocket):
    """A WebSocket connection whose frames the test makes.

    Args:
        port: where to.
        client_id: its X-User-ID.
        receive_buffer: see RawSocket.
    """

    def __init__(self, port: int, client_id: str, receive_buffer: int | None = None) -> None:
        super().__init__(port, receive_buffer)
        self._buffer = b""
        self.socket.sendall(
            (
                f"GET {EVENTS} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
                "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                f"X-User-ID: {client_id}\r\n\r\n"
            ).encode()
        )
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 101 "):
            raise ConnectionError(head.decode(errors="replace"))

    def read_frame(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload.

        Raises:
            EOFError: the connection ended.
        """
        head = self._take(2)
        length = head[1] & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", self._take(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", self._take(8))
        return head[0] & 0x0F, self._take(length)

    def close_code(self) -> int | None:
        """Read until the connection ends; the code of its close frame, None without one.

        The close is answered, as RFC 6455 asks.
        """
        code = None
        try:
            while True:
                opcode, payload = self.read_frame()
                if opcode == CLOSE and len(payload) >= 2:
                    (code,) = struct.unpack("!H", payload[:2])
                    self.send(frame(CLOSE, payload[:2]))
        except (EOFError, ConnectionError):
            return code

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _more(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        self._buffer += data
