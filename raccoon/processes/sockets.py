"""The ports that workers share: bound by the parent, listened on by the workers.

Each worker has a listening socket of its own for HTTP, and the kernel spreads connections evenly
over them (SO_REUSEPORT). On one socket for all, it wakes them all and the first takes most: of 64
connections one of two workers got 16, 0 or 1. The parent keeps all the sockets, so that what
waits in one is served by another worker when its own is gone.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from zope.interface import implementer

from raccoon.errors import StartError
from raccoon.listening import listen

_SHAREABLE = ("tcp:", "tcp6:")


def bind_http(option: str, endpoint: str, count: int) -> list[socket.socket]:
    """Listen on an endpoint, `count` times.

    Args:
        option: the setting and its value, for an error.
        endpoint: a Twisted server endpoint string.
        count: of sockets.

    Raises:
        StartError: the string is not an endpoint of TCP, or its address is taken.
    """
    if not endpoint.startswith(_SHAREABLE):
        raise StartError(
            f"{option}: several workers can share only an endpoint such as tcp:8080"
            " (SERVER_WORKERS)"
        )
    binder = _Binder(count)
    listen(binder, option, endpoint, None)  # type: ignore[arg-type]
    return binder.sockets


class _Binder:
    """In the place of a reactor for an endpoint, which asks it to listen."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.sockets: list[socket.socket] = []

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> Any:
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        try:
            port = _free(family, interface, port)
            for _ in range(self._count):
                self.sockets.append(_bound(family, interface, port, share=True))
                self.sockets[-1].listen(backlog)
        except OSError as error:
            raise CannotListenError(interface, port, error) from None
        return self


def hold_grpc(option: str, address: str) -> tuple[str, list[socket.socket]]:
    """Make sure that nobody else has the address of gRPC, on which the workers will listen.

    Returns:
        The address with the port's number, and sockets that hold it until they are closed.

    Raises:
        StartError: it is not host:port, or it is taken.
    """
    host, _, port = address.rpartition(":")
    if host == "[::]" and not socket.has_dualstack_ipv6():
        host = "0.0.0.0"  # noqa: S104 - as grpcio does it
    held: list[socket.socket] = []
    try:
        number = int(port)
        found = socket.getaddrinfo(host.strip("[]"), number, type=socket.SOCK_STREAM)
        for family, _, _, _, at in found:
            try:
                number = _free(family, str(at[0]), number)
                held.append(_bound(family, str(at[0]), number, share=True))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:  # such as ::1 without IPv6
                    raise
    except (OSError, ValueError):
        held.clear()
    if not held:
        raise StartError(f"{option}: cannot listen: the address is taken, or is not host:port")
    return f"{host}:{number}", held


def _free(family: int, host: str, port: int) -> int:
    """The number of a port that nobody listens on, sharing it or not."""
    with _bound(family, host, port, share=False) as alone:
        alone.listen(1)
        number: int = alone.getsockname()[1]
        return number


def _bound(family: int, host: str, port: int, share: bool) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        opened.setblocking(False)
        opened.bind((host, port))
    except OSError:
        opened.close()
        raise
    return opened


@implementer(IListeningPort)
class SharedPort:
    """The HTTP listener of a worker: its own socket, and those of workers that are gone.

    Args:
        reactor: listens.
        descriptors: of the sockets of all workers, by index.
        own: which is this worker's.
    """

    def __init__(self, reactor: Any, descriptors: Sequence[int], own: int) -> None:
        self._reactor = reactor
        self._descriptors = descriptors
        self._own = own
        self._factory: IProtocolFactory | None = None
        self._ports: dict[int, Any] = {}
        self._closed = False

    def listen(self, factory: IProtocolFactory) -> SharedPort:
        """Accept connections for a factory."""
        self._factory = factory
        self.cover(self._own)
        return self

    def startListening(self) -> None:
        """It does from the start."""

    def cover(self, index: int) -> None:
        """Accept the connections of a worker's socket."""
        if self._closed or index in self._ports:
            return
        descriptor = self._descriptors[index]
        with socket.socket(fileno=os.dup(descriptor)) as shared:
            family = shared.family
        self._ports[index] = self._reactor.adoptStreamPort(descriptor, family, self._factory)

    def uncover(self, index: int) -> None:
        """Leave a worker's socket to it."""
        port = self._ports.pop(index, None)
        if port is not None:
            port.stopListening()

    def getHost(self) -> Any:
        """Where it listens."""
        return self._ports[self._own].getHost()

    def stopListening(self) -> Deferred[Any]:
        """Close every socket: who connects is then refused, once all workers have done so."""
        closing = [port.stopListening() for port in self._ports.values()]
        self._ports.clear()
        if not self._closed:
            self._closed = True
            for descriptor in self._descriptors:
                with suppress(OSError):
                    os.close(descriptor)
        return DeferredList([waiting for waiting in closing if waiting is not None])
