"""Events to Google Pub/Sub."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from typing import Any

from grpc import StatusCode
from zope.interface import implementer

from raccoon.errors import PublishError
from raccoon.interfaces import IOrderedPublisher, Outcome
from raccoon.publisher import PublisherContext
from raccoon.publisher.base.budget import Room
from raccoon.publisher.base.delivery import Failure, Group, RoomDelivery, count_events, outcome_of
from raccoon.publisher.base.known import Known
from raccoon.publisher.base.turns import Turns
from raccoon.publisher.pubsub.batching import Batch, Batcher, KeyQueue
from raccoon.publisher.pubsub.client import (
    REQUEST_BYTES,
    ClosedError,
    Message,
    NoAnswerError,
    PubSubClient,
    RefusedError,
)
from raccoon.request import CollectRequest

_log = logging.getLogger(__name__)

# A group waits this long for its events; what is later answers through a Future.
PATIENCE = 0.5

# What is on its way at most; whoever publishes more waits.
_ROOM_EVENTS = 20_000
_ROOM_BYTES = 64 << 20
_SENDERS = 64
_CHECKERS = 4

# Tags and lengths around a message in a request, at most.
_OVERHEAD = 16
# https://cloud.google.com/pubsub/quotas#resource_limits
_KEY_BYTES = 1024

_TICK = 0.1
_PROBE_EVERY = 2.0
_LAST_CALLS = 1.0

_UNKNOWN_TOPIC = "pubsub_unknown_topic_failure_total"
_NOT_ALLOWED = "pubsub_permission_failure_total"
_UNREACHABLE = "pubsub_unreachable_failure_total"
_THROUGHPUT = "pubsub_topic_throughput_exceeded_total"
_TOPICS_LIMIT = "pubsub_topics_limit_exceeded_total"

_CLOSED = Failure("the server is shutting down", abandoned=True)
_FULL = Failure("Pub/Sub takes events too slowly, retry")
_EMPTY = Failure("Pub/Sub takes no empty event", lasting=True)
_NO_ANSWER = Failure("Pub/Sub does not answer", _UNREACHABLE)


@implementer(IOrderedPublisher)
class PubSubPublisher:
    """Publishes to topics named by the routing pattern.

    It makes its own batches from the groups that it is given: the batching of google.cloud's
    client costs several times as much for each event, and fails a whole batch for one bad event.
    Pub/Sub refuses a request whole, too: such a batch is halved until only the bad event fails.
    """

    name = "pubsub"

    def __init__(self, context: PublisherContext) -> None:
        self._context = context
        self._metrics = context.metrics
        self._settings = settings = context.settings.publisher.pubsub
        place = f" at {settings.emulator_host}" if settings.emulator_host else ""
        pattern = context.settings.event.distribution_publisher_pattern
        self.destination = f"Pub/Sub{place}, project {settings.project_id}, topics {pattern}"
        self._timeout = settings.publish_timeout_ms / 1000
        self._client = PubSubClient(settings, self.destination, context.metrics)
        self._ordered = context.settings.event.partition_key != "none"
        self._turns = Turns()
        self._room = Room(_ROOM_EVENTS, _ROOM_BYTES)
        count = settings.publish_count_threshold
        size = min(settings.publish_byte_threshold, REQUEST_BYTES)
        delay = settings.publish_delay_threshold_ms / 1000
        self._batcher = Batcher(self._send_later, count, size, delay, _OVERHEAD, Message.ByteSize)
        self._keys = KeyQueue(count, size)
        self._topics = Known(self._check, self._check_later)
        self._senders = ThreadPoolExecutor(_SENDERS, "pubsub-sender")
        self._checkers = ThreadPoolExecutor(_CHECKERS, "pubsub-checker")
        self._keeper = threading.Thread(target=self._keep, name="pubsub-keeper", daemon=True)
        self._closing = threading.Event()
        self._cut_off = threading.Event()
        self._counting = threading.Condition()
        self._handing_over = 0
        self._abandoned = 0

    @property
    def reachable(self) -> bool:
        """See IPublisher."""
        return self._client.answers is not False

    def start(self) -> None:
        """Open the client, and start the thread that sends batches which are due.

        Raises:
            StartError: the credentials file cannot be used.
        """
        self._client.start()
        self._keeper.start()

    def expect(self, requests: Sequence[CollectRequest]) -> None:
        """Keep this group's place; see IOrderedPublisher."""
        if self._ordered:
            self._turns.expect(requests)

    def publish(self, requests: Sequence[CollectRequest]) -> list[Outcome]:
        """Hand all events over and wait for their outcomes; see IPublisher."""
        group = Group(len(requests))
        deadline = time.monotonic() + self._timeout
        deliveries = [RoomDelivery(group, request, self._account, deadline) for request in requests]
        with self._counting:
            self._handing_over += 1
        with self._turns.take(requests) if self._ordered else nullcontext():
            for delivery in deliveries:
                self._hand_over(delivery)
        with self._counting:
            self._handing_over -= 1
            self._counting.notify_all()
        group.done.wait(PATIENCE)
        return [delivery.result() for delivery in deliveries]

    def close(self, timeout: float) -> int:
        """Send what waits, then give up what is left; see IPublisher."""
        self._closing.set()
        self._room.close()
        if not self._keeper.is_alive():
            return 0
        self._batcher.hurry()
        self._room.wait_until_empty(timeout)
        self._cut_off.set()
        self._client.close()
        self._checkers.shutdown()
        self._keeper.join()
        self._senders.shutdown()
        with self._counting:
            self._counting.wait_for(lambda: not self._handing_over, _LAST_CALLS)
            return self._abandoned

    def _hand_over(self, delivery: RoomDelivery) -> None:
        request = delivery.request
        delivery.has_room = self._room.take(len(request.types), request.size, delivery.deadline)
        if not delivery.has_room:
            failure = _CLOSED if self._closing.is_set() else _FULL
            for event_type, payloads in request.by_type.items():
                delivery.settle(event_type, len(payloads), failure)
            return
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
        if not request.types:
            delivery.finish()

    def _hand_to_topic(
        self,
        delivery: RoomDelivery,
        path: str,
        key: str,
        event_type: str,
        events: list[Any],
        failure: Failure | None,
    ) -> None:
        if failure is None:
            self._batcher.add(path, (delivery, event_type), events, delivery.deadline, key)
        else:
            delivery.settle(event_type, len(events), failure)

    def _account(self, delivery: RoomDelivery) -> PublishError | None:
        """Count a finished delivery and give its outcome."""
        request = delivery.request
        abandoned = count_events(self._context, self.name, delivery)
        if abandoned:
            with self._counting:
                self._abandoned += abandoned
        if delivery.has_room:
            self._room.give(len(request.types), request.size)
        return outcome_of(delivery.failures, len(request.types))

    def _send_later(self, batch: Batch) -> None:
        if self._keys.enter(batch):
            _run(self._senders, self._send, batch)

    def _check_later(self, call: Callable[..., None], *args: Any) -> None:
        _run(self._checkers, call, *args)

    def _send(self, batch: Batch) -> None:
        self._publish_batch(batch)
        following = self._keys.leave(batch)
        if following is not None and not self._cut_off.is_set():
            _run(self._senders, self._send, following)
            return
        while following is not None:
            self._publish_batch(following)
            following = self._keys.leave(following)

    def _publish_batch(self, batch: Batch) -> None:
        parts = [(batch.owners, batch.payloads)]
        may_make = self._settings.topic_autocreate
        while parts:
            owners, events = parts.pop()
            failure: Failure | None = None
            try:
                self._client.publish(batch.name, events, batch.deadline)
            except Exception as error:  # whatever it is, it is these events' outcome
                code = error.code if isinstance(error, RefusedError) else None
                if code is StatusCode.INVALID_ARGUMENT and len(events) > 1:
                    half = len(events) // 2
                    parts.append((owners[half:], events[half:]))
                    parts.append((owners[:half], events[:half]))
                    continue
                failure = _failure(batch.name, error)
                if code is StatusCode.NOT_FOUND:
                    self._topics.forget(batch.name)
                    if may_make:
                        may_make = False
                        failure, _ = self._make(batch.name, batch.deadline)
                        if failure is None:
                            parts.append((owners, events))
                            continue
            for (delivery, event_type), count in Counter[Any](owners).items():
                delivery.settle(event_type, count, failure)

    def _check(self, path: str, deadline: float) -> tuple[Failure | None, bool]:
        """Whether a topic is there; makes it where that is asked for."""
        try:
            self._client.check_topic(path, deadline)
        except RefusedError as error:
            if error.code in (StatusCode.PERMISSION_DENIED, StatusCode.RESOURCE_EXHAUSTED):
                # An account may be allowed to publish and not to ask: publishing will tell.
                return None, True
            if error.code is StatusCode.NOT_FOUND and self._settings.topic_autocreate:
                return self._make(path, deadline)
            if error.code is StatusCode.INVALID_ARGUMENT:  # of its only argument, the name
                return _does_not_exist(path, error), True
            return _failure(path, error), True
        except (NoAnswerError, ClosedError) as error:
            return _failure(path, error), False
        return None, True

    def _make(self, path: str, deadline: float) -> tuple[Failure | None, bool]:
        """Make a topic that was not there."""
        try:
            self._client.create_topic(path, deadline)
        except RefusedError as error:
            if error.code is StatusCode.ALREADY_EXISTS:
                return None, True
            if error.code is StatusCode.RESOURCE_EXHAUSTED:
                reason = f"topic {_name(path)} cannot be made, quota exceeded: {error}"
                return Failure(reason, _TOPICS_LIMIT), True
            return _failure(path, error), True
        except (NoAnswerError, ClosedError) as error:
            return _failure(path, error), False
        _log.info("topic %s was made", _name(path))
        return None, True

    def _keep(self) -> None:
        """Send what is due; look for Pub/Sub while it is not known to answer."""
        path = f"projects/{self._settings.project_id}/topics/{self._context.route('probe')}"
        probe = threading.Thread()
        next_probe = 0.0
        while not self._cut_off.is_set():
            self._batcher.send_due(_TICK)
            now = time.monotonic()
            if self._client.answers is not True and now >= next_probe and not probe.is_alive():
                next_probe = now + _PROBE_EVERY
                probe = threading.Thread(
                    target=self._client.probe, args=(path,), name="pubsub-probe", daemon=True
                )
                probe.start()


def _run(pool: ThreadPoolExecutor, call: Callable[..., None], *args: Any) -> None:
    try:
        pool.submit(call, *args)
    except RuntimeError:  # closed: it fails at once
        call(*args)


def _failure(path: str, error: Exception) -> Failure:
    """What becomes of events for this topic."""
    if isinstance(error, ClosedError):
        return _CLOSED
    if isinstance(error, NoAnswerError):
        return _NO_ANSWER
    code = error.code if isinstance(error, RefusedError) else None
    if code is StatusCode.NOT_FOUND:
        return _does_not_exist(path, error)
    if code is StatusCode.RESOURCE_EXHAUSTED:
        return Failure(f"topic {_name(path)}: quota exceeded: {error}", _THROUGHPUT)
    if code in (StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED):
        return Failure(f"topic {_name(path)}: not allowed: {error}", _NOT_ALLOWED)
    return Failure(
        f"topic {_name(path)}: {error or type(error).__name__}",
        lasting=code is StatusCode.INVALID_ARGUMENT,
    )


def _does_not_exist(path: str, error: Exception) -> Failure:
    return Failure(f"topic {_name(path)} does not exist: {error}", _UNKNOWN_TOPIC, lasting=True)


def _name(path: str) -> str:
    return path.rpartition("/")[2]
