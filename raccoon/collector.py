"""Admission of requests into the queue, and the acknowledgement levels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall
from zope.interface import implementer

from raccoon.config import EventSettings, WorkerSettings
from raccoon.errors import Overloaded, PublishError
from raccoon.interfaces import (
    ICollector,
    IJournal,
    IMetrics,
    IPublisher,
    IRejectingPublisher,
)
from raccoon.queue import RequestQueue
from raccoon.request import CollectRequest, Requests
from raccoon.supervision import Supervisor

# A client that was held back goes on when this part of the queue is free again.
_ROOM = 0.5
# So many of them in a turn of the reactor: what they send is to be seen before others go on.
_WOKEN_AT_ONCE = 16
# Stop gathering when the queue holds this share of its capacity (of a group, if the queue is
# unbounded), a full group, or a batch's worth in several requests.
_ENOUGH = 0.25


@implementer(ICollector)
class Collector:
    """Admits requests into the queue and fires their acknowledgements.

    Args:
        worker: bounds of the queue, in requests and bytes.
        event: the acknowledgement level.
        metrics: counts what is refused.
        reactor: gives time.
        supervisor: is told of faults.
        journal: keeps requests on disk, or None.
        publisher: may know of events that it cannot deliver; or None.
    """

    def __init__(
        self,
        worker: WorkerSettings,
        event: EventSettings,
        metrics: IMetrics,
        reactor: Any,
        supervisor: Supervisor,
        journal: IJournal | None = None,
        publisher: IPublisher | None = None,
    ) -> None:
        # What is on disk as well is bounded in memory by its bytes alone.
        journaled = event.ack == 2
        self._max_waiting = inf if journaled else worker.buffer_channel_size
        whole = worker.group_max_requests if journaled else worker.buffer_channel_size
        self.queue = RequestQueue(min(int(whole * _ENOUGH), worker.group_max_requests - 1))
        self._ack_level = event.ack
        self._max_bytes = worker.buffer_max_bytes
        self._metrics = metrics
        self._reactor = reactor
        self._seconds = reactor.seconds
        self._supervisor = supervisor
        self._journal = journal
        self._rejecting: Any = None
        if journaled and IRejectingPublisher.providedBy(publisher):
            self._rejecting = publisher
        self._room_waiters: OrderedDict[object, Callable[[], None]] = OrderedDict()
        self._waking: IDelayedCall | None = None
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
        if self._ack_level == 2:
            return self._collect_to_journal(request)
        if self._closed or not self._fits(request):
            if self._ack_level == 0 and self._journal is not None:
                return self._collect_to_journal(request)
            return self._refuse(request, "overloaded")
        if self._ack_level == 0:
            self._admit(request)
            return succeed(None)
        acknowledged = request.acknowledged = Deferred[None]()
        self._admit(request)
        return acknowledged

    def readmit(self, requests: Requests) -> None:
        """Put requests into the queue that the journal brings back."""
        self.unsettled_bytes += requests.size
        self.unsettled_requests += len(requests.each)
        self.unsettled_events += requests.events
        self.queue.put_all(requests)

    def delivered(self, requests: Sequence[CollectRequest]) -> int:
        """Requests that were admitted were delivered; gives how many events they hold."""
        events = self._settled(requests)
        if self._journal is not None:
            kept = [request for request in requests if request.entry is not None]
            self._supervisor.call("noting deliveries", self._journal.delivered, kept)
        for request in requests:
            acknowledged, request.acknowledged = request.acknowledged, None
            if acknowledged is not None:
                acknowledged.callback(None)
        self._tell_waiters()
        return events

    def failed(self, request: CollectRequest, error: PublishError) -> tuple[int, int]:
        """Of a request that was admitted not all was delivered.

        Returns:
            How many of its events were delivered, and how many failed for good. Those that the
            journal keeps are neither.
        """
        events = self._settled([request])
        delivered = None
        if self._journal is not None:
            retain = self._journal.retain
            delivered = self._supervisor.call("keeping a failed request", retain, request, error)
        if delivered is not None:
            outcome = delivered, 0
            if self._ack_level == 1:
                self._tell(request, error)
        else:
            failed = min(error.failed, events)
            outcome = (events - failed, failed)
            self._tell(request, error)
        self._tell_waiters()
        return outcome

    def close(self) -> None:
        """Refuse every further request: nobody would publish it."""
        self._closed = True
        self._room_waiters.clear()
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None

    def when_room(self, resume: Callable[[], None]) -> Callable[[], None]:
        """Call `resume` once when half of the queue is free again, which may be now.

        At level 2 it is now: a disk may be full for hours, and each request is told so. Those that
        wait are called in the order in which they came, a few in each turn of the reactor.

        Returns:
            Forgets `resume`, for a client that is gone; from any thread.
        """
        if self._ack_level == 2 or (not self._room_waiters and self._has_room()):
            resume()
            return _nothing
        waiter = object()
        self._room_waiters[waiter] = resume

        def forget() -> None:
            self._room_waiters.pop(waiter, None)

        return forget

    def when_idle(self) -> Deferred[None]:
        """Fires when nothing that was admitted is unsettled."""
        if not self.unsettled_requests:
            return succeed(None)
        waiter: Deferred[None] = Deferred(self._idle_waiters.remove)
        self._idle_waiters.append(waiter)
        return waiter

    @property
    def waiting_events(self) -> int:
        """Events that were accepted, and are neither settled nor on disk alone."""
        journal = self._journal
        return self.unsettled_events + (journal.in_transit_events if journal else 0)

    def waiting(self) -> int:
        """Requests in the queue."""
        return len(self.queue.pending)

    def fullness(self) -> float:
        """How much of what may be kept is kept, from 0 to 1; see `_taken`."""
        waiting, used = self._taken()
        return max(waiting / self._max_waiting, used / self._max_bytes)

    def _admit(self, request: CollectRequest) -> None:
        self.unsettled_bytes += request.size
        self.unsettled_requests += 1
        self.unsettled_events += len(request.types)
        request.queued_at = self._seconds()
        self.queue.put(request)

    def _settled(self, requests: Sequence[CollectRequest]) -> int:
        events = sum([len(request.types) for request in requests])
        self.unsettled_bytes -= sum([request.size for request in requests])
        self.unsettled_requests -= len(requests)
        self.unsettled_events -= events
        return events

    def _tell_waiters(self) -> None:
        if self._room_waiters and self._waking is None and self._has_room():
            self._wake()
        if not self.unsettled_requests and self._idle_waiters:
            idle, self._idle_waiters = self._idle_waiters, []
            for waiter in idle:
                waiter.callback(None)

    def _wake(self) -> None:
        """Have the first of those that wait go on, as long as there is room."""
        self._waking = None
        for _ in range(_WOKEN_AT_ONCE):
            if not self._room_waiters or not self._has_room():
                return
            _, resume = self._room_waiters.popitem(last=False)
            self._supervisor.call("going on after an overload", resume)
        if self._room_waiters:
            self._waking = self._reactor.callLater(0, self._wake)

    def _has_room(self) -> bool:
        return self._ack_level == 2 or self.fullness() <= _ROOM

    def _fits(self, request: CollectRequest) -> bool:
        waiting, used = self._taken()
        return waiting < self._max_waiting and used + request.size <= self._max_bytes

    def _taken(self) -> tuple[int, int]:
        """Requests in the queue, or fewer, and bytes in memory, but for what came back from disk.

        That has bounds of its own, and takes none of the room of what comes. Some of it may have
        left the queue: as many more may wait there.
        """
        waiting, used = len(self.queue.pending), self.unsettled_bytes
        journal = self._journal
        if journal is None or not journal.returned_requests:
            return waiting, used
        return max(waiting - journal.returned_requests, 0), used - journal.returned_bytes

    def _collect_to_journal(self, request: CollectRequest) -> Deferred[None]:
        journal = self._journal
        assert journal is not None
        if self._closed:
            return self._refuse(request, "overloaded")
        if self._rejecting is not None and (whys := _rejections(self._rejecting, request)):
            return self._reject(request, whys, lasting=True)
        reason = journal.refusal(request.size)
        if reason is not None:
            return self._refuse(request, "journal", reason)
        acknowledged: Deferred[None] = Deferred()
        request.acknowledged = acknowledged
        in_memory = self._fits(request) and request.size <= journal.memory_left(self._taken()[1])
        try:
            journal.add(request, in_memory)
        except Exception as error:
            request.acknowledged = None
            return self._reject(request, [f"the journal cannot store it: {error}"])
        if in_memory:
            self._admit(request)
        return acknowledged

    def _refuse(self, request: CollectRequest, label: str, reason: str = "") -> Deferred[None]:
        self._metrics.count("requests_refused_total", 1, (label,))
        self._metrics.count("events_refused_total", len(request.types), (label,))
        return fail(Overloaded(reason))

    def _reject(
        self, request: CollectRequest, reasons: Sequence[str], lasting: bool = False
    ) -> Deferred[None]:
        """Fail a request of which nothing was kept."""
        events = len(request.types)
        self._metrics.count("events_failed_total", events)
        failed = {kind: len(payloads) for kind, payloads in request.by_type.items()}
        error = PublishError(events, events, reasons, failed if lasting else None)
        if request.on_failed is not None:
            request.on_failed(error)
        return fail(error)

    def _tell(self, request: CollectRequest, error: PublishError) -> None:
        if request.on_failed is not None:
            request.on_failed(error)
        acknowledged, request.acknowledged = request.acknowledged, None
        if acknowledged is not None:
            acknowledged.errback(error)


def _rejections(publisher: Any, request: CollectRequest) -> list[str]:
    """Why the events of some types can never be delivered; empty: all may be."""
    return [why for kind in request.by_type if (why := publisher.rejection(kind)) is not None]


def _nothing() -> None:
    """Nobody waits."""
