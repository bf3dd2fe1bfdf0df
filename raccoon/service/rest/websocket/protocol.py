"""One WebSocket connection: messages in, answers out, and never more than it may hold."""

from __future__ import annotations

from functools import partial
from typing import Any

import txaio
from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.util import wildcards2patterns
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from raccoon.errors import BadRequestError, Overloaded, PublishError
from raccoon.intake import OVERLOADED, STORED, TOO_SLOW, Answer
from raccoon.messages import (
    CODE_INTERNAL_ERROR,
    CODE_MAX_CONNECTION_LIMIT_REACHED,
    CODE_MAX_USER_LIMIT_REACHED,
    Identifier,
    Response,
    failure,
    success,
)
from raccoon.metrics.rx import count_rejected
from raccoon.request import CollectRequest
from raccoon.service.rest.websocket.connections import RefusedError
from raccoon.service.rest.websocket.dedup import NEW, PUBLISHED, SeenBatches
from raccoon.service.rest.websocket.frames import data_frame, take_message
from raccoon.service.rest.websocket.hub import WebSocketHub
from raccoon.service.transport import write_now

_PING = b"--ping--"
_POLICY_VIOLATION = 1008
_TRY_AGAIN_LATER = 1013
_BINARY = 2  # opcode
_NO_ROOM = "messages on their way take all the room"
_GOING_AWAY = 1001
_REASON_BYTES = 123  # RFC 6455, 5.5: a control frame carries 125 bytes, two are the code
_CLOSE_CODES = frozenset({1000, 1001, 1005, 1006})
# Causes for which a socket is not read.
_IN_FLIGHT, _OVERLOADED, _UNREAD, _STOPPING, _CLAIMING = 1, 2, 4, 8, 16


@implementer(IPushProducer)
class EventWebSocketProtocol(WebSocketServerProtocol):  # type: ignore[misc]
    """A client that sends batches, any number in flight up to a limit.

    Options that Autobahn would copy into each instance are attributes of the class: 2 KB less
    for each connection.
    """

    CONFIG_ATTRS = ()
    logOctets = False
    logFrames = False
    trackTimings = False
    utf8validateIncoming = True
    applyMask = True
    autoFragmentSize = 0
    failByDrop = False
    echoCloseCodeReason = False
    openHandshakeTimeout = 0  # the HTTP channel's deadlines hold until the upgrade
    closeHandshakeTimeout = 2
    tcpNoDelay = True
    autoPingInterval = 0
    autoPingTimeout = 0
    autoPingSize = 12
    autoPingRestartOnAnyTraffic = False
    versions = (8, 13)
    webStatus = False
    requireMaskedClientFrames = True
    maskServerFrames = False
    serveFlashSocketPolicy = False
    flashSocketPolicy = ""
    allowedOrigins = ("*",)
    allowedOriginsPatterns = tuple(wildcards2patterns(("*",)))
    allowNullOrigin = True
    maxConnections = 0
    trustXForwardedFor = 0
    perMessageCompressionAccept = staticmethod(lambda offers: None)
    log = txaio.make_logger(level="critical")  # what happens here is logged by ours

    hub: WebSocketHub
    identifier = Identifier("", "")
    last_pong = 0.0
    _stop_watching: Any = None
    _seen: SeenBatches | None = None
    _connected_at: float | None = None
    _in_flight = 0
    _paused = 0
    _unread: Any = None
    _forget: Any = None  # that it waits for room
    # A frame that has not come whole yet, and at how many bytes it is.
    _held: bytearray | None = None
    _whole_at = 0
    # Of a message that is not whole: bytes that are counted, how often the hub
    # has looked since it began, and whether what still
    # comes of it is dropped.
    _arriving = 0
    looks = 0
    _refused = False
    message_data: Any  # Autobahn's, of fragments
    frame_data: Any
    # Answers that go out together at the end of the reactor's turn.
    _unsent: list[bytes] | None = None

    # Bytes, past Autobahn where the frame is a plain one.

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._refused:
            return
        came = len(data)
        if self._held is not None:
            self._held += data
            if len(self._held) < self._whole_at and self.state == self.STATE_OPEN:
                self._count(came)
                return
            data, self._held = bytes(self._held), None
        position = 0
        if self.state == self.STATE_OPEN and not self.data and self._between_messages():
            while not self._paused:
                found = take_message(data, position, self.maxMessagePayloadSize)
                if found is None:
                    break
                payload, binary, stop = found
                if payload is None:
                    self._held = bytearray(data[position:])
                    self._whole_at = stop - position
                    self._count(came)
                    return
                position = stop
                self.onMessage(payload, binary)
        if position < len(data):
            self._dataReceived(data[position:])
            if self.state == self.STATE_OPEN and (self.data or not self._between_messages()):
                self._count(came)
                return
        if self._arriving:
            self._whole()

    def processData(self) -> bool:
        """Have Autobahn parse on, unless reading has stopped: the rest stays in its buffer."""
        return not self._paused and super().processData()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone; without its Deferreds, which refer to it, it is freed at once."""
        super().connectionLost(reason)
        self.is_open = self.is_closed = None

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Bytes to the client."""
        self.flush()
        write_now(self.transport, data)

    def _count(self, came: int) -> None:
        """Count what came of a message that is not whole, or refuse it where there is no room."""
        hub = self.hub
        if not hub.arriving.take(came, self._arriving):
            self._refuse_message(_TRY_AGAIN_LATER, str(Overloaded(_NO_ROOM)))
            return
        if not self._arriving:
            self.looks = 0
            hub.unfinished.add(self)
        self._arriving += came

    def _whole(self) -> None:
        """Nothing of a message is held any more."""
        self.hub.arriving.held -= self._arriving
        self.hub.unfinished.discard(self)
        self._arriving = 0

    def not_whole(self) -> None:
        """A message does not come whole in time, unless it is we who do not read."""
        if self._paused:
            self.looks = 0
        else:
            self._refuse_message(_POLICY_VIOLATION, "a message did not arrive in time")

    def _refuse_message(self, code: int, reason: str) -> None:
        """Answer a message that is not whole, and close: what still comes of it is dropped."""
        binary = self._held[0] & 0x0F == _BINARY if self._held else self.message_is_binary
        self._refused, self._held = True, None
        self.data, self.message_data, self.frame_data = b"", [], []
        self._whole()
        self.hub.intake.refuse(
            OVERLOADED if code == _TRY_AGAIN_LATER else TOO_SLOW,
            "readerr",
            reason,
            self._respond_early,
            binary,
        )
        self._close(code, reason)

    def _respond_early(
        self, answer: Answer, response: Response, request: CollectRequest | None, binary: bool
    ) -> None:
        self._send(self._frame(response, binary))

    def _between_messages(self) -> bool:
        return self.current_frame is None and not self.inside_message

    # From Autobahn: the life of the connection.

    def onConnect(self, request: ConnectionRequest) -> Deferred[None] | None:
        """Take the identity from an upgrade; it is answered once the table has been asked."""
        identification = self.hub.identification
        headers = request.headers
        try:
            self.identifier = identification.identifier(
                headers.get(identification.id_header), headers.get(identification.group_header)
            )
        except BadRequestError as error:
            group = headers.get(identification.group_header)
            self.hub.upgrade_failed(group, str(error))
            raise ConnectionDeny(400, str(error)) from None
        claim = self.hub.table.claim(self)
        if claim is not None:
            # Whatever comes before the upgrade is answered would be parsed as another one.
            self._pause(_CLAIMING)
            claim.addBoth(self._claimed)
        return claim

    def _claimed(self, answer: Failure | None) -> None:
        self._resume(_CLAIMING)
        if answer is not None:
            why = f"{answer.getErrorMessage()}, retry"
            self.hub.upgrade_failed(self.identifier.group, why)
            raise ConnectionDeny(503, why)

    def onOpen(self) -> None:
        """Enter the table, or tell the client why not."""
        hub = self.hub
        now = hub.reactor.seconds()
        group = self.identifier.group
        try:
            hub.table.add(self)
        except RefusedError as refused:
            hub.metrics.count("user_connection_failure_total", 1, (group, refused.reason))
            hub.throttle.warn(
                "WebSocket connection refused: {reason}", reason=refused.reason, group=group
            )
            self._refuse(refused.reason, now)
            return
        self._connected_at = now
        hub.metrics.count("user_connection_success_total", 1, (group,))
        if hub.dedup_size:
            self._seen = SeenBatches(hub.dedup_size)
        self._stop_watching = hub.keep_alive.watch(self)
        self.registerProducer(self, True)
        hub.logger.debug("connected", id=self.identifier.id, group=group, peer=self.peer)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """One request; its answer may come at once or after others."""
        if self._connected_at is None or self.state != self.STATE_OPEN:
            return
        hub = self.hub
        codec = hub.protobuf if isBinary else hub.json
        self._in_flight += 1
        request = hub.intake.decode(self.identifier, codec, payload, self._respond, isBinary)
        if request is not None and (
            self._seen is None or not self._is_duplicate(self._seen, request, isBinary)
        ):
            hub.intake.collect(request, self._respond, isBinary)
        if self._in_flight >= hub.max_in_flight:
            self._pause(_IN_FLIGHT)

    def onPong(self, payload: bytes) -> None:
        """The client is alive."""
        self.last_pong = self.hub.reactor.seconds()

    def onPing(self, payload: bytes) -> None:
        """Answer a client's ping with its own payload."""
        if self.state == self.STATE_OPEN:
            self.sendPong(payload)
        else:
            group = self.identifier.group
            self.hub.metrics.count("server_pong_failure_total", 1, (group,))

    def onCloseHandshakeTimeout(self) -> None:
        """The client does not take part in the closing handshake: cut it off."""
        self.hub.metrics.count("conn_close_err_count", 1)
        super().onCloseHandshakeTimeout()

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """The connection is gone: leave the table."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        self._whole()
        self.hub.unread.discard(self)
        if self._forget is not None:
            self._forget()
            self._forget = None
        hub = self.hub
        hub.table.remove(self)
        if self._connected_at is None:
            return
        group = self.identifier.group
        self._stop_watching()
        lasted = hub.reactor.seconds() - self._connected_at
        self._connected_at = None
        hub.metrics.observe("user_session_duration_milliseconds", lasted * 1000, (group,))
        count_rejected(hub.metrics, "closeerror" if code in _CLOSE_CODES else "unknown", group)
        hub.logger.debug(
            "disconnected", id=self.identifier.id, group=group, code=code, why_closed=reason
        )
        hub.connection_closed()

    # From the connection table.

    def ping(self) -> None:
        """Send the server's ping."""
        self.sendPing(_PING)

    def pong_missing(self) -> None:
        """No pong in time: drop the connection, unless it is we who do not read."""
        if self._paused:
            self.last_pong = self.hub.reactor.seconds()
            return
        group = self.identifier.group
        self.hub.metrics.count("server_ping_failure_total", 1, (group,))
        self.hub.throttle.warn("WebSocket connection dropped: no pong came", group=group)
        self.dropConnection(abort=True)

    def go_away(self) -> None:
        """Close in an orderly way: the server is stopping."""
        self._close(_GOING_AWAY, "the server is stopping")
        self._resume(self._paused)  # the client's part of the handshake is to come

    def stop_reading(self) -> None:
        """Take no further message."""
        self._pause(_STOPPING)

    def abort(self) -> None:
        """Drop the connection at once."""
        self.dropConnection(abort=True)

    def descriptor(self) -> int:
        """Of the socket; -1 where there is none, or none any more."""
        fileno = getattr(self.transport, "fileno", None)
        return -1 if fileno is None else fileno()

    # From the transport, whose buffer of unsent answers fills and empties.

    def pauseProducing(self) -> None:
        """The client does not read its answers: read no more of its requests."""
        self._pause(_UNREAD)
        if self._unread is None:
            wait = self.hub.write_wait
            self._unread = self.hub.reactor.callLater(wait, self._never_reads)

    def resumeProducing(self) -> None:
        """The client reads again."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        self._resume(_UNREAD)

    def stopProducing(self) -> None:
        """The connection is lost; onClose follows."""

    def _never_reads(self) -> None:
        self._unread = None
        self.hub.throttle.warn(
            "WebSocket connection dropped: its answers are not read", group=self.identifier.group
        )
        self.dropConnection(abort=True)

    # Answers.

    def _respond(
        self, answer: Answer, response: Response, request: CollectRequest | None, binary: bool
    ) -> None:
        hub = self.hub
        codec = hub.protobuf if binary else hub.json
        frame = data_frame(codec.serializer.serialize(response), binary)
        if self._seen is not None and request is not None:
            self._seen.settle(request.guid, answer is STORED)
        self._answer(frame)
        if answer is STORED:
            if request is not None and request.published_at is not None:
                now = hub.reactor.seconds()
                hub.answered(request.received_at, request.published_at, now)
        elif answer is OVERLOADED and not self._paused & _OVERLOADED:
            self._pause(_OVERLOADED)
            self._forget = hub.intake.when_room(partial(self._resume, _OVERLOADED))

    def _answer(self, frame: bytes) -> None:
        """Answer a request that was counted as in flight."""
        self._in_flight -= 1
        self._send(frame)
        if self._paused & _IN_FLIGHT and self._in_flight * 2 <= self.hub.max_in_flight:
            self._resume(_IN_FLIGHT)

    def _frame(self, response: Response, binary: bool) -> bytes:
        codec = self.hub.protobuf if binary else self.hub.json
        return data_frame(codec.serializer.serialize(response), binary)

    def _send(self, frame: bytes) -> None:
        if self.state != self.STATE_OPEN:
            return
        if self._unsent is not None:
            self._unsent.append(frame)
        elif self._in_flight:
            # What was published together is answered together: one system call for all of it.
            self._unsent = [frame]
            self.hub.flush_soon(self)
        else:
            write_now(self.transport, frame)

    def flush(self) -> None:
        """Send the answers that wait for others."""
        if self._unsent is not None:
            frames, self._unsent = self._unsent, None
            write_now(self.transport, b"".join(frames))

    def _refuse(self, reason: str, now: float) -> None:
        if reason == "exists":
            who = f"duplicate connection: {self.identifier.id}"
            why = f"duplicated connection: {self.identifier.id}"
            refusal = failure(CODE_MAX_USER_LIMIT_REACHED, why, now)
        else:
            who = "Max connection reached"
            refusal = failure(CODE_MAX_CONNECTION_LIMIT_REACHED, "max connection reached", now)
        self._send(self._frame(refusal, True))
        self._close(_POLICY_VIOLATION, who)

    def _close(self, code: int, reason: str) -> None:
        """Begin the closing handshake; Autobahn's sendClose takes only a client's codes."""
        cut = reason.encode()[:_REASON_BYTES].decode(errors="ignore")
        self.sendCloseFrame(code, cut.encode())

    # Reading stops while there is any cause for it.

    def _pause(self, cause: int) -> None:
        if not self._paused:
            self.transport.pauseProducing()
            self.hub.unread.add(self)
        self._paused |= cause

    def _resume(self, cause: int) -> None:
        if self._paused & cause:
            self._paused &= ~cause
            if not self._paused:
                self.hub.unread.discard(self)
                self.transport.resumeProducing()
                if self.data:
                    self.hub.reactor.callLater(0, self._read_on)

    def _read_on(self) -> None:
        if not self._paused and self.state != self.STATE_CLOSED:
            self.consumeData()
            if not self.data and self._between_messages():
                self._whole()

    # Deduplication.

    def _is_duplicate(self, seen: SeenBatches, request: CollectRequest, binary: bool) -> bool:
        """Whether a request came before; it is then answered when its first copy is."""
        guid = request.guid
        if not guid:
            return False

        def settled(published: bool) -> None:
            now = self.hub.reactor.seconds()
            reason = "cannot publish events: the first copy of this batch failed"
            answer = (
                success(guid, now) if published else failure(CODE_INTERNAL_ERROR, reason, now, guid)
            )
            self._answer(self._frame(answer, binary))

        state = seen.begin(guid, settled)
        if state == NEW:
            request.on_failed = partial(_forget, seen, guid)
            return False
        self.hub.metrics.count("events_duplicate_total", 1, (self.identifier.group, "duplicate"))
        self.hub.metrics.count("events_in_duplicates_total", len(request.types))
        if state == PUBLISHED:
            settled(True)
        return True


def _forget(seen: SeenBatches, guid: str, _: PublishError) -> None:
    """A batch was not published, whatever its answer was."""
    seen.settle(guid, False)
