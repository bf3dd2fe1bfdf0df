"""Stand-ins that keep everything in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from raccoon.config import Settings
from raccoon.errors import PublishError
from raccoon.interfaces import IJournal, IMetrics, IPublisher, Outcome
from raccoon.messages import Batch, Identifier
from raccoon.metrics.names import COUNTER, GAUGE, HISTOGRAM, METRICS
from raccoon.request import CollectRequest


def make_settings(**sections: Mapping[str, Any]) -> Settings:
    """The default settings with some options of some sections changed."""
    changed = {
        name: attrs.evolve(getattr(Settings(), name), **options)
        for name, options in sections.items()
    }
    return attrs.evolve(Settings(), **changed)


def make_request(
    guid: str = "guid",
    events: Sequence[tuple[str, bytes]] = (("click", b"{}"),),
    *,
    client: str = "client",
    group: str = "group",
    sent_time: float | None = None,
    received_at: float = 0.0,
    on_failed: Callable[[PublishError], None] | None = None,
) -> CollectRequest:
    """A request of (type, payload) events."""
    return CollectRequest(
        Identifier(client, group),
        Batch(
            guid,
            sent_time,
            [event_type for event_type, _ in events],
            [payload for _, payload in events],
        ),
        received_at,
        on_failed,
    )


_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Fake:
    """A stand-in whose methods fail when a test says so.

    Attributes:
        faults: what a method raises, by its name.
    """

    def __init__(self) -> None:
        self.faults: dict[str, Exception] = {}

    def raise_fault(self, method: str) -> None:
        """Raise the fault of a method, if it has one."""
        if method in self.faults:
            raise self.faults[method]


def can_fail(method: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Make a method of a Fake raise its fault before it does anything."""

    @wraps(method)
    def call(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        fake: Any = args[0]
        fake.raise_fault(method.__name__)
        return method(*args, **kwargs)

    return call


_METRICS = {metric.name: metric for metric in METRICS}


def _check(kind: str, name: str, labels: tuple[str, ...]) -> None:
    metric = _METRICS[name]
    assert metric.kind == kind, f"{name} is a {metric.kind}, not a {kind}"
    assert len(labels) == len(metric.labels), f"{name} has {metric.labels}, not {labels}"
    assert all(isinstance(label, str) for label in labels), labels


@implementer(IMetrics)
class FakeMetrics(Fake):
    """Records every call as (name, value, labels); takes what the table of metrics has."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[tuple[str, float, tuple[str, ...]]] = []
        self.gauges: list[tuple[str, float, tuple[str, ...]]] = []
        self.adjustments: list[tuple[str, float, tuple[str, ...]]] = []
        self.observations: list[tuple[str, float, tuple[str, ...]]] = []

    @can_fail
    def count(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        _check(COUNTER, name, labels)
        self.counts.append((name, value, labels))

    @can_fail
    def count_all(self, counts: Iterable[tuple[str, float, tuple[str, ...]]]) -> None:
        for name, value, labels in counts:
            self.count(name, value, labels)

    @can_fail
    def gauge(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        _check(GAUGE, name, labels)
        self.gauges.append((name, value, labels))

    @can_fail
    def adjust(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        _check(GAUGE, name, labels)
        self.adjustments.append((name, value, labels))

    @can_fail
    def observe(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        _check(HISTOGRAM, name, labels)
        self.observations.append((name, value, labels))

    @can_fail
    def observe_all(self, name: str, values: Sequence[float], labels: tuple[str, ...] = ()) -> None:
        _check(HISTOGRAM, name, labels)
        self.observations += [(name, value, labels) for value in values]

    def total(self, name: str, labels: tuple[str, ...] | None = None) -> float:
        """The sum counted under a name, of one set of labels or of all."""
        return sum(v for n, v, got in self.counts if n == name and labels in (None, got))

    def level(self, name: str, labels: tuple[str, ...] | None = None) -> float:
        """Where an adjusted gauge stands."""
        return sum(v for n, v, got in self.adjustments if n == name and labels in (None, got))

    def observed(self, name: str) -> list[float]:
        """The values observed under a name, in order."""
        return [value for n, value, _ in self.observations if n == name]


@implementer(IPublisher)
class FakePublisher(Fake):
    """Keeps the groups it is given and confirms them, or answers `outcome` for each request.

    Attributes:
        outcome: of each request that is published.
        left: events that `close` says are undelivered.
    """

    destination = "memory"
    reachable = True

    def __init__(self, name: str = "log") -> None:
        super().__init__()
        self.name = name
        self.groups: list[list[CollectRequest]] = []
        self.outcome: Outcome = None
        self.left = 0
        self.started = self.closed = False

    @can_fail
    def start(self) -> None:
        assert not self.started, "it was started before"
        self.started = True

    @can_fail
    def publish(self, requests: Sequence[CollectRequest]) -> list[Outcome]:
        assert self.started, "it was not started"
        assert not self.closed, "it was closed"
        self.groups.append(list(requests))
        return [self.outcome] * len(requests)

    @can_fail
    def close(self, timeout: float) -> int:
        assert self.started, "it was not started"
        assert timeout >= 0
        self.closed = True
        return self.left


class PublishByHand:
    """A WorkerService's `publish` whose Deferreds the test fires."""

    def __init__(self) -> None:
        self.groups: list[list[CollectRequest]] = []
        self.pending: list[Deferred[Sequence[Outcome]]] = []

    def __call__(self, requests: Sequence[CollectRequest]) -> Deferred[Sequence[Outcome]]:
        self.groups.append(list(requests))
        done: Deferred[Sequence[Outcome]] = Deferred()
        self.pending.append(done)
        return done

    @property
    def guids(self) -> list[list[str]]:
        """The guids of each group, in the order they came."""
        return [[request.guid for request in group] for group in self.groups]


@implementer(ILogObserver)
class FakeObserver:
    """Keeps the events of a log."""

    def __init__(self) -> None:
        self.events: list[LogEvent] = []

    def __call__(self, event: LogEvent) -> None:
        self.events.append(event)


@contextmanager
def logged() -> Iterator[list[LogEvent]]:
    """The events that are logged within."""
    observer = FakeObserver()
    globalLogPublisher.addObserver(observer)
    try:
        yield observer.events
    finally:
        globalLogPublisher.removeObserver(observer)


class ThreadlessClock(Clock):
    """A Clock whose callFromThread runs the call with the next advance."""

    def callFromThread(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.callLater(0, call, *args, **kwargs)


@implementer(IJournal)
class FakeJournal(Fake):
    """Keeps what it is given in lists.

    Attributes:
        full: why it refuses requests; nothing: it takes them.
        reasons: why no request should be sent here.
        room: bytes of requests that may be in memory.
        keeps: whether it takes back requests whose delivery failed.
    """

    bridges_outages = True
    in_transit_events = 0
    returned_requests = returned_bytes = 0

    def __init__(self) -> None:
        super().__init__()
        self.full = ""
        self.reasons: list[str] = []
        self.room = 1 << 30
        self.keeps = True
        self.added: list[tuple[CollectRequest, bool]] = []
        self.done: list[CollectRequest] = []
        self.kept: list[CollectRequest] = []

    @can_fail
    def refusal(self, size: int) -> str | None:
        return self.full or None

    @can_fail
    def memory_left(self, used: int) -> int:
        return self.room - used

    @can_fail
    def not_ready(self) -> list[str]:
        return self.reasons

    @can_fail
    def add(self, request: CollectRequest, in_memory: bool) -> None:
        assert not self.full, "whoever adds a request has asked before"
        request.entry = self
        self.added.append((request, in_memory))

    @can_fail
    def delivered(self, requests: Sequence[CollectRequest]) -> None:
        assert all(request.entry is not None for request in requests)
        assert not any(request in self.done for request in requests), "delivered before"
        self.done += requests

    @can_fail
    def retain(self, request: CollectRequest, error: PublishError) -> int | None:
        if request.entry is None and self.full:
            return None
        self.kept.append(request)
        if not self.keeps:
            return None
        return len(request.types) - sum(error.lasting.values()) if error.lasting else 0
