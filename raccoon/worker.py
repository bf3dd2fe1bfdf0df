"""Takes what waits in the queue, in groups, and has the publisher deliver it in threads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    TimeoutError,
    inlineCallbacks,
    maybeDeferred,
    succeed,
)
from twisted.internet.interfaces import IDelayedCall, IReactorFromThreads
from twisted.logger import Logger
from twisted.python.failure import Failure

from raccoon.collector import Collector
from raccoon.config import WorkerSettings
from raccoon.errors import PublishError
from raccoon.interfaces import ILingeringPublisher, IMetrics, IPublisher, Outcome
from raccoon.logs import Throttle
from raccoon.metrics.names import METRICS
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor

_NAMES = frozenset(metric.name for metric in METRICS)

# Seconds between two groups of a publisher that says nothing of it.
_LINGER = 0.001
_STOPPING = "the server is shutting down"
# After a fault the loop begins anew.
_RESTART_SECONDS = 0.1
# As the supervisor names them.
_LOOP, _METRICS, _SETTLING = "the worker", "the worker's metrics", "settling a group"

PublishInThread = Callable[[Sequence[CollectRequest]], Deferred[Sequence[Outcome]]]


class Slots:
    """Bounds the publishes that are under way; each has a name.

    Args:
        size: names.
        most: how many of them may be taken now.
    """

    def __init__(self, size: int, most: Callable[[], int]) -> None:
        self._size = size
        self._most = most
        self._free = [f"worker-{i}" for i in range(size)]
        self._waiter: Deferred[str] | None = None

    def acquire(self) -> Deferred[str]:
        """Fires with a name, to be given back by `release`; one may wait for it at a time."""
        if self._may_take():
            return succeed(self._free.pop())
        self._waiter = Deferred(self._no_longer)
        return self._waiter

    def release(self, name: str) -> None:
        """Give a name back."""
        self._free.append(name)
        if self._waiter is not None and self._may_take():
            waiter, self._waiter = self._waiter, None
            waiter.callback(self._free.pop())

    def _may_take(self) -> bool:
        taken = self._size - len(self._free)
        return taken < min(self._size, max(self._most(), 1))

    def _no_longer(self, _: Any) -> None:
        self._waiter = None


class WorkerService(Service):
    """One loop over the queue, up to `pool_size` publishes in flight.

    A request that comes alone is published at the end of the reactor's turn. Under load the next
    group waits until the publisher's linger is over or enough has come, and is all that came, up
    to `group_max_requests` and to what the publisher sends at once: a thread hop for each request
    would cost more than the request.

    Args:
        reactor: gives time and takes calls from threads.
        collector: whose queue is emptied, and who is told each outcome.
        publish: runs the publisher's `publish` in its pool.
        publisher: named in metrics.
        settings: pool and group sizes.
        metrics: durations and outcomes.
        supervisor: is told of faults.
    """

    _logger = Logger()

    def __init__(
        self,
        reactor: Any,
        collector: Collector,
        publish: PublishInThread,
        publisher: IPublisher,
        settings: WorkerSettings,
        metrics: IMetrics,
        supervisor: Supervisor,
    ) -> None:
        self._reactor = reactor
        self._supervisor = supervisor
        self._collector = collector
        self._publish = publish
        self._group_max = settings.group_max_requests
        self._linger, self._enough_bytes = _LINGER, settings.buffer_max_bytes // 2
        self._group_bytes: int | None = None
        self._slots = Slots(settings.pool_size, lambda: settings.pool_size)
        if ILingeringPublisher.providedBy(publisher):
            lingering: Any = publisher
            self._linger = lingering.linger
            self._enough_bytes = min(lingering.enough_bytes, self._enough_bytes)
            self._group_bytes = lingering.group_bytes
            self._slots = Slots(settings.pool_size, lambda: lingering.parallel)
        self._metrics = metrics
        named = f"{publisher.name}_producebulk_tt_ms"
        self._publish_metric = named if named in _NAMES else "other_producebulk_tt_ms"
        self._loop: Deferred[None] | None = None
        self._restart: IDelayedCall | None = None
        self._launched_at = 0.0
        self.failed_events = 0
        self._throttle = Throttle(self._logger, reactor.seconds)

    def startService(self) -> None:
        """Begin to take requests."""
        super().startService()
        self._begin()

    def _begin(self) -> None:
        self._restart = None
        self._loop = self._run()
        self._loop.addErrback(self._loop_failed)

    @inlineCallbacks
    def drain(self, timeout: float) -> Any:
        """Let everything admitted be published; past `timeout` seconds, stop taking.

        Returns:
            Fires with the number of events that were never handed to the publisher. Their
            requests fail; those under way go on until the publisher is closed.
        """
        with suppress(TimeoutError):
            yield self._collector.when_idle().addTimeout(timeout, self._reactor)
        self._collector.close()
        self.stopService()
        abandoned = self._collector.queue.take(len(self._collector.queue.pending))
        self._settle(_each_failed(abandoned, _STOPPING), self._reactor.seconds())
        return sum(len(request.types) for request in abandoned)

    def stopService(self) -> None:
        """Take nothing more; `drain` is the orderly way."""
        super().stopService()
        if self._restart is not None:
            self._restart.cancel()
            self._restart = None
        if self._loop is not None:
            self._loop.cancel()
            self._loop = None

    @inlineCallbacks
    def _run(self) -> Any:
        queue = self._collector.queue
        while True:
            slot = yield self._slots.acquire()
            group: list[CollectRequest] = []
            try:
                group.append((yield queue.get()))
                yield self._company()
                group += self._more(group[0])
            except CancelledError:
                self._slots.release(slot)
                if group:
                    queue.put_back(group[0])
                raise
            except Exception as error:
                self._slots.release(slot)
                self._settle(_each_failed(group, str(error)), self._reactor.seconds())
                raise
            self._launch(group, slot)
            self._supervisor.loop_succeeded(_LOOP)

    def _more(self, first: CollectRequest) -> list[CollectRequest]:
        """What goes together with a request."""
        room = None if self._group_bytes is None else self._group_bytes - first.batch_bytes
        return self._collector.queue.take(self._group_max - 1, room)

    def _company(self) -> Deferred[None]:
        """Fires at the end of the reactor's turn in which the next group need not wait for more."""
        queue = self._collector.queue

        def cancel(_: Any) -> None:
            queue.when_enough(0, None)
            over.cancel()

        def company() -> None:
            queue.when_enough(0, None)
            waited.callback(None)

        waited: Deferred[None] = Deferred(cancel)
        since = max(self._reactor.seconds() - self._launched_at, 0)  # clocks are set back
        over = self._reactor.callLater(max(self._linger - since, 0), company)

        def at_once() -> None:
            nonlocal over
            # Not `reset`, which looks through all of the reactor's timers.
            over.cancel()
            over = self._reactor.callLater(0, company)

        queue.when_enough(self._enough_bytes, at_once)
        return waited

    def _launch(self, group: list[CollectRequest], slot: str) -> None:
        started = self._launched_at = self._reactor.seconds()
        waited = [(started - request.queued_at) * 1000 for request in group]
        self._observe("batch_idle_in_channel_milliseconds", waited, slot)
        done = maybeDeferred(self._publish, group)
        done.addCallback(_one_outcome_each, group)
        done.addErrback(self._publisher_raised, group)
        done.addCallback(self._published, group, slot, started)
        done.addErrback(self._settling_failed, group)

    def _publisher_raised(self, failure: Failure, group: list[CollectRequest]) -> Sequence[Outcome]:
        self._logger.failure("the publisher raised", failure=failure)
        return [_all_failed(request, failure.getErrorMessage()) for request in group]

    def _published(
        self, outcomes: Sequence[Outcome], group: list[CollectRequest], slot: str, started: float
    ) -> None:
        self._slots.release(slot)
        now = self._reactor.seconds()
        lasted = [(now - started) * 1000]
        self._observe(self._publish_metric, lasted)
        self._observe("worker_processing_duration_milliseconds", lasted, slot)
        settled: list[tuple[CollectRequest, PublishError | None]] = []
        for request, outcome in zip(group, outcomes, strict=True):
            if isinstance(outcome, Future):
                outcome.add_done_callback(self._later(request))
            else:
                settled.append((request, outcome))
        self._settle(settled, now)

    def _later(self, request: CollectRequest) -> Callable[[Future[PublishError | None]], None]:
        reactor: IReactorFromThreads = self._reactor

        def done(future: Future[PublishError | None]) -> None:
            reactor.callFromThread(self._straggler, request, future)

        return done

    def _straggler(self, request: CollectRequest, future: Future[PublishError | None]) -> None:
        try:
            error = future.result()
            if error is not None and not isinstance(error, PublishError):
                raise TypeError(f"{error!r} is not an outcome")
        except (FutureCancelledError, Exception) as raised:
            error = _all_failed(request, str(raised) or "cancelled")
        try:
            self._settle([(request, error)], self._reactor.seconds())
        except Exception:
            self._settling_failed(Failure(), [request])

    def _settle(
        self, settled: Iterable[tuple[CollectRequest, PublishError | None]], now: float
    ) -> None:
        latencies: defaultdict[str, list[float]] = defaultdict(list)
        durations: defaultdict[str, list[float]] = defaultdict(list)
        whole: list[CollectRequest] = []
        partly: list[tuple[CollectRequest, PublishError]] = []
        for request, error in settled:
            group = request.identifier.group
            request.published_at = now
            latencies[group].append((now - request.received_at) * 1000)
            if request.sent_time is not None:
                # A client's clock may be ahead of ours.
                lasted = max(now - request.sent_time, 0)
                durations[group].append(lasted * 1000)
            if error is None:
                whole.append(request)
            else:
                self._throttle.error("publish failed: {reason}", reason=str(error), group=group)
                partly.append((request, error))
        delivered, failed = 0, 0
        try:
            delivered = self._collector.delivered(whole)
        except Exception as raised:
            self._supervisor.failed(_SETTLING, raised)
            partly += _each_failed(whole, str(raised))
        for request, error in partly:
            events = self._supervisor.call(_SETTLING, self._collector.failed, request, error)
            delivered += events[0] if events else 0
            failed += events[1] if events else len(request.types)
        self.failed_events += failed
        if delivered:
            self._count("events_delivered_total", delivered)
        if failed:
            self._count("events_failed_total", failed)
        for group, values in latencies.items():
            self._observe("server_processing_latency_milliseconds", values, group)
        for group, values in durations.items():
            self._observe("event_processing_duration_milliseconds", values, group)

    def _settling_failed(self, failure: Failure, group: Sequence[CollectRequest]) -> None:
        """A fault of ours: whoever still waits for an answer is told so."""
        self._supervisor.failed(_SETTLING, failure)
        for request in group:
            acknowledged, request.acknowledged = request.acknowledged, None
            if acknowledged is not None:
                acknowledged.errback(_all_failed(request, failure.getErrorMessage()))

    def _count(self, name: str, events: int) -> None:
        self._supervisor.call(_METRICS, self._metrics.count, name, events)

    def _observe(self, name: str, values: Sequence[float], *labels: str) -> None:
        self._supervisor.call(_METRICS, self._metrics.observe_all, name, values, labels)

    def _loop_failed(self, failure: Failure) -> None:
        if self.running:
            self._supervisor.loop_failed(_LOOP, failure)
            self._restart = self._reactor.callLater(_RESTART_SECONDS, self._begin)


def _one_outcome_each(
    outcomes: Sequence[Outcome], group: list[CollectRequest]
) -> Sequence[Outcome]:
    if len(outcomes) != len(group):
        raise ValueError(f"{len(outcomes)} outcomes for {len(group)} requests")
    for outcome in outcomes:
        if outcome is not None and not isinstance(outcome, (PublishError, Future)):
            raise TypeError(f"{outcome!r} is not an outcome")
    return outcomes


def _each_failed(
    requests: Iterable[CollectRequest], reason: str
) -> list[tuple[CollectRequest, PublishError]]:
    return [(request, _all_failed(request, reason)) for request in requests]


def _all_failed(request: CollectRequest, reason: str) -> PublishError:
    events = len(request.types)
    return PublishError(events, events, [reason])
