"""EventService: decodes in gRPC's threads, hands over to the reactor, answers from there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import grpc
from twisted.logger import Logger
from twisted.python.failure import Failure

from raccoon.collector import failure_value
from raccoon.errors import BadRequestError, Overloaded
from raccoon.identification import Identification
from raccoon.interfaces import ICollector, IMetrics
from raccoon.logs import Throttle
from raccoon.messages import CODE_INTERNAL_ERROR, Identifier, Response, failure, success
from raccoon.metrics.rx import count_rejected, count_request
from raccoon.request import CollectRequest
from raccoon.service.grpc.inbox import Inbox
from raccoon.service.rest.resource import Codec

SERVICE = "raystack.raccoon.v1beta1.EventService"
METHOD = "SendEvent"

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
        inbox: the way to the reactor.
        collector: where requests go; touched in the reactor thread only.
        protobuf: the codec.
        identification: reads the client's id and group.
        metrics: counts.
        seconds: the clock, in Unix seconds.
    """

    _logger = Logger()

    def __init__(
        self,
        inbox: Inbox,
        collector: ICollector,
        protobuf: Codec,
        identification: Identification,
        metrics: IMetrics,
        seconds: Callable[[], float],
    ) -> None:
        self._inbox = inbox
        self._collector = collector
        self._codec = protobuf
        self._identification = identification
        self._metrics = metrics
        self._seconds = seconds
        self._throttle = Throttle(self._logger, seconds)

    def send_event(self, body: bytes, metadata: Metadata, answer: Answer) -> None:
        """Take one request, in a thread of gRPC; `answer` is used now or later.

        Args:
            body: a protobuf SendEventRequest.
            metadata: the call's, keys in lower case.
            answer: where the outcome goes.
        """
        with self._inbox:
            try:
                request = self._decode(body, metadata)
            except BadRequestError as error:
                count_rejected(self._metrics, "serde", "NA")
                self._throttle.warn("gRPC request refused: {reason}", reason=str(error))
                answer.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            else:
                self._inbox.put(self._collect, request, answer)

    def _decode(self, body: bytes, metadata: Metadata) -> CollectRequest:
        received_at = self._seconds()
        identifier = identify(self._identification, metadata)
        batch = self._codec.deserializer.deserialize(body)
        return CollectRequest(identifier, batch, received_at)

    def _collect(self, request: CollectRequest, answer: Answer) -> None:
        # Not in gRPC's thread: between the two a scrape would see it nowhere else.
        count_request(self._metrics, request)
        self._collector.collect(request).addCallbacks(
            self._stored, self._not_stored, (request, answer), {}, (request, answer)
        )

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


def identify(identification: Identification, metadata: Metadata) -> Identifier:
    """Who a call's client is.

    Raises:
        BadRequestError: there is no id, or it cannot be one.
    """
    values: dict[str, Any] = {}
    for key, value in metadata:
        values.setdefault(key, value)
    if identification.id_header not in values:
        raise BadRequestError("connection id header missing")
    return identification.identifier(
        _text(values[identification.id_header]), _text(values.get(identification.group_header))
    )


def _text(value: str | bytes | None) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
