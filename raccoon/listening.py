"""Endpoint strings, opened at once or refused in one line."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.python.failure import Failure

from raccoon.errors import StartError

# Connections that wait to be accepted; Twisted's default of 50 makes clients wait a second for
# their next try when many come at once. The system may allow fewer (net.core.somaxconn).
BACKLOG = 1024


def default_endpoint(port: int) -> str:
    """All addresses of this machine on a port: IPv6 and IPv4 where it has both."""
    kind = f"tcp6:{port}:interface=\\:\\:" if socket.has_dualstack_ipv6() else f"tcp:{port}"
    return f"{kind}:backlog={BACKLOG}"


def listen(
    reactor: Any, option: str, description: str, factory: IProtocolFactory
) -> IListeningPort:
    """Open the endpoint that a string describes.

    Args:
        reactor: listens.
        option: the setting and its value, for an error.
        description: a Twisted server endpoint string.
        factory: serves its connections.

    Raises:
        StartError: the string is not an endpoint, or the address cannot be had.
    """
    try:
        opening: Deferred[IListeningPort] = serverFromString(reactor, description).listen(factory)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise StartError(
            f"{option}: not an endpoint ({error}); expected one such as tcp:8080"
        ) from None
    result: list[IListeningPort | Failure] = []
    opening.addBoth(result.append)
    if not result:
        opening.cancel()
        raise StartError(f"{option}: this kind of endpoint is not supported")
    if isinstance(result[0], Failure):
        cause = result[0].value
        reason = cause.socketError if isinstance(cause, CannotListenError) else cause
        raise StartError(f"{option}: cannot listen: {reason}")
    return result[0]


def shown(address: Any) -> str:
    """An address that is listened on, for people; a Unix socket has a name instead of a port."""
    if not hasattr(address, "port"):
        return str(getattr(address, "name", address))
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"
