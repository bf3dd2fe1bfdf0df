"""What a worker and its parent say to each other: JSON arrays on a pair of sockets.

| from the worker | |
|---|---|
| `serving` | it serves; the first word, unless it is `failed` |
| `failed`, reason | it cannot serve, and ends |
| `claim`, id, group | may a WebSocket connection be this client's? |
| `release`, id, group | it is gone |
| `changes`, changes | of its metrics, each second and when asked |
| `left`, events | it has stopped, with so many undelivered; the last word |

| from the parent | |
|---|---|
| `begin`, index, core or null | serve; the first word |
| `verdict`, reason or null | of the oldest claim without one |
| `tell` | say `changes` now |
| `cover`, index | accept the connections of a worker that is gone |
| `uncover`, index | it is back |
| `stop` | stop in the orderly way |
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.protocol import ServerFactory, connectionDone
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from raccoon.service.transport import write_now

_LARGEST = 1 << 28
_HEAD = 4


def encode(*message: Any) -> bytes:
    """A message as it goes over the channel."""
    body = json.dumps(message).encode()
    return len(body).to_bytes(_HEAD, "big") + body


class Channel(Int32StringReceiver):
    """One end.

    Args:
        receive: called with the parts of each message.
        lost: called when the other end is gone.
    """

    MAX_LENGTH = _LARGEST
    is_open = False

    def __init__(self, receive: Callable[..., None], lost: Callable[[], None]) -> None:
        self._receive = receive
        self._lost = lost

    def say(self, *message: Any) -> None:
        """Send a message; silence where the other end is gone."""
        if self.is_open:
            write_now(self.transport, encode(*message))

    def connectionMade(self) -> None:
        """The reactor serves this end."""
        self.is_open = True

    def stringReceived(self, string: bytes) -> None:
        """A message came."""
        self._receive(*json.loads(string))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The other end is gone."""
        self.is_open = False
        self._lost()


def open_channel(reactor: Any, end: socket.socket, channel: Channel) -> Channel:
    """Have the reactor serve a channel on one of a pair of sockets, which it takes over."""
    factory = ServerFactory()
    factory.buildProtocol = lambda _: channel  # type: ignore[assignment,method-assign]
    end.setblocking(False)
    reactor.adoptStreamConnection(end.fileno(), socket.AF_UNIX, factory)
    end.close()
    return channel


def read_message(end: socket.socket) -> list[Any]:
    """Wait for one message, on a socket that no channel serves yet; empty where none comes.

    Raises:
        OSError: none came within the socket's timeout.
    """

    def take(count: int) -> bytes:
        taken = b""
        while len(taken) < count and (more := end.recv(count - len(taken))):
            taken += more
        return taken

    head = take(_HEAD)
    if len(head) < _HEAD:
        return []
    body = take(int.from_bytes(head, "big"))
    message: list[Any] = json.loads(body)
    return message
