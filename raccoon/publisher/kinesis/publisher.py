"""Events to Amazon Kinesis Data Streams."""

from __future__ import annotations

import logging
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

from zope.interface import alsoProvides, implementer

from raccoon.errors import PublishError
from raccoon.interfaces import IOrderedPublisher, IPublisher, Outcome
from raccoon.publisher import PublisherContext
from raccoon.publisher.base.budget import Room
from raccoon.publisher.base.delivery import Failure, Group, RoomDelivery, count_events, outcome_of
from raccoon.publisher.base.known import Known
from raccoon.publisher.base.threads import DaemonThreads
from raccoon.publisher.base.turns import Turns
from raccoon.publisher.kinesis.client import (
    KinesisClient,
    NoAnswerError,
    RefusedError,
    RefusedRecord,
    open_client,
)
from raccoon.publisher.kinesis.outbox import Outbox, Record
from raccoon.publisher.kinesis.streams import (
    CLOSED,
    NO_ANSWER,
    StreamCheck,
    does_not_exist,
    full_jitter,
)
from raccoon.request import CollectRequest

_log = logging.getLogger(__name__)

# A group waits this long for its events; what is later answers through a Future.
PATIENCE = 0.5

# What is on its way at most; whoever publishes more waits.
_ROOM_EVENTS = 20_000
_ROOM_BYTES = 64 << 20
_SENDERS = 16
_CHECKERS = 8
_IN_FLIGHT = 4
_DELAY = 0.005

# Of PutRecords. AWS takes 10 MiB since October 2025, others who speak its protocol may not.
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html
_REQUEST_RECORDS = 500
_REQUEST_BYTES = 5 << 20
# With its key a record has the first at most unless its stream is set to more, and never more
# than the second.
_RECORD_BYTES = 1 << 20
_LARGEST_RECORD_BYTES = 10 << 20
_KEY_BYTES = 256
_RANDOM_KEY_BYTES = 16

_READ_TIMEOUT = 10.0
_PROBE_EVERY = 2.0
_LAST_CALLS = 1.0

# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_CreateStream.html
_STREAM_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")

_UNKNOWN_STREAM = "kinesis_unknown_stream_failure_total"
_THROUGHPUT = "kinesis_stream_throughput_exceeded_total"
_LARGE = "kinesis_message_too_large_total"

_FULL = Failure("Kinesis takes events too slowly, retry")
_TOO_LARGE = Failure(
    f"event too large for Kinesis ({_LARGEST_RECORD_BYTES} bytes with its partition key)",
    _LARGE,
    lasting=True,
)


class _Trouble(NamedTuple):
    """What went wrong with a record.

    Attributes:
        failure: for its outcome.
        passing: it may go better later.
        whole: it was not the record's: others would have failed as well.
    """

    failure: Failure
    passing: bool
    whole: bool = True


@implementer(IPublisher)
class KinesisPublisher:
    """Publishes to streams named by the routing pattern, in requests as full as can be.

    Only records that were refused are sent again. With a partition key a stream has one request
    under way at a time, and refused records go before later ones.
    """

    name = "kinesis"

    def __init__(self, context: PublisherContext) -> None:
        self._context = context
        self._metrics = context.metrics
        self._settings = settings = context.settings.publisher.kinesis
        self._pattern = context.settings.event.distribution_publisher_pattern
        self._keyed = context.settings.event.partition_key != "none"
        self.destination = f"Kinesis, streams {self._pattern}"
        self.reachable = True
        self._announced: bool | None = None
        self._announcing = threading.Lock()
        self._timeout = settings.publish_timeout_ms / 1000
        self._client: KinesisClient
        self._check: StreamCheck
        self._streams: Known
        self._room = Room(_ROOM_EVENTS, _ROOM_BYTES)
        self._turns = Turns()
        self._outbox = Outbox(
            records=_REQUEST_RECORDS,
            size=_REQUEST_BYTES,
            alone=_RECORD_BYTES,
            delay=_DELAY,
            in_flight=1 if self._keyed else _IN_FLIGHT,
            senders=_SENDERS,
        )
        self._senders = DaemonThreads(_SENDERS, "kinesis-sender")
        self._checkers = DaemonThreads(_CHECKERS, "kinesis-checker")
        self._dispatcher = DaemonThreads(1, "kinesis-dispatcher")
        self._watcher = DaemonThreads(1, "kinesis-watcher")
        self._threads = (self._dispatcher, self._watcher, self._checkers, self._senders)
        self._started = False
        self._closing = threading.Event()
        self._cut_off = threading.Event()
        self._counting = threading.Condition()
        self._handing_over = 0
        self._under_way: set[RoomDelivery] = set()
        self._abandoned = 0
        if self._keyed:
            alsoProvides(self, IOrderedPublisher)

    def start(self) -> None:
        """Open the client and start the threads.

        Raises:
            StartError: there is no region, or the credentials file cannot be used.
        """
        self._client = self._open()
        self._check = StreamCheck(self._client, self._settings, self._announce, self._cut_off)
        self._streams = Known(self._check.check, self._checkers.submit)
        self.destination = f"Kinesis at {self._client.endpoint}, streams {self._pattern}"
        if self._context.settings.event.metadata_enabled:
            _log.warning("EVENT_METADATA_ENABLED has no effect: a Kinesis record has no headers")
        for threads in self._threads:
            threads.start()
        self._dispatcher.submit(self._dispatch)
        self._watcher.submit(self._watch)
        self._started = True

    def expect(self, requests: Sequence[CollectRequest]) -> None:
        """See IOrderedPublisher."""
        self._turns.expect(requests)

    def publish(self, requests: Sequence[CollectRequest]) -> list[Outcome]:
        """Hand all events over and wait for their outcomes; see IPublisher."""
        group = Group(len(requests))
        with self._counting:
            self._handing_over += 1
        with self._turns.take(requests) if self._keyed else nullcontext():
            deadline = time.monotonic() + self._timeout
            deliveries = [RoomDelivery(group, each, self._account, deadline) for each in requests]
            for delivery in deliveries:
                self._hand_over(delivery)
        with self._counting:
            self._handing_over -= 1
            self._counting.notify_all()
        group.done.wait(PATIENCE)
        return [delivery.result() for delivery in deliveries]

    def close(self, timeout: float) -> int:
        """Send what waits, then give up what is left; see IPublisher.

        A request that is given up while under way may still get through.
        """
        self._closing.set()
        self._room.close()
        if not self._started:
            return 0
        self._outbox.hurry()
        self._room.wait_until_empty(timeout)
        self._cut_off.set()
        with self._counting:
            self._counting.wait_for(lambda: not self._handing_over, _LAST_CALLS)
            left = list(self._under_way)
        for delivery in left:
            delivery.give_up(CLOSED)
        self._outbox.close()
        for threads in self._threads:
            threads.stop()
        deadline = time.monotonic() + _LAST_CALLS
        for threads in self._threads:
            threads.join(deadline)
        self._client.close()
        return self._abandoned

    def _open(self) -> KinesisClient:
        return open_client(
            self._settings,
            connections=_SENDERS + _CHECKERS + 1,
            read_timeout=min(_READ_TIMEOUT, max(self._timeout, 1)),
        )

    def _hand_over(self, delivery: RoomDelivery) -> None:
        request = delivery.request
        if not request.types:
            delivery.has_room = False
            delivery.finish()
            return
        with self._counting:
            self._under_way.add(delivery)
        delivery.has_room = self._room.take(len(request.types), request.size, delivery.deadline)
        if not delivery.has_room:
            delivery.give_up(CLOSED if self._closing.is_set() else _FULL)
            return
        for stream, records in self._records(delivery).items():
            if not _STREAM_NAME.fullmatch(stream):
                failure = Failure(
                    f"stream {stream} does not exist: not a name", _UNKNOWN_STREAM, lasting=True
                )
                _settle((record, failure) for record in records)
            elif self._outbox.add(stream, records):
                then = partial(self._found_out, stream)
                self._streams.ask(stream, delivery.deadline, then)

    def _records(self, delivery: RoomDelivery) -> dict[str, list[Record]]:
        """By stream; what is too large for any is settled."""
        request = delivery.request
        kinds = {}
        by_stream: dict[str, list[Record]] = {}
        for kind in request.by_type:
            stream = self._context.route(kind)
            key = self._context.partition_key(request, kind, _KEY_BYTES) or ""
            overhead = len(key.encode()) or _RANDOM_KEY_BYTES
            kinds[kind] = ((delivery, kind), key, overhead, by_stream.setdefault(stream, []))
        for kind, payload in zip(request.types, request.payloads, strict=True):
            owner, key, overhead, records = kinds[kind]
            size = len(payload) + overhead
            if size > _LARGEST_RECORD_BYTES:
                delivery.settle(kind, 1, _TOO_LARGE)
            else:
                records.append(Record(owner, payload, key, size, delivery.deadline))
        return {stream: records for stream, records in by_stream.items() if records}

    def _found_out(self, stream: str, failure: Failure | None) -> None:
        if failure is None:
            self._outbox.open(stream)
        else:
            _settle((record, failure) for record in self._outbox.remove(stream))

    def _account(self, delivery: RoomDelivery) -> PublishError | None:
        """Count a finished delivery and give its outcome."""
        request = delivery.request
        abandoned = count_events(self._context, self.name, delivery)
        with self._counting:
            self._abandoned += abandoned
            self._under_way.discard(delivery)
        if delivery.has_room:
            self._room.give(len(request.types), request.size)
        return outcome_of(delivery.failures, len(request.types))

    def _dispatch(self) -> None:
        while (parcel := self._outbox.take()) is not None:
            _settle((record, record.failure or _FULL) for record in parcel.expired)
            if parcel.records:
                self._senders.submit(self._send, parcel.stream, parcel.records)

    def _send(self, stream: str, records: list[Record]) -> None:
        """Make one request, and have sent again what may go better later."""
        settled: list[tuple[Record, Failure | None]] = []
        again = []
        attempts = 0
        hold = self._keyed
        for record, trouble in zip(records, self._put(stream, records), strict=True):
            if trouble is None:
                settled.append((record, None))
            elif trouble.passing:
                attempts = max(attempts, record.attempts)
                hold = hold or trouble.whole
                record.attempts += 1
                record.failure = trouble.failure
                again.append(record)
            else:
                settled.append((record, trouble.failure))
        pause = 0.0
        if again:
            self._metrics.count("kinesis_records_sent_again_total", len(again), (stream,))
            # Where some get through, the others soon will.
            pause = full_jitter(0 if settled else attempts)
            left = min(record.deadline for record in again) - time.monotonic()
            pause = max(min(pause, left), 0)
        self._outbox.done(stream, again, pause, hold)
        _settle(settled)

    def _put(self, stream: str, records: list[Record]) -> list[_Trouble | None]:
        """Write records; by halves, where Kinesis finds fault with one of them."""
        half = len(records) // 2
        try:
            refused = self._client.put(
                stream, [(record.payload, record.key or _random_key()) for record in records]
            )
        except RefusedError as error:
            self._announce(not error.from_between, str(error))
            if half and error.invalid:
                return self._put(stream, records[:half]) + self._put(stream, records[half:])
            return [self._refused(stream, records[0], error)] * len(records)
        except NoAnswerError as error:
            self._announce(False, str(error))
            return [_Trouble(NO_ANSWER, True)] * len(records)
        except Exception as error:
            _log.exception("a request to Kinesis failed")
            return [_Trouble(Failure(f"not sent: {error}"), False)] * len(records)
        self._announce(True)
        if not any(refused):
            return [None] * len(records)
        return [None if one is None else _refused_record(stream, one) for one in refused]

    def _refused(self, stream: str, record: Record, error: RefusedError) -> _Trouble:
        """What to make of a request that was refused whole; `record` is its first."""
        _log.warning("stream %s: a request was refused: %s", stream, error)
        if error.not_found:
            self._streams.forget(stream)
            failure: Failure | None = does_not_exist(stream)
            if self._settings.stream_autocreate:
                failure, _ = self._check.check(stream, record.deadline)
            return _Trouble(failure or does_not_exist(stream), failure is None)
        if error.throttled:
            return _Trouble(_over_throughput(stream, error.code), True)
        if error.invalid and record.size > _RECORD_BYTES:
            reason = f"event too large for stream {stream} ({record.size} bytes with its key)"
            return _Trouble(Failure(reason, _LARGE, lasting=True), False)
        return _Trouble(Failure(f"Kinesis refused: {error.code}"), error.passing)

    def _watch(self) -> None:
        """Ask for any stream while Kinesis is not known to answer: whatever it says is one."""
        while not self._cut_off.is_set():
            if self._announced is not True:
                try:
                    self._client.status(self._context.route("probe"))
                except RefusedError as error:
                    self._announce(not error.from_between, str(error))
                except NoAnswerError as error:
                    self._announce(False, str(error))
                else:
                    self._announce(True)
            self._cut_off.wait(_PROBE_EVERY)

    def _announce(self, reachable: bool, reason: str = "") -> None:
        if reachable == self._announced or self._cut_off.is_set():
            return
        with self._announcing:
            if reachable == self._announced:
                return
            self._announced = self.reachable = reachable
            self._metrics.gauge("destination_reachable_current", float(reachable), ())
            if reachable:
                _log.info("%s answers", self.destination)
            else:
                _log.error("%s does not answer; trying on: %s", self.destination, reason)


def _settle(outcomes: Iterable[tuple[Record, Failure | None]]) -> None:
    """Tell the deliveries what became of their records, once for each kind of outcome."""
    counted = Counter[Any]((record.owner, failure) for record, failure in outcomes)
    for ((delivery, event_type), failure), events in counted.items():
        delivery.settle(event_type, events, failure)


def _refused_record(stream: str, refused: RefusedRecord) -> _Trouble:
    if refused.throttled:
        return _Trouble(_over_throughput(stream, refused.code), True, whole=False)
    return _Trouble(Failure(f"Kinesis refused: {refused.code}"), True, whole=False)


def _over_throughput(stream: str, code: str) -> Failure:
    return Failure(f"stream {stream} takes no more for now ({code})", _THROUGHPUT)


def _random_key() -> str:
    """Spreads records over the shards; a refused one perhaps to another than before."""
    return f"{random.getrandbits(64):x}"
