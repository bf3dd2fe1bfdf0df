"""Writing to a client's socket without a detour through the reactor."""

from __future__ import annotations

from typing import Any

from twisted.internet.tcp import Connection


def write_now(transport: Any, data: bytes) -> None:
    """Send what the kernel takes at once; the transport buffers the rest.

    `transport.write` alone registers the socket for writing, sends in the next turn of the
    reactor and unregisters it: three system calls and a dispatch for an answer of 100 bytes.
    """
    if (
        isinstance(transport, Connection)
        and not transport.dataBuffer
        and not transport._tempDataBuffer
        and transport.connected
        and not transport.disconnecting
        and not getattr(transport, "TLS", False)
    ):
        sent = transport.writeSomeData(data)
        if sent == len(data):
            return
        if isinstance(sent, int):
            data = data[sent:]
    transport.write(data)
