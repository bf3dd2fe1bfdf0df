"""One stream of SendEvents: how far it is read, the answers that are due, and its end."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

import grpc
from twisted.logger import Logger

from raccoon.errors import BadRequestError
from raccoon.identification import Identification
from raccoon.intake import OVERLOADED, Answer, Codec, Intake
from raccoon.interfaces import IMetrics
from raccoon.logs import Throttle
from raccoon.messages import Identifier, Response
from raccoon.metrics.rx import count_rejected
from raccoon.proto import stream_pb2
from raccoon.request import CollectRequest
from raccoon.service.grpc.inbox import Inbox
from raccoon.service.grpc.servicer import Metadata, identity
from raccoon.supervision import Supervisor

STREAM_SERVICE = stream_pb2.DESCRIPTOR.services_by_name["EventStreamService"].full_name
STREAM_METHOD = "SendEvents"

# A message over this many bytes is collected before the next is read: what the queue of the
# collector bounds must not pile up in front of it.
_LARGE = 65_536
# Causes for which a stream is not read.
_OVERLOADED, _UNCOLLECTED = 1, 2


class Wire(Protocol):
    """grpcio's side of one stream. Its three methods are called with `lock` held."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Guards the stream and its call."""

    def read(self) -> None:
        """Ask for one message; the stream's `received` is called with it, or with None."""

    def write(self, body: bytes, more: bool) -> None:
        """Write one message; the stream's `written` is called when the next may be.

        Args:
            body: the message.
            more: the next one is there already: this one need not be sent on its own.
        """

    def end(self, code: grpc.StatusCode, details: str) -> None:
        """End the call; nothing is read or written any more."""


class EventStream:
    """Requests of one client and their answers.

    `begin`, `received`, `written` and `lost` are called by the wire from any thread, what is
    behind the inbox by the reactor's. A request is in flight from when it was read until its
    answer was written, so that a client that does not read its answers is not read either.

    Args:
        servicer: what all streams share.
        identifier: the client.
        wire: grpcio's side.
    """

    __slots__ = (
        "_answers",
        "_closing",
        "_ended",
        "_forget",
        "_identifier",
        "_in_flight",
        "_paused",
        "_reading",
        "_servicer",
        "_wire",
        "_writing",
    )

    def __init__(self, servicer: StreamServicer, identifier: Identifier, wire: Wire) -> None:
        self._servicer = servicer
        self._identifier = identifier
        self._wire = wire
        self._answers: deque[bytes] = deque()
        self._closing: tuple[grpc.StatusCode, str] | None = None
        self._ended = False
        self._forget: Callable[[], None] | None = None  # that it waits for room
        self._in_flight = 0
        self._paused = 0
        self._reading = False
        self._writing = False

    # From the wire.

    def begin(self) -> None:
        """Read the first message."""
        with self._wire.lock:
            self._read_on()

    def received(self, body: bytes | None) -> None:
        """The message that was asked for; None where the client sends no more."""
        with self._servicer.inbox:
            with self._wire.lock:
                self._reading = False
                if body is None:
                    self._close(grpc.StatusCode.OK, "")
                    return
                if self._closing is not None:
                    return
                self._in_flight += 1
                if len(body) > _LARGE:
                    self._paused |= _UNCOLLECTED
                self._read_on()
            self._decode(body)

    def written(self) -> None:
        """The answer that was given to the wire is on its way."""
        with self._wire.lock:
            self._in_flight -= 1
            answers = self._answers
            if answers:
                self._wire.write(answers.popleft(), bool(answers))
            else:
                self._writing = False
            if self._closing is None:
                self._read_on()
            else:
                self._end_if_answered()

    def lost(self) -> None:
        """The call has ended, by whichever side."""
        with self._wire.lock:
            self._ended = True
            self._answers.clear()
        if self._forget is not None:
            self._forget()
        self._servicer.streams.discard(self)

    # From the service.

    def stop(self) -> None:
        """Read no more, and end when everything is answered."""
        with self._wire.lock:
            self._close(grpc.StatusCode.UNAVAILABLE, "the server is stopping")

    # In the reactor's thread.

    def _collect(self, request: CollectRequest) -> None:
        self._servicer.intake.collect(request, self._respond)
        if self._paused & _UNCOLLECTED:
            self._resume(_UNCOLLECTED)

    # From any thread.

    def _decode(self, body: bytes) -> None:
        servicer = self._servicer
        request = servicer.intake.decode(
            self._identifier, servicer.codec, body, self._respond, None
        )
        if request is not None:
            servicer.inbox.put(self._collect, request)
        elif self._paused & _UNCOLLECTED:
            self._resume(_UNCOLLECTED)

    def _respond(
        self, answer: Answer, response: Response, request: CollectRequest | None, _: None
    ) -> None:
        if answer is OVERLOADED and not self._paused & _OVERLOADED:
            with self._wire.lock:
                self._paused |= _OVERLOADED
            self._forget = self._servicer.intake.when_room(partial(self._resume, _OVERLOADED))
        body = self._servicer.codec.serializer.serialize(response)
        with self._wire.lock:
            if self._ended:
                return
            self._answers.append(body)
            if self._writing:
                return
            self._writing = True
        # Later, so that all answers of one turn of the reactor go in few packets.
        self._servicer.inbox.put(self._write)

    def _write(self) -> None:
        with self._wire.lock:
            if self._ended:
                return
            try:
                self._wire.write(self._answers.popleft(), bool(self._answers))
            except Exception as error:
                self._servicer.supervisor.failed("writing to a gRPC stream", error)
                self._ended = True
                self._wire.end(grpc.StatusCode.INTERNAL, "internal error")

    def _resume(self, cause: int) -> None:
        with self._wire.lock:
            self._paused &= ~cause
            self._read_on()

    # With the lock held.

    def _read_on(self) -> None:
        if (
            not self._reading
            and not self._paused
            and self._closing is None
            and not self._ended
            and self._in_flight < self._servicer.max_in_flight
        ):
            self._reading = True
            self._wire.read()

    def _close(self, code: grpc.StatusCode, details: str) -> None:
        if self._closing is None:
            self._closing = (code, details)
            self._end_if_answered()

    def _end_if_answered(self) -> None:
        if self._closing is not None and not self._in_flight and not self._ended:
            self._ended = True
            self._wire.end(*self._closing)


class StreamServicer:
    """Serves SendEvents.

    Args:
        inbox: the way to the reactor.
        intake: takes the requests.
        protobuf: the codec.
        identification: names the metadata with a client's id and group.
        metrics: counts.
        supervisor: is told of faults.
        seconds: the wall clock.
        max_in_flight: unanswered requests of one stream beyond which reading pauses.
    """

    _logger = Logger()

    def __init__(
        self,
        inbox: Inbox,
        intake: Intake,
        protobuf: Codec,
        identification: Identification,
        metrics: IMetrics,
        supervisor: Supervisor,
        seconds: Callable[[], float],
        max_in_flight: int,
    ) -> None:
        self.intake = intake
        self.supervisor = supervisor
        self.codec = protobuf
        self.inbox = inbox
        self.max_in_flight = max_in_flight
        self.streams: set[EventStream] = set()
        self._metrics = metrics
        self._throttle = Throttle(self._logger, seconds)
        self._identification = identification
        self._stopping = False

    def open(self, metadata: Metadata, wire: Wire) -> EventStream | None:
        """Take one stream.

        Args:
            metadata: the call's, keys in lower case.
            wire: grpcio's side of it.

        Returns:
            Its stream, to be begun by the caller; None if it was refused and has ended.
        """
        try:
            identifier = self.intake.identify(*identity(self._identification, metadata))
        except BadRequestError as error:
            count_rejected(self._metrics, "serde", "NA")
            self._throttle.warn("gRPC stream refused: {reason}", reason=str(error))
            with wire.lock:
                wire.end(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            return None
        stream = EventStream(self, identifier, wire)
        self.streams.add(stream)
        if self._stopping:
            stream.stop()
        return stream

    def stop(self) -> None:
        """Have every stream end when what it has in flight is answered."""
        self._stopping = True
        for stream in list(self.streams):
            stream.stop()
