"""The HTTP server: limits before anything is read whole, deadlines, and the way to a route."""

from __future__ import annotations

from collections.abc import Iterable
from io import BytesIO
from typing import Any, cast

from twisted.internet.defer import maybeDeferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES, HTTPChannel, datetimeToString
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from raccoon import __version__
from raccoon.admission import ArrivingBytes
from raccoon.config import LimitSettings
from raccoon.errors import Overloaded
from raccoon.intake import OVERLOADED, TOO_LARGE, Answer, Arrival
from raccoon.logs import Throttle
from raccoon.service.rest.posts import LENGTH_DIGITS
from raccoon.service.rest.resource import EVENTS_PATH, HttpAnswer, RestResource
from raccoon.service.transport import write_now

_SERVER = b"Raccoon/" + __version__.encode("ascii")
# Phases of a connection, each with its own deadline.
_IDLE, _HEADERS, _BODY, _REFUSED = range(4)
_LINGER_SECONDS = 1.0
_FAULT = b"the server failed to handle this request\n"


class EventRequest(Request):
    """A request whose body is bounded while it is read."""

    channel: Any
    content: Any
    refused = False
    _received = 0
    _counted = 0

    def gotLength(self, length: int | None) -> None:
        """Refuse a body by its Content-Length, before a byte of it is read."""
        self.content = BytesIO()
        if length is not None and length > self.channel.site.limits.request_bytes:
            self._refuse_too_large(f"{length} bytes")

    def handleContentChunk(self, data: bytes) -> None:
        """Keep a piece of the body, or refuse it once it is over the limit."""
        if self.refused:
            return
        self._received += len(data)
        if self._received > self.channel.site.limits.request_bytes:
            self._refuse_too_large("more")
            return
        if not self.channel.site.arriving.take(len(data), self._counted):
            self._refuse_body(OVERLOADED, str(Overloaded("bodies on their way take all the room")))
            return
        self._counted += len(data)
        self.content.write(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The request is whole."""
        self._give_back()
        if not self.refused:
            super().requestReceived(command, path, version)

    def connectionLost(self, reason: Failure) -> None:
        """Its connection is gone."""
        self._give_back()
        super().connectionLost(reason)

    def _give_back(self) -> None:
        counted, self._counted = self._counted, 0
        self.channel.site.arriving.give(counted)

    def process(self) -> None:
        """Take the route of events and upgrades directly; every other one by Klein's map."""
        site = self.site = self.channel.site
        if (body := site.rest.cross_origin(self)) is not None:
            self._finish(body)
        elif self.path == EVENTS_PATH and self.method == b"POST":
            maybeDeferred(site.rest.events, self).addCallbacks(self._finish, self.processingFailed)
        elif self.path == EVENTS_PATH and self.method == b"GET" and self._asks_for_websocket():
            self.render(site.upgrade)
        elif not self.path.isascii() or b"%" in self.path:
            # No route has such a path, and Klein logs a traceback for one that is not UTF-8.
            self.setResponseCode(404)
            self._finish(b"Not Found\n")
        else:
            super().process()

    def write(self, data: bytes) -> None:
        """Write, as long as anybody listens."""
        if not self._disconnected:
            super().write(data)

    def _finish(self, body: bytes) -> None:
        """Send status, headers and body in one piece."""
        if self._disconnected:
            return
        headers = [
            (name, value)
            for name, values in self.responseHeaders.getAllRawHeaders()
            for value in values
        ]
        self.startedWriting = 1
        write_now(self.channel.transport, self.channel.site.compose(self.code, headers, body))
        self.finish()

    def _asks_for_websocket(self) -> bool:
        return b"websocket" in self.requestHeaders.getRawHeaders(b"upgrade", [b""])[0].lower()

    def _refuse_too_large(self, size: str) -> None:
        limit = self.channel.site.limits.request_bytes
        reason = f"the body has {size}; at most {limit} bytes are allowed (LIMIT_REQUEST_BYTES)"
        self._refuse_body(TOO_LARGE, reason)

    def _refuse_body(self, answer: Answer, reason: str) -> None:
        self.refused = True
        self._give_back()
        self.content = BytesIO()
        self.clientproto = b"HTTP/1.1"
        body = self.channel.site.rest.refuse(self, answer, reason)
        self.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        self.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        self.write(body)
        self.channel.discard()


class PlainRequest:
    """A request that came whole, while it is handled; it stands in its channel's queue."""

    def __init__(self, channel: EventChannel) -> None:
        self._channel: EventChannel | None = channel
        self._site = channel.site

    def connectionLost(self, reason: Failure) -> None:
        """Nobody waits for the answer any more."""
        self._channel = None

    def answer(self, answer: HttpAnswer) -> None:
        """Send the answer in one piece."""
        channel, self._channel = self._channel, None
        if channel is None:
            return
        headers = ((b"Content-Type", answer.content_type), *answer.headers)
        write_now(channel.transport, self._site.compose(answer.status, headers, answer.body))
        channel.answered(self)

    def failed(self, failure: Failure) -> None:
        """A fault of the server's own."""
        self._site.handler_raised(failure)
        self.answer(HttpAnswer(500, b"text/plain; charset=utf-8", _FAULT))


class EventChannel(HTTPChannel):
    """HTTP/1.1 with a deadline for each phase of a request, whatever trickles in meanwhile."""

    site: Any
    transport: Any
    _networkProducer: Any
    _phase = _IDLE
    _taken_over = False
    _empty_line = False
    _aborting: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Apply the site's limits to this connection."""
        limits = self.site.limits
        self.maxHeaders = limits.headers
        self.totalHeadersSize = limits.header_bytes
        self.MAX_LENGTH = limits.header_bytes
        self._peer = self.transport.getPeer()
        self._host = self.transport.getHost()
        super().connectionMade()

    def getPeer(self) -> Any:
        """The client's address; asked for by every request."""
        return self._peer

    def getHost(self) -> Any:
        """This end's address; asked for by every request, and a system call each time."""
        return self._host

    def dataReceived(self, data: bytes) -> None:
        """Parse, then set the deadline of the phase that the parser is left in."""
        if self._phase == _REFUSED:
            return
        if self._between_requests() and (post := self.site.posts.read(data)) is not None:
            self._take(post)
            return
        # Not HTTPChannel's: it would restart the timer at every byte.
        LineReceiver.dataReceived(self, data)
        if self._handlingRequest or self._taken_over or self._phase == _REFUSED:
            return
        if self.requests:
            self._enter(_HEADERS if self.line_mode else _BODY)
        elif self._buffer:
            self._enter(_HEADERS)

    def _between_requests(self) -> bool:
        """Whether the parser has seen nothing of the next request, and will take one."""
        return (
            not self.requests
            and not self._buffer
            and not self._empty_line
            and self._phase == _IDLE
            and bool(self.persistent)
            and not self.transport.disconnecting
        )

    def _take(self, post: Arrival) -> None:
        request = PlainRequest(self)
        self.requests.append(request)
        self._handlingRequest = True
        self.setRawMode()  # what comes before the answer is kept until then
        try:
            self.site.rest.take(post, request.answer)
        except Exception:
            request.failed(Failure())

    def answered(self, request: PlainRequest) -> None:
        """A request that came whole is done with: go on with what came meanwhile.

        Where nothing came this is HTTPChannel's requestDone, without a timer that was never off.
        """
        self.resetTimeout()
        if self._dataBuffer or not self.persistent:
            self.requestDone(request)
            return
        self.requests.clear()
        if not self._waitingForTransport:
            self._networkProducer.resumeProducing()
        self._handlingRequest = False
        self.setLineMode()

    def pauseProducing(self) -> None:
        """The client does not read its answers: read no more of its requests.

        HTTPChannel reads on while a request is handled, which is just when answers are written.
        """
        super().pauseProducing()
        self._networkProducer.pauseProducing()
        self._abort_later()

    def resumeProducing(self) -> None:
        """The client reads again."""
        self._do_not_abort()
        super().resumeProducing()

    def _abort_later(self) -> None:
        """Drop the connection unless its client reads on, or it has ended, in time."""
        if self._aborting is None:
            self._aborting = self.site.reactor.callLater(self.site.write_wait, self._abort)

    def _do_not_abort(self) -> None:
        if self._aborting is not None:
            self._aborting.cancel()
            self._aborting = None

    def _abort(self) -> None:
        self._aborting = None
        self.site.throttle.warn("HTTP connection dropped: its answers are not read")
        self.transport.abortConnection()

    def _close(self) -> None:
        """Close once the client has read what was written, and at the latest after a while."""
        self.transport.loseConnection()
        self._abort_later()

    def allContentReceived(self) -> None:
        """A request is whole; the next one begins idle."""
        if self._phase == _REFUSED:
            return
        if self._phase in (_HEADERS, _BODY):
            self._enter(_IDLE)
        self._empty_line = False
        super().allContentReceived()

    def lineReceived(self, line: bytes) -> bool:
        """Parse a line of the headers; true ends the parsing of what came with it."""
        # One before a request is passed over, a second one is not.
        self._empty_line = not line and not self.requests
        super().lineReceived(line)
        return self._phase == _REFUSED

    def timeoutConnection(self) -> None:
        """A deadline passed: say so where a request was begun, and close."""
        if self._handlingRequest:
            self.setTimeout(self.timeOut)
            return
        if self._phase in (_HEADERS, _BODY):
            part = "headers" if self._phase == _HEADERS else "body"
            self._plain(408, f"the request's {part} did not arrive in time")
            return
        self._close()

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line is longer than all headers together may be."""
        self._receivedHeaderSize = self.totalHeadersSize + 1
        self._respondToBadRequestAndDisconnect()

    def let_go(self) -> None:
        """Another protocol takes the transport: leave nothing behind that refers to it."""
        self._taken_over = True
        self.requests.clear()
        self.setTimeout(None)
        self._do_not_abort()
        self._networkProducer.unregisterProducer()
        self.site.channels.discard(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        self.site.channels.discard(self)
        self._do_not_abort()
        super().connectionLost(reason)

    def close_when_answered(self) -> None:
        """Close now, or after the answer that is due."""
        if self._handlingRequest:
            self.persistent = 0
        else:
            self._close()

    def discard(self) -> None:
        """After a refusal: let the client read it while what it still sends is dropped."""
        self._enter(_REFUSED)
        self._networkProducer.unregisterProducer()
        if ITCPTransport.providedBy(self.transport):
            self.transport.loseWriteConnection()
        else:
            self.transport.loseConnection()

    def _send100Continue(self) -> None:
        if not self.requests[-1].refused:
            super()._send100Continue()

    def _maybeChooseTransferDecoder(self, header: bytes, data: bytes) -> bool:
        """Take a length of any size for what it is: Twisted raises at more than 4,300 digits."""
        if header == b"Content-Length" and data.isdigit() and len(data) > LENGTH_DIGITS:
            data = min(data.lstrip(b"0"), b"9" * LENGTH_DIGITS, key=len) or b"0"
        chosen: bool = super()._maybeChooseTransferDecoder(header, data)
        return chosen

    def _respondToBadRequestAndDisconnect(self) -> None:
        limits = self.site.limits
        if self._receivedHeaderSize > self.totalHeadersSize:
            self._plain(
                431, f"headers of more than {limits.header_bytes} bytes (LIMIT_HEADER_BYTES)"
            )
        elif self._receivedHeaderCount > self.maxHeaders:
            self._plain(431, f"more than {limits.headers} headers (LIMIT_HEADERS)")
        else:
            self._plain(400, "not a well-formed HTTP/1.1 request")

    def _plain(self, status: int, reason: str) -> None:
        self.site.throttle.warn("HTTP request refused: {reason}", reason=reason)
        body = reason.encode() + b"\n"
        names = {400: b"Bad Request", 408: b"Request Timeout"}
        self.transport.write(
            b"HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n%s"
            % (status, names.get(status, b"Request Header Fields Too Large"), len(body), body)
        )
        self.discard()

    def _enter(self, phase: int) -> None:
        if phase != self._phase:
            self._phase = phase
            self.setTimeout(self.site.deadlines[phase])


class EventSite(Site):
    """The HTTP port.

    Args:
        rest: the REST application.
        upgrade: renders a WebSocket upgrade.
        limits: sizes and deadlines.
        write_wait: seconds for which a client need not read its answers.
        arriving: counts bodies that are not whole yet.
        reactor: gives time.
    """

    protocol = EventChannel  # type: ignore[assignment]
    requestFactory = EventRequest
    noisy = False
    displayTracebacks = False
    _logger = Logger()

    def __init__(
        self,
        rest: RestResource,
        upgrade: IResource,
        limits: LimitSettings,
        write_wait: float,
        arriving: ArrivingBytes,
        reactor: IReactorTime,
    ) -> None:
        super().__init__(
            rest.app.resource(),
            reactor=reactor,
            timeout=limits.idle_timeout_ms / 1000,
            parsePOSTFormSubmission=False,
        )
        self.rest = rest
        self.posts = rest.post_reader(limits)
        self.upgrade = upgrade
        self.limits = limits
        self.write_wait = write_wait
        self.arriving = arriving
        self.deadlines = (
            limits.idle_timeout_ms / 1000,
            limits.header_timeout_ms / 1000,
            limits.body_timeout_ms / 1000,
            _LINGER_SECONDS,
        )
        self.channels: set[EventChannel] = set()
        self.throttle = Throttle(self._logger, reactor.seconds)
        self._heads_of = 0
        self._heads: dict[int, bytes] = {}

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A channel, or None past LIMIT_HTTP_CONNECTIONS: the connection is closed."""
        if len(self.channels) >= self.limits.http_connections:
            self.throttle.warn(
                "connection refused: {limit} are open (LIMIT_HTTP_CONNECTIONS)",
                limit=self.limits.http_connections,
            )
            return None
        channel = cast(EventChannel, super().buildProtocol(addr))
        self.channels.add(channel)
        return channel

    def close_idle(self) -> None:
        """Close every connection that has no request under way, the others after theirs."""
        for channel in list(self.channels):
            channel.close_when_answered()

    def getResourceFor(self, request: Any) -> Any:
        """The resource of any route but the hot one."""
        request.responseHeaders.setRawHeaders(b"Server", [_SERVER])
        return super().getResourceFor(request)

    def compose(self, code: int, headers: Iterable[tuple[bytes, bytes]], body: bytes) -> bytes:
        """A whole answer, in one piece."""
        lines = [self._head(code)]
        lines += [b"%s: %s\r\n" % header for header in headers]
        lines.append(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        return b"".join(lines)

    def _head(self, code: int) -> bytes:
        """Status line, Server and Date of an answer, formatted once a second."""
        now = int(self.reactor.seconds())
        if now != self._heads_of:
            self._heads_of = now
            self._heads.clear()
        head = self._heads.get(code)
        if head is None:
            phrase = RESPONSES.get(code, b"Unknown Status")
            head = self._heads[code] = b"HTTP/1.1 %d %s\r\nServer: %s\r\nDate: %s\r\n" % (
                code,
                phrase,
                _SERVER,
                datetimeToString(now),
            )
        return head

    def handler_raised(self, failure: Failure) -> None:
        """Log a fault of the server's own."""
        self._logger.failure("a request could not be handled", failure=failure)

    def log(self, request: Any) -> None:
        """No access log: a line a request would cost more than the request."""
