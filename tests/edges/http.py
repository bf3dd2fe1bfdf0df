"""HTTP as a client writes and reads it.

Written for the tests alone: what the edges say is judged by bytes, not by the code that wrote
them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


def http_request(
    method: str = "POST",
    path: str = "/api/v1/events",
    headers: Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
    version: str = "HTTP/1.1",
) -> bytes:
    """A request as bytes, with Host and Content-Length."""
    lines = [f"{method} {path} {version}", "Host: raccoon.test"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def chunked(*pieces: bytes) -> bytes:
    """A body in chunked transfer encoding, its end included."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


class Reply(NamedTuple):
    """An HTTP answer; header names in lower case, each with the values of all its lines."""

    version: bytes
    status: int
    phrase: bytes
    headers: dict[str, list[str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header that comes at most once."""
        values = self.headers.get(name, [])
        assert len(values) <= 1, (name, values)
        return values[0] if values else None

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def read_replies(data: bytes, methods: Sequence[str] = ()) -> list[Reply]:
    """All answers in `data`; `methods` are those of the requests, where one was HEAD."""
    replies: list[Reply] = []
    while data:
        head, found, data = data.partition(b"\r\n\r\n")
        assert found, f"an answer without the end of its headers: {head!r}"
        status_line, *lines = head.split(b"\r\n")
        version, status, phrase = status_line.split(b" ", 2)
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, colon, value = line.partition(b":")
            assert colon, line
            headers.setdefault(name.decode().lower(), []).append(value.strip().decode("latin-1"))
        method = methods[len(replies)] if len(replies) < len(methods) else "GET"
        if int(status) < 200 or method == "HEAD":
            body = b""
        elif "chunked" in headers.get("transfer-encoding", []):
            body, data = _unchunk(data)
        elif "content-length" in headers:
            length = int(headers["content-length"][0])
            assert len(data) >= length, f"{len(data)} of {length} bytes of body"
            body, data = data[:length], data[length:]
        else:
            body, data = data, b""
        replies.append(Reply(version, int(status), phrase, headers, body))
    return replies


def _unchunk(data: bytes) -> tuple[bytes, bytes]:
    pieces = []
    while True:
        size, _, data = data.partition(b"\r\n")
        length = int(size, 16)
        pieces.append(data[:length])
        assert data[length : length + 2] == b"\r\n"
        data = data[length + 2 :]
        if not length:
            return b"".join(pieces), data
