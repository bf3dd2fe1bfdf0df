"""EventService: decodes in gRPC's threads, hands over to the reactor, answers from there."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import grpc
from twisted.logger import Logger
from twisted.python.failure import Failure

from raccoon.collector import CollectRequest, failure_value
from raccoon.errors import BadRequestError, Overloaded
from raccoon.identification import Identification
from raccoon.interfaces import ICollector, IMetrics
from raccoon.logs import Throttle
from raccoon.metrics.rx import count_rejected, count_request
from raccoon.serialization import CODE_INTERNAL_ERROR, Response, failure, success
from raccoon.service.rest.resource import Codec

SERVICE = "raystack.raccoon.v1beta1.EventService"
METHOD = "SendEvent"
_PAUSE = 0.001

Metadata = Iterable[tuple[str, str | bytes]]


class Answer(Protocol):
    """Where the outcome of one call goes; one of the two is called, once, from any thread."""

    def send(self, body: bytes) -> None:
        """Send the response and status OK."""

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        """End the call with an error status."""


class EventServicer:
    """Serves SendEvent.

    Args:
        reactor: takes calls from threads, and gives time.
        collector: where requests go; touched in the reactor thread only.
        protobuf: the codec.
        identification: reads the client's id and group.
        metrics: counts.
        seconds: the clock, in Unix seconds.
    """

    _logger = Logger()

    def __init__(
        self,
        reactor: Any,
        collector: ICollector,
        protobuf: Codec,
        identification: Identification,
        metrics: IMetrics,
        seconds: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._collector = collector
        self._codec = protobuf
        self._identification = identification
        self._metrics = metrics
        self._seconds = seconds
        self._throttle = Throttle(self._logger, seconds)
        self._inbox: deque[tuple[CollectRequest, Answer]] = deque()
        self._woken = False

    def send_event(self, body: bytes, metadata: Metadata, answer: Answer) -> None:
        """Take one request, in a thread of gRPC; `answer` is used now or later.

        Args:
            body: a protobuf SendEventRequest.
            metadata: the call's, keys in lower case.
            answer: where the outcome goes.
        """
        try:
            request = self._decode(body, metadata)
        except BadRequestError as error:
            count_rejected(self._metrics, "serde", "NA")
            self._throttle.warn("gRPC request refused: {reason}", reason=str(error))
            answer.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            return
        self._inbox.append((request, answer))
        if not self._woken:
            self._woken = True
            self._reactor.callFromThread(self._collect)

    def _decode(self, body: bytes, metadata: Metadata) -> CollectRequest:
        identification = self._identification
        received_at = self._seconds()
        values: dict[str, Any] = {}
        for key, value in metadata:
            values.setdefault(key, value)
        if identification.id_header not in values:
            raise BadRequestError("connection id header missing")
        identifier = identification.identifier(
            _text(values[identification.id_header]), _text(values.get(identification.group_header))
        )
        batch = self._codec.deserializer.deserialize(body)
        count_request(self._metrics, identifier.group, batch)
        return CollectRequest(
            identifier, batch.guid, batch.sent_time, batch.types, batch.payloads, received_at
        )

    def _collect(self) -> None:
        """In the reactor thread: collect all that the threads put down.

        While calls come, it looks again after a pause instead of being woken for each.
        """
        if not self._inbox:
            self._woken = False
            if not self._inbox:  # a call may have come before its thread could see the flag
                return
            self._woken = True
        while self._inbox:
            request, answer = self._inbox.popleft()
            self._collector.collect(request).addCallbacks(
                self._stored, self._not_stored, (request, answer), {}, (request, answer)
            )
        self._reactor.callLater(_PAUSE, self._collect)

    def _stored(self, _: None, request: CollectRequest, answer: Answer) -> None:
        self._respond(answer, success(request.guid, self._seconds()))

    def _not_stored(self, error: Failure, request: CollectRequest, answer: Answer) -> None:
        cause = failure_value(error)
        if isinstance(cause, Overloaded):
            answer.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(cause))
            return
        reason = f"cannot publish events: {cause}"
        self._respond(answer, failure(CODE_INTERNAL_ERROR, reason, self._seconds(), request.guid))

    def _respond(self, answer: Answer, response: Response) -> None:
        answer.send(self._codec.serializer.serialize(response))


def _text(value: str | bytes | None) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
