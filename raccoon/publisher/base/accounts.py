"""What is in flight, what became of it, and what that means for others."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from raccoon.errors import PublishError
from raccoon.publisher import PublisherContext
from raccoon.publisher.base.budget import InFlightBudget
from raccoon.publisher.base.delivery import CLOSED, CountedDelivery, Failure, Group, outcome_of
from raccoon.publisher.base.rejections import Rejections
from raccoon.request import CollectRequest


class Accounts:
    """Charges requests to the in-flight budget, and counts their events when they finish.

    Attributes:
        abandoned: events that were given up because the publisher closed.
        rejections: event types whose topic or stream is known to be missing.

    Args:
        context: has the metrics, the supervisor and the routing pattern.
        name: of the publisher, as its metrics begin.
        budget: is charged with every request.
        full: why a request fails for which the budget has no room until its deadline.
    """

    def __init__(
        self, context: PublisherContext, name: str, budget: InFlightBudget, full: Failure
    ) -> None:
        self._context = context
        self._name = name
        self._budget = budget
        self._full = full
        self._lock = threading.Lock()
        self._in_flight: set[CountedDelivery] = set()
        # Why nothing more is taken, once that is so.
        self._refusal: Failure | None = None
        self.abandoned = 0
        self.rejections = Rejections()

    def open(self, requests: Sequence[CollectRequest], deadline: float) -> list[CountedDelivery]:
        """A delivery for each request of a group, none charged yet."""
        group = Group(len(requests), self._context.supervisor)
        deliveries = [
            CountedDelivery(group, request, self._account, deadline) for request in requests
        ]
        with self._lock:
            self._in_flight.update(deliveries)
        return deliveries

    def admit(self, delivery: CountedDelivery) -> bool:
        """Charge a request, waiting until its deadline; where that fails, it fails."""
        request = delivery.request
        if not request.types:
            delivery.finish()
            return False
        delivery.charged = self._budget.acquire(len(request.types), request.size, delivery.deadline)
        if not delivery.charged:
            delivery.give_up(self._refusal or self._full)
        return delivery.charged

    def close(self) -> None:
        """Admit nothing more: the server is shutting down."""
        self._refuse(CLOSED)

    def break_down(self, error: BaseException) -> None:
        """A thread ended without which nothing is delivered: all fails, now and from now on."""
        failure = Failure(f"the publisher failed: {str(error) or type(error).__name__}")
        self._refuse(failure)
        self.give_up(failure)

    def wait_until_empty(self, timeout: float) -> bool:
        """Wait until nothing is in flight, at most `timeout` seconds; whether it is so."""
        return self._budget.wait_until_empty(timeout)

    def give_up(self, failure: Failure) -> None:
        """Every request in flight fails."""
        with self._lock:
            left = list(self._in_flight)
        for delivery in left:
            delivery.give_up(failure)

    def _refuse(self, failure: Failure) -> None:
        self._refusal = failure
        self._budget.close()

    def _account(self, delivery: CountedDelivery) -> PublishError | None:
        """Count a finished delivery and give its outcome."""
        request = delivery.request
        with self._lock:
            self._in_flight.discard(delivery)
            for _, events, failure in delivery.failures:
                if failure.abandoned:
                    self.abandoned += events
        if delivery.charged:
            self._budget.release(len(request.types), request.size)
        self._context.supervisor.call(f"{self._name} accounting", self._count, delivery)
        return outcome_of(delivery.failures, len(request.types))

    def _count(self, delivery: CountedDelivery) -> None:
        metrics, group = self._context.metrics, delivery.request.identifier.group
        left = {kind: len(payloads) for kind, payloads in delivery.request.by_type.items()}
        for event_type, events, failure in delivery.failures:
            labels = (self._context.route(event_type), group, event_type)
            metrics.count(f"{self._name}_messages_undelivered_total", events, labels)
            if failure.counter:
                metrics.count(failure.counter, events, labels)
            if failure.missing:
                self.rejections.reject(event_type, failure.reason)
            left[event_type] -= events
        for event_type, events in left.items():
            if events:
                labels = (self._context.route(event_type), group, event_type)
                metrics.count(f"{self._name}_messages_delivered_total", events, labels)
                self.rejections.accept(event_type)
