"""A TCP connection in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IPushProducer, ITCPTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

_READ = 65536  # bytes that a Twisted transport reads at once
_WRITE_BUFFER = 65536  # of a Twisted transport; beyond this its producer is paused


@implementer(ITCPTransport, IPushProducer)
class MemorySocket:
    """A server's TCP connection whose other end is the test.

    It does what Twisted's does: bytes wait while the server does not read; a full buffer pauses
    the producer; closing is told in the next turn of the reactor, once the buffer is empty.
    """

    def __init__(self, clock: Clock, port: int = 40000) -> None:
        self._clock = clock
        self._address = IPv4Address("TCP", "127.0.0.1", port)
        self.protocol: Any = None
        self.producer: Any = None
        self._paused_producer = False
        self.reading = True
        self.connected = True
        self.disconnecting = False
        self.write_closed = False
        self.aborted = False
        self.client_reads = True
        self._unread = b""
        self._buffer = b""
        self._wire = b""

    # The client's end.

    def deliver(self, data: bytes) -> None:
        """Bytes from the client; they wait while the server does not read."""
        self._unread += data
        self._flow()

    def received(self) -> bytes:
        """What the client has received since the last call."""
        received, self._wire = self._wire, b""
        return received

    def read_on(self) -> None:
        """The client, which did not read, reads again."""
        self.client_reads = True
        self._wire += self._buffer
        self._buffer = b""
        if self._paused_producer:
            self._paused_producer = False
            self.producer.resumeProducing()
        self._close_if_due()

    def hang_up(self) -> None:
        """The client is gone."""
        self._lose(ConnectionLost())

    @property
    def unread(self) -> int:
        """How many bytes of the client the server has not taken."""
        return len(self._unread)

    def _flow(self) -> None:
        while self._unread and self.reading and self.connected and not self.disconnecting:
            data, self._unread = self._unread[:_READ], self._unread[_READ:]
            self.protocol.dataReceived(data)

    def _lose(self, reason: Exception) -> None:
        if self.connected:
            self.connected = False
            self.reading = False
            self.protocol.connectionLost(Failure(reason))

    def _close_if_due(self) -> None:
        if self.disconnecting and not self._buffer:
            self._clock.callLater(0, self._lose, ConnectionDone())

    # The server's end: ITCPTransport, IConsumer and IPushProducer.

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if not self.connected or self.write_closed or self.aborted:
            return
        if self.client_reads:
            self._wire += data
            return
        self._buffer += data
        if self.producer is not None and len(self._buffer) > _WRITE_BUFFER:
            self._paused_producer = True
            self.producer.pauseProducing()

    def writeSequence(self, pieces: Iterable[bytes]) -> None:
        pieces = list(pieces)
        assert all(isinstance(piece, bytes) for piece in pieces)
        self.write(b"".join(pieces))

    def loseConnection(self) -> None:
        if self.connected and not self.disconnecting:
            self.reading = False
            self.disconnecting = True
            self._close_if_due()

    def loseWriteConnection(self) -> None:
        # What was written before in the same turn still goes out, and so does what follows in it.
        self._clock.callLater(0, setattr, self, "write_closed", True)

    def abortConnection(self) -> None:
        if self.connected and not self.aborted:
            self.aborted = self.disconnecting = True
            self.reading = False
            self._clock.callLater(0, self._lose, ConnectionAborted())

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        if self.producer is not None:
            raise RuntimeError("a producer is registered")
        assert streaming
        if self.connected:
            self.producer = producer
        else:
            producer.stopProducing()

    def unregisterProducer(self) -> None:
        self.producer = None
        self._paused_producer = False

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        if self.connected and not self.disconnecting:
            self.reading = True
            self._clock.callLater(0, self._flow)

    def stopProducing(self) -> None:
        self.loseConnection()

    def getPeer(self) -> IPv4Address:
        return self._address

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 8080)

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def getTcpNoDelay(self) -> bool:
        return True

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    def getTcpKeepAlive(self) -> bool:
        return False
