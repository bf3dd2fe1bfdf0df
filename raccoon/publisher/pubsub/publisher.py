"""Events to Google Pub/Sub."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from grpc import StatusCode
from zope.interface import implementer

from raccoon.errors import RaccoonError
from raccoon.interfaces import IOrderedPublisher, IRejectingPublisher, Outcome
from raccoon.publisher import PublisherContext
from raccoon.publisher.base.accounts import Accounts
from raccoon.publisher.base.budget import InFlightBudget
from raccoon.publisher.base.delivery import CLOSED, CountedDelivery, Failure
from raccoon.publisher.base.handover import HandOver
from raccoon.publisher.base.reachability import Reachability
from raccoon.publisher.base.threads import DaemonThreads, LoopThread
from raccoon.publisher.base.topics import KnownTopics
from raccoon.publisher.pubsub.batching import Batch, Batcher, KeyQueue
from raccoon.publisher.pubsub.client import (
    REQUEST_BYTES,
    Message,
    PubSubClient,
    RefusedError,
)
from raccoon.publisher.pubsub.topics import TopicCheck, failure_of
from raccoon.request import CollectRequest

_log = logging.getLogger(__name__)

# A group waits this long for its events; what is later answers through a Future.
PATIENCE = 0.5

# In flight at most; who publishes more waits.
_IN_FLIGHT_EVENTS = 20_000
_IN_FLIGHT_BYTES = 64 << 20
_SENDERS = 64
_CHECKERS = 4

# Tags and lengths around a message in a request, at most.
_OVERHEAD = 16
# https://cloud.google.com/pubsub/quotas#resource_limits
_KEY_BYTES = 1024

_TICK = 10.0
_PROBE_EVERY = 2.0
_LAST_CALLS = 1.0


_FULL = Failure("Pub/Sub takes events too slowly, retry")
_EMPTY = Failure("Pub/Sub takes no empty event", lasting=True)


@implementer(IOrderedPublisher, IRejectingPublisher)
class PubSubPublisher:
    """Publishes to topics named by the routing pattern.

    It makes its own batches from the groups that it is given: the batching of google.cloud's
    client costs several times as much for each event, and fails a whole batch for one bad event.
    Pub/Sub refuses a request whole, too: such a batch is halved until only the bad event fails.
    """

    name = "pubsub"

    def __init__(self, context: PublisherContext) -> None:
        self._context = context
        self._settings = settings = context.settings.publisher.pubsub
        place = f" at {settings.emulator_host}" if settings.emulator_host else ""
        pattern = context.settings.event.distribution_publisher_pattern
        self.destination = f"Pub/Sub{place}, project {settings.project_id}, topics {pattern}"
        self._timeout = settings.publish_timeout_ms / 1000
        self._supervisor = supervisor = context.supervisor
        self._reachability = Reachability(context, self.destination)
        self._client = PubSubClient(settings, self._reachability, supervisor)
        self._ordered = context.settings.event.partition_key != "none"
        budget = InFlightBudget(_IN_FLIGHT_EVENTS, _IN_FLIGHT_BYTES)
        self._accounts = Accounts(context, self.name, budget, _FULL)
        self._hand_over = HandOver(self.name, supervisor, self._ordered)
        self.expect = self._hand_over.expect
        self.rejection = self._accounts.rejections.reason
        count = settings.publish_count_threshold
        size = min(settings.publish_byte_threshold, REQUEST_BYTES)
        delay = settings.publish_delay_threshold_ms / 1000
        self._batcher = Batcher(self._send_later, count, size, delay, _OVERHEAD, Message.ByteSize)
        self._keys = KeyQueue(count, size)
        self._senders = DaemonThreads(supervisor, _SENDERS, "pubsub-sender")
        self._checkers = DaemonThreads(supervisor, _CHECKERS, "pubsub-checker")
        self._check = TopicCheck(self._client, settings)
        self._topics = KnownTopics(self._check.check, self._checkers.submit, supervisor)
        failed = self._accounts.break_down
        self._keeper = LoopThread(supervisor, "pubsub-keeper", self._keep, failed)
        self._prober = LoopThread(supervisor, "pubsub-prober", self._probe)
        self._started = False
        self._cut_off = threading.Event()

    @property
    def reachable(self) -> bool:
        """See IPublisher."""
        return self._reachability.reachable

    def start(self) -> None:
        """Open the client and start the threads.

        Raises:
            StartError: the credentials file cannot be used.
        """
        self._client.start()
        self._keeper.start()
        self._prober.start()
        self._started = True

    def publish(self, requests: Sequence[CollectRequest]) -> list[Outcome]:
        """Hand all events over and wait for their outcomes; see IPublisher."""
        deliveries = self._accounts.open(requests, time.monotonic() + self._timeout)
        self._hand_over.each(requests, deliveries, self._take_in)
        if deliveries:
            deliveries[0].group.done.wait(PATIENCE)
        return [delivery.result() for delivery in deliveries]

    def close(self, timeout: float) -> int:
        """Send what waits, then give up what is left; see IPublisher.

        A request that is given up while under way may still get through.
        """
        self._accounts.close()
        if not self._started:
            return 0
        self._batcher.hurry()
        self._accounts.wait_until_empty(timeout)
        self._cut_off.set()
        self._keeper.stop()
        self._prober.stop()
        self._batcher.close()
        self._supervisor.call("pubsub close", self._client.close)
        self._hand_over.wait_until_done(_LAST_CALLS)
        self._checkers.stop()
        self._senders.stop()
        deadline = time.monotonic() + _LAST_CALLS
        for thread in (self._keeper, self._prober):
            thread.join(max(deadline - time.monotonic(), 0))
        self._checkers.join(deadline)
        self._senders.join(deadline)
        self._accounts.give_up(CLOSED)
        return self._accounts.abandoned

    def _take_in(self, delivery: CountedDelivery) -> None:
        if not self._accounts.admit(delivery):
            return
        request = delivery.request
        # Events of a type go together. To keep their order, only those that follow each other:
        # several types may share a topic.
        runs: dict[tuple[int, str], list[Any]] = {}
        run, previous = 0, ""
        for index, (event_type, payload) in enumerate(
            zip(request.types, request.payloads, strict=True)
        ):
            if self._ordered and event_type != previous:
                run, previous = run + 1, event_type
            attributes = self._context.metadata(request, index)
            if payload or attributes:
                message = Message(data=payload, attributes=attributes)
                runs.setdefault((run, event_type), []).append(message)
            else:
                delivery.settle(event_type, 1, _EMPTY)
        for (_, event_type), events in runs.items():
            topic = self._context.route(event_type)
            path = f"projects/{self._settings.project_id}/topics/{topic}"
            key = self._context.partition_key(request, event_type, _KEY_BYTES) or ""
            if key:
                for message in events:
                    message.ordering_key = key
            then = partial(self._hand_to_topic, delivery, path, key, event_type, events)
            self._topics.ask(path, delivery.deadline, then)

    def _hand_to_topic(
        self,
        delivery: CountedDelivery,
        path: str,
        key: str,
        event_type: str,
        events: list[Any],
        failure: Failure | None,
    ) -> None:
        try:
            if failure is None:
                self._batcher.add(path, (delivery, event_type), events, delivery.deadline, key)
            else:
                delivery.settle(event_type, len(events), failure)
        except BaseException as error:
            self._supervisor.failed("pubsub batcher", error)
            delivery.interrupted(error)

    def _send_later(self, batch: Batch) -> None:
        try:
            first = self._keys.enter(batch)
        except BaseException as error:
            self._lose(batch, error)
        else:
            if first:
                self._submit(batch)

    def _submit(self, batch: Batch) -> None:
        try:
            self._senders.submit(self._send, batch)
        except BaseException as error:
            self._lose(batch, error)
            self._send_following(batch)

    def _send(self, batch: Batch) -> None:
        try:
            self._publish_batch(batch)
        except BaseException as error:
            self._lose(batch, error)
        self._send_following(batch)

    def _send_following(self, batch: Batch) -> None:
        """Have the batch sent that waited for this one of its key."""
        following = self._keys.leave(batch)
        if following is not None and not self._cut_off.is_set():
            self._submit(following)
            return
        while following is not None:  # each fails at once
            try:
                self._publish_batch(following)
            except BaseException as error:
                self._lose(following, error)
            following = self._keys.leave(following)

    def _lose(self, batch: Batch, error: BaseException) -> None:
        """What had a batch under its hands failed unexpectedly: so do its requests."""
        self._supervisor.failed("pubsub sender", error)
        owners: Any = batch.owners
        for delivery in {delivery for delivery, _ in owners}:
            delivery.interrupted(error)

    def _publish_batch(self, batch: Batch) -> None:
        parts = [(batch.owners, batch.payloads)]
        may_make = self._settings.topic_autocreate
        while parts:
            owners, events = parts.pop()
            failure: Failure | None = None
            try:
                self._client.publish(batch.name, events, batch.deadline)
            except Exception as error:  # whatever it is, it is these events' outcome
                if not isinstance(error, RaccoonError):
                    self._supervisor.failed("pubsub sender", error)
                code = error.code if isinstance(error, RefusedError) else None
                if code is StatusCode.INVALID_ARGUMENT and len(events) > 1:
                    half = len(events) // 2
                    parts.append((owners[half:], events[half:]))
                    parts.append((owners[:half], events[:half]))
                    continue
                failure = failure_of(batch.name, error)
                if code is StatusCode.NOT_FOUND:
                    self._topics.forget(batch.name)
                    if may_make:
                        may_make = False
                        failure, _ = self._check.make(batch.name, batch.deadline)
                        if failure is None:
                            parts.append((owners, events))
                            continue
            for (delivery, event_type), count in Counter[Any](owners).items():
                delivery.settle(event_type, count, failure)

    def _keep(self) -> None:
        """Send what is due."""
        self._batcher.send_due(_TICK)

    def _probe(self) -> None:
        """Look for Pub/Sub while it is not known to answer."""
        topic = self._context.route("probe")
        try:
            if self._reachability.known is not True:
                self._client.probe(f"projects/{self._settings.project_id}/topics/{topic}")
        finally:
            self._prober.wait(_PROBE_EVERY)
