"""One request on its way: what became of its events, and the outcome that follows."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

from raccoon.errors import PublishError
from raccoon.interfaces import Outcome
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor


class Failure(NamedTuple):
    """Why events were not delivered.

    Attributes:
        reason: for the client and the log.
        counter: the metric that counts events which failed so, or none.
        abandoned: they were given up because the publisher closed.
        lasting: no attempt can ever deliver them.
        missing: their topic or stream does not exist.
    """

    reason: str
    counter: str = ""
    abandoned: bool = False
    lasting: bool = False
    missing: bool = False


CLOSED = Failure("the server is shutting down", abandoned=True)


def outcome_of(failures: Sequence[tuple[str, int, Failure]], total: int) -> PublishError | None:
    """The outcome of a request of `total` events with these (event type, events, why)."""
    if not failures:
        return None
    reasons: list[str] = []
    lasting: Counter[str] = Counter()
    for event_type, events, failure in failures:
        reasons += [failure.reason] * events
        if failure.lasting:
            lasting[event_type] += events
    failed = len(reasons)
    return PublishError(failed, total, reasons, lasting if lasting.total() == failed else None)


class Group:
    """Counts down the requests of one publish and wakes its thread.

    Args:
        size: how many requests.
        supervisor: told what fails unexpectedly.
    """

    def __init__(self, size: int, supervisor: Supervisor) -> None:
        self.supervisor = supervisor
        self.pending = size
        self.lock = threading.Lock()
        self.done = threading.Event()
        if not size:
            self.end()

    def delivered(self, deliveries: Sequence[Delivery]) -> None:
        """All events of these were delivered, which is counted; that is their outcome."""
        with self.lock:
            for delivery in deliveries:
                delivery.finished = True
            self.pending -= len(deliveries)
            last = not self.pending
        try:
            if last:
                self.end()
        finally:
            for delivery in deliveries:
                if delivery.future is not None:
                    delivery.future.set_result(None)

    def end(self) -> None:
        """Every request is finished."""
        self.done.set()


class Delivery:
    """One request: whoever sees its last event finishes it.

    Args:
        group: the publish that it belongs to.
        request: whose events are on their way.
        account: called once when it finishes, and gives the outcome.

    Attributes:
        finished: every event is accounted for.
        outcome: known then.
        future: fires with the outcome, where somebody waits for it.
    """

    __slots__ = ("_account", "finished", "future", "group", "outcome", "request")

    def __init__(
        self,
        group: Group,
        request: CollectRequest,
        account: Callable[[Any], PublishError | None],
    ) -> None:
        self.group = group
        self.request = request
        self._account = account
        self.finished = False
        self.outcome: PublishError | None = None
        self.future: Future[PublishError | None] | None = None

    def result(self) -> Outcome:
        """The outcome, or a Future of it where it is not known yet."""
        with self.group.lock:
            if self.finished:
                return self.outcome
            self.future = Future()
            return self.future

    def finish(self) -> None:
        """Every event is accounted for; a second call does nothing."""
        group = self.group
        with group.lock:
            if self.finished:
                return
            self.finished = True
            try:
                self.outcome = self._account(self)
            except Exception as error:
                group.supervisor.failed("delivery accounting", error)
                events = len(self.request.types)
                self.outcome = PublishError(events, events, [str(error)])
            group.pending -= 1
            last = group.pending == 0
            future = self.future
        try:
            if last:
                group.end()
        finally:
            if future is not None:
                future.set_result(self.outcome)


class CountedDelivery(Delivery):
    """A delivery whose events are settled in parts, from any thread.

    Attributes:
        deadline: when its events are given up, in seconds of the monotonic clock.
        failures: (event type, events, why) of each part that failed.
        charged: it takes some of the in-flight budget, which is to be given back.
    """

    __slots__ = ("_left", "_left_of", "charged", "deadline", "failures")

    def __init__(
        self,
        group: Group,
        request: CollectRequest,
        account: Callable[[Any], PublishError | None],
        deadline: float,
    ) -> None:
        super().__init__(group, request, account)
        self.deadline = deadline
        self.failures: list[tuple[str, int, Failure]] = []
        self.charged = False
        self._left = len(request.types)
        self._left_of = {kind: len(payloads) for kind, payloads in request.by_type.items()}

    def settle(self, event_type: str, events: int, failure: Failure | None) -> None:
        """So many events of a type were delivered, or failed; after `give_up` it does nothing."""
        with self.group.lock:
            if not self._left:
                return
            if failure is not None:
                self.failures.append((event_type, events, failure))
            self._left_of[event_type] -= events
            self._left -= events
            last = self._left == 0
        if last:
            self.finish()

    def give_up(self, failure: Failure) -> None:
        """Every event that is not settled yet failed."""
        with self.group.lock:
            left, self._left = self._left, 0
            if left:
                self.failures += [(kind, n, failure) for kind, n in self._left_of.items() if n]
        if left:
            self.finish()

    def interrupted(self, error: BaseException) -> None:
        """What had it under its hands failed unexpectedly: nobody else will settle its events."""
        self.give_up(Failure(f"not sent: {str(error) or type(error).__name__}"))
        self.finish()
