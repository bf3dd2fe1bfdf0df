"""EventService in gRPC's threads: decodes there, hands over to the reactor, waits, answers."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger
from twisted.python.failure import Failure

from raccoon.collector import CollectRequest, failure_value
from raccoon.errors import BadRequest, Overloaded
from raccoon.identification import Identification
from raccoon.interfaces import ICollector, IMetrics
from raccoon.logs import Throttle
from raccoon.metrics.rx import count_rejected, count_request
from raccoon.serialization import CODE_INTERNAL_ERROR, failure, success
from raccoon.service.rest.resource import Codec

SERVICE = "raystack.raccoon.v1beta1.EventService"


class _Call:
    """One RPC: the thread that serves it waits on `answered` until the reactor has the outcome."""

    __slots__ = ("answered", "error", "request")

    def __init__(self, request: CollectRequest) -> None:
        self.request = request
        self.error: Exception | None = None
        self.answered = threading.Lock()
        self.answered.acquire()

    def succeed(self, _: None) -> None:
        self.answered.release()

    def fail(self, failed: Failure) -> None:
        self.error = failure_value(failed)
        self.answered.release()


class EventServicer:
    """Serves SendEvent.

    Args:
        reactor: takes calls from threads.
        collector: where requests go; touched in the reactor thread only.
        protobuf: the codec.
        identification: reads the client's id and group.
        metrics: counts.
        seconds: the clock, in Unix seconds.
    """

    _logger = Logger()

    def __init__(
        self,
        reactor: IReactorFromThreads,
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
        self._inbox: deque[_Call] = deque()
        self._woken = False

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service for a grpc.Server, on bytes: the codec is ours."""
        method = grpc.unary_unary_rpc_method_handler(self.send_event)
        handler: grpc.GenericRpcHandler = grpc.method_handlers_generic_handler(
            SERVICE, {"SendEvent": method}
        )
        return handler

    def send_event(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        """One request of events, in a thread of gRPC's pool."""
        request = self._decode(body, context)
        call = _Call(request)
        self._hand_over(call)
        remaining = context.time_remaining()
        if not call.answered.acquire(timeout=-1 if remaining is None else max(remaining, 0)):
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the client's deadline passed")
        now = self._seconds()
        if call.error is None:
            answer = success(request.guid, now)
        elif isinstance(call.error, Overloaded):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(call.error))
        else:
            reason = f"cannot publish events: {call.error}"
            answer = failure(CODE_INTERNAL_ERROR, reason, now, request.guid)
        encoded: bytes = self._codec.serializer.serialize(answer)
        return encoded

    def _decode(self, body: bytes, context: grpc.ServicerContext) -> CollectRequest:
        identification = self._identification
        received_at = self._seconds()
        found: dict[str, Any] = {}
        for key, value in context.invocation_metadata():
            found.setdefault(key, value)
        try:
            if identification.id_header not in found:
                raise BadRequest("connection id header missing")
            identifier = identification.identifier(
                _text(found[identification.id_header]),
                _text(found.get(identification.group_header)),
            )
            batch = self._codec.deserializer.deserialize(body)
        except BadRequest as error:
            count_rejected(self._metrics, "serde", "NA")
            self._throttle.warn("gRPC request refused: {reason}", reason=str(error))
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise AssertionError("abort raises") from None
        count_request(self._metrics, identifier.group, batch)
        return CollectRequest(
            identifier, batch.guid, batch.sent_time, batch.types, batch.payloads, received_at
        )

    def _hand_over(self, call: _Call) -> None:
        """Put a call before the reactor, waking it once for all that come meanwhile."""
        self._inbox.append(call)
        if not self._woken:
            self._woken = True
            self._reactor.callFromThread(self._collect)

    def _collect(self) -> None:
        """In the reactor thread: collect all that the threads have put down."""
        self._woken = False
        while self._inbox:
            call = self._inbox.popleft()
            self._collector.collect(call.request).addCallbacks(call.succeed, call.fail)


def _text(value: str | bytes | None) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
