"""The one way from a protocol to the collector, and the one table of what a client is answered.

The steps of a request: identify the client, decode the body, collect, answer. `Intake.take` does
them all; a protocol that identifies a client once, or decodes in threads of its own, calls them one
by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.logger import Logger
from twisted.python.failure import Failure

from raccoon.errors import BadRequestError, Overloaded, PublishError, UnidentifiedError
from raccoon.identification import Identification
from raccoon.interfaces import ICollector, IDeserializer, IMetrics, ISerializer
from raccoon.logs import Throttle
from raccoon.messages import (
    CODE_BAD_REQUEST,
    CODE_INTERNAL_ERROR,
    CODE_OK,
    Identifier,
    Response,
    failure,
    success,
)
from raccoon.metrics.rx import count_rejected, count_request
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor


class Answer(NamedTuple):
    """What became of a request, as each protocol says it.

    Attributes:
        http_status: of an HTTP answer.
        code: of the response.
        reason: of the response; {} is the cause.
        grpc_status: name of the status that ends a unary call. Empty: the call ends with the
            response, as clients use a nil response after any error status.
        retry: whether the client is to send the same again after a while.
        names_guid: whether the response's data has the req_guid.
    """

    http_status: int
    code: int
    reason: str = ""
    grpc_status: str = ""
    retry: bool = False
    names_guid: bool = True


STORED = Answer(200, CODE_OK)
OVERLOADED = Answer(503, CODE_INTERNAL_ERROR, "{}", retry=True)
PUBLISH_FAILED = Answer(500, CODE_INTERNAL_ERROR, "cannot publish events: {}")
UNDELIVERABLE = Answer(400, CODE_BAD_REQUEST, "cannot publish events, do not retry: {}")
UNDECODABLE = Answer(400, CODE_BAD_REQUEST, "cannot deserialize request: {}")
UNDECODABLE_BY_REST = Answer(400, CODE_BAD_REQUEST, "deserialization failure: {}", names_guid=False)
UNIDENTIFIED = Answer(400, CODE_BAD_REQUEST, "{}", grpc_status="INVALID_ARGUMENT")
UNKNOWN_CONTENT_TYPE = Answer(400, CODE_BAD_REQUEST, "invalid content type", names_guid=False)
TOO_SLOW = Answer(408, CODE_BAD_REQUEST, "{}", names_guid=False)
TOO_LARGE = Answer(413, CODE_BAD_REQUEST, "{}", names_guid=False)
FAULT = Answer(500, CODE_INTERNAL_ERROR, "the server failed to handle this request")


class Codec(NamedTuple):
    """Both directions of one encoding."""

    deserializer: IDeserializer
    serializer: ISerializer


class Arrival(NamedTuple):
    """A request as a protocol received it.

    Attributes:
        content_type: the Content-Type as it was sent, or empty.
        client: the value of the header with the client's id, or None.
        group: that of the header with its group, or None.
        body: the request's body.
    """

    content_type: bytes
    client: str | None
    group: str | None
    body: bytes


# Called once for each request: what became of it, the response, the request where it could be
# decoded, and the context that the protocol gave.
Respond = Callable[[Answer, Response, CollectRequest | None, Any], None]


class Intake:
    """Takes the requests of one protocol.

    Each request is answered once, whatever happens on its way: a fault of ours is logged, counted
    and answered as one.

    Args:
        protocol: its name in the log.
        collector: where requests go; touched in the reactor's thread only.
        identification: reads the client's id and group.
        metrics: counts what was read.
        seconds: the wall clock.
        supervisor: is told of faults.
        undecodable: the answer to a body that cannot be decoded.
        requires_id: whether a client without an id is refused.
    """

    _logger = Logger()

    def __init__(
        self,
        protocol: str,
        collector: ICollector,
        identification: Identification,
        metrics: IMetrics,
        seconds: Callable[[], float],
        supervisor: Supervisor,
        undecodable: Answer = UNDECODABLE,
        requires_id: bool = False,
    ) -> None:
        self._protocol = protocol
        self._collector = collector
        self._identification = identification
        self._metrics = metrics
        self._seconds = seconds
        self._supervisor = supervisor
        self._undecodable = undecodable
        self._requires_id = requires_id
        self._throttle = Throttle(self._logger, seconds)
        self.when_room = collector.when_room

    def take(self, arrival: Arrival, codec: Codec, respond: Respond, context: Any = None) -> None:
        """All steps, in the reactor's thread."""
        request = self.read(arrival, codec, respond, context)
        if request is not None:
            self.collect(request, respond, context)

    def read(
        self, arrival: Arrival, codec: Codec, respond: Respond, context: Any = None
    ) -> CollectRequest | None:
        """Identify the client and decode the body, in any thread.

        Returns:
            The request, for `collect`; None where it was refused and is answered.
        """
        try:
            identifier = self.identify(arrival.client, arrival.group)
        except UnidentifiedError as error:
            self._refuse(UNIDENTIFIED, error, "NA", respond, context)
            return None
        except BadRequestError as error:
            self._refuse(self._undecodable, error, "NA", respond, context)
            return None
        return self.decode(identifier, codec, arrival.body, respond, context)

    def identify(self, client: str | None, group: str | None) -> Identifier:
        """Who a client is that sent these values of the two headers (None: no such header).

        Raises:
            UnidentifiedError: the protocol requires an id, and there is none.
            BadRequestError: a value cannot be an id or a group.
        """
        if self._requires_id and client is None:
            raise UnidentifiedError("connection id header missing")
        return self._identification.identifier(client, group)

    def decode(
        self, identifier: Identifier, codec: Codec, body: bytes, respond: Respond, context: Any
    ) -> CollectRequest | None:
        """Decode a body of a client that is known, in any thread; see `read`."""
        received_at = self._seconds()
        try:
            batch = codec.deserializer.deserialize(body)
            return CollectRequest(identifier, batch, received_at)
        except BadRequestError as error:
            self._refuse(self._undecodable, error, identifier.group, respond, context)
        except Exception as error:
            self._failed("decoding", error, respond, context)
        return None

    def collect(self, request: CollectRequest, respond: Respond, context: Any = None) -> None:
        """Hand a request to the collector, and answer when it says so; in the reactor's thread."""
        try:
            count_request(self._metrics, request)
            collected = self._collector.collect(request)
        except Exception as error:
            events = len(request.types)
            self._supervisor.call("counting", self._metrics.count, "events_failed_total", events)
            self._failed("collecting", error, respond, context, request)
            return
        passed = (request, respond, context)
        collected.addCallbacks(self._stored, self._not_stored, passed, {}, passed)

    def refuse(
        self, answer: Answer, reason: str, cause: object, respond: Respond, context: Any = None
    ) -> None:
        """Answer a request that is refused before it is read.

        Args:
            answer: a row of the table.
            reason: of batches_read_total.
            cause: for the client and the log.
            respond: takes the answer.
            context: for `respond`.
        """
        count_rejected(self._metrics, reason, "NA")
        if answer.retry:
            self._metrics.count("requests_refused_total", 1, ("arriving",))
        self._warn(cause, "NA")
        self._respond(answer, cause, "", None, respond, context)

    def _refuse(
        self, answer: Answer, error: BadRequestError, group: str, respond: Respond, context: Any
    ) -> None:
        count_rejected(self._metrics, "serde", group)
        self._warn(error, group)
        self._respond(answer, error, error.guid, None, respond, context)

    def _stored(self, _: None, request: CollectRequest, respond: Respond, context: Any) -> None:
        try:
            respond(STORED, success(request.guid, self._seconds()), request, context)
        except Exception as error:
            self._failed("answering", error, respond, context, request)

    def _not_stored(
        self, collected: Failure, request: CollectRequest, respond: Respond, context: Any
    ) -> None:
        error: Any = collected.value
        if isinstance(error, Overloaded):
            answer = OVERLOADED
        elif not isinstance(error, PublishError):
            self._failed("collecting", error, respond, context, request)
            return
        elif error.lasting:
            answer = UNDELIVERABLE
        else:
            answer = PUBLISH_FAILED
        self._respond(answer, error, request.guid, request, respond, context)

    def _failed(
        self,
        step: str,
        error: BaseException,
        respond: Respond,
        context: Any,
        request: CollectRequest | None = None,
    ) -> None:
        """A fault of ours: the client is told that there was one."""
        self._supervisor.failed(f"{step} a request", error)
        guid = "" if request is None else request.guid
        self._respond(FAULT, "", guid, request, respond, context)

    def _respond(
        self,
        answer: Answer,
        cause: object,
        guid: str,
        request: CollectRequest | None,
        respond: Respond,
        context: Any,
    ) -> None:
        reason = answer.reason.format(cause)
        named = guid if answer.names_guid else None
        response = failure(answer.code, reason, self._seconds(), named)
        self._supervisor.call("refusing a request", respond, answer, response, request, context)

    def _warn(self, cause: object, group: str) -> None:
        self._throttle.warn(
            "{protocol} request refused: {reason}",
            protocol=self._protocol,
            reason=str(cause),
            group=group,
        )
