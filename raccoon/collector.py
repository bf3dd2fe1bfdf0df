"""Admission of requests, the bounded queue they wait in, and the acknowledgement levels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredQueue, fail, succeed
from zope.interface import implementer

from raccoon.config import EVENT_OVERHEAD, REQUEST_OVERHEAD, EventSettings, WorkerSettings
from raccoon.errors import Overloaded, PublishError
from raccoon.identification import Identifier
from raccoon.interfaces import ICollector, IMetrics

# A client that was held back goes on when this part of the queue is free again.
_ROOM = 0.5


class CollectRequest:
    """One batch of events as it came from a client.

    Attributes:
        identifier: the client.
        guid: the client's req_guid.
        sent_time: Unix seconds by the client's clock, or None.
        types: each event's type, in order.
        payloads: each event's bytes, in order.
        received_at: Unix seconds when it was read.
        queued_at: Unix seconds when it was admitted.
        published_at: Unix seconds when it was published; None before.
        size: bytes of memory it is charged with.
        on_failed: called with the PublishError if the request is not delivered, whatever the
            acknowledgement level answered.
    """

    __slots__ = (
        "acknowledged",
        "guid",
        "identifier",
        "on_failed",
        "payloads",
        "published_at",
        "queued_at",
        "received_at",
        "sent_time",
        "size",
        "types",
    )

    def __init__(
        self,
        identifier: Identifier,
        guid: str,
        sent_time: float | None,
        types: list[str],
        payloads: list[bytes],
        received_at: float,
        on_failed: Callable[[PublishError], None] | None = None,
    ) -> None:
        self.identifier = identifier
        self.guid = guid
        self.sent_time = sent_time
        self.types = types
        self.payloads = payloads
        self.received_at = received_at
        self.queued_at = received_at
        self.published_at: float | None = None
        self.size = REQUEST_OVERHEAD + EVENT_OVERHEAD * len(types) + sum(map(len, payloads))
        self.on_failed = on_failed
        self.acknowledged: Deferred[None] | None = None


class RequestQueue(DeferredQueue[CollectRequest]):
    """A DeferredQueue from which many can be taken at once."""

    def take(self, count: int) -> list[CollectRequest]:
        """Remove and return up to `count` of what waits, oldest first."""
        taken = self.pending[:count]
        del self.pending[:count]
        return taken


@implementer(ICollector)
class Collector:
    """Admits requests into the queue and fires their acknowledgements.

    Args:
        worker: bounds of the queue, in requests and bytes.
        event: the acknowledgement level.
        metrics: counts what is refused.
        seconds: the clock, in Unix seconds.
    """

    def __init__(
        self,
        worker: WorkerSettings,
        event: EventSettings,
        metrics: IMetrics,
        seconds: Callable[[], float],
    ) -> None:
        self.queue = RequestQueue()
        self._ack_level = event.ack
        self._max_waiting = worker.buffer_channel_size
        self._max_bytes = worker.buffer_max_bytes
        self._metrics = metrics
        self._seconds = seconds
        self._room_waiters: list[Callable[[], None]] = []
        self._idle_waiters: list[Deferred[None]] = []
        self._closed = False
        self.unsettled_bytes = 0
        self.unsettled_requests = 0
        self.unsettled_events = 0

    def collect(self, request: CollectRequest) -> Deferred[None]:
        """Take responsibility for a request.

        Returns:
            Fires with None when the acknowledgement level is reached. Fails with Overloaded
            (nothing was kept) or with PublishError (which events, and why).
        """
        if not request.types:
            return succeed(None)
        if (
            self._closed
            or len(self.queue.pending) >= self._max_waiting
            or self.unsettled_bytes + request.size > self._max_bytes
        ):
            self._metrics.count("requests_refused_total", 1, ("overloaded",))
            self._metrics.count("events_refused_total", len(request.types), ("overloaded",))
            return fail(Overloaded())
        self.unsettled_bytes += request.size
        self.unsettled_requests += 1
        self.unsettled_events += len(request.types)
        request.queued_at = self._seconds()
        if self._ack_level == 0:
            self.queue.put(request)
            return succeed(None)
        acknowledged: Deferred[None] = Deferred()
        request.acknowledged = acknowledged
        self.queue.put(request)
        return acknowledged

    def settle(self, request: CollectRequest, error: PublishError | None) -> None:
        """Record the outcome of a request that was admitted; each is settled once."""
        self.unsettled_bytes -= request.size
        self.unsettled_requests -= 1
        self.unsettled_events -= len(request.types)
        if error is not None and request.on_failed is not None:
            request.on_failed(error)
        acknowledged = request.acknowledged
        if acknowledged is not None:
            if error is None:
                acknowledged.callback(None)
            else:
                acknowledged.errback(error)
        if self._room_waiters and self._has_room():
            waiters, self._room_waiters = self._room_waiters, []
            for resume in waiters:
                resume()
        if not self.unsettled_requests and self._idle_waiters:
            idle, self._idle_waiters = self._idle_waiters, []
            for waiter in idle:
                waiter.callback(None)

    def close(self) -> None:
        """Refuse every further request: nobody would publish it."""
        self._closed = True

    def when_room(self, resume: Callable[[], None]) -> None:
        """Call `resume` once when half of the queue is free again, which may be now."""
        if self._has_room():
            resume()
        else:
            self._room_waiters.append(resume)

    def when_idle(self) -> Deferred[None]:
        """Fires when nothing that was admitted is unsettled."""
        if not self.unsettled_requests:
            return succeed(None)
        waiter: Deferred[None] = Deferred(self._idle_waiters.remove)
        self._idle_waiters.append(waiter)
        return waiter

    def fullness(self) -> float:
        """How much of what may be kept is kept, from 0 to 1."""
        return max(
            len(self.queue.pending) / self._max_waiting, self.unsettled_bytes / self._max_bytes
        )

    def _has_room(self) -> bool:
        return self.fullness() <= _ROOM


def failure_value(failure: Any) -> Overloaded | PublishError:
    """The error of a failed `collect`, by its contract one of these two."""
    error = failure.value
    assert isinstance(error, (Overloaded, PublishError)), error
    return error
