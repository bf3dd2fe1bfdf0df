"""Events to Amazon Kinesis Data Streams."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from zope.interface import alsoProvides, implementer

from raccoon.interfaces import IOrderedPublisher, IRejectingPublisher, Outcome
from raccoon.publisher import PublisherContext
from raccoon.publisher.base.accounts import Accounts
from raccoon.publisher.base.budget import InFlightBudget
from raccoon.publisher.base.delivery import CLOSED, CountedDelivery, Failure
from raccoon.publisher.base.handover import HandOver
from raccoon.publisher.base.reachability import Reachability
from raccoon.publisher.base.threads import DaemonThreads, LoopThread
from raccoon.publisher.base.topics import KnownTopics
from raccoon.publisher.kinesis.client import (
    KinesisClient,
    NoAnswerError,
    RefusedError,
    open_client,
)
from raccoon.publisher.kinesis.outbox import Outbox, Record
from raccoon.publisher.kinesis.putting import RECORD_BYTES, Putting
from raccoon.publisher.kinesis.streams import (
    StreamCheck,
    does_not_exist,
    full_jitter,
)
from raccoon.request import CollectRequest

_log = logging.getLogger(__name__)

# A group waits this long for its events; what is later answers through a Future.
PATIENCE = 0.5

# In flight at most; who publishes more waits.
_IN_FLIGHT_EVENTS = 20_000
_IN_FLIGHT_BYTES = 64 << 20
_SENDERS = 16
_CHECKERS = 8
_REQUESTS_OF_A_STREAM = 4
_DELAY = 0.005

# Of PutRecords. AWS takes 10 MiB since October 2025, others who speak its protocol may not.
# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html
_REQUEST_RECORDS = 500
_REQUEST_BYTES = 5 << 20
# With its key a record has never more; unless its stream is set to more, RECORD_BYTES.
_LARGEST_RECORD_BYTES = 10 << 20
_KEY_BYTES = 256
_RANDOM_KEY_BYTES = 16

_READ_TIMEOUT = 10.0
_PROBE_EVERY = 2.0
_LAST_CALLS = 1.0

# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_CreateStream.html
_STREAM_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")

_LARGE = "kinesis_message_too_large_total"

_FULL = Failure("Kinesis takes events too slowly, retry")
_TOO_LARGE = Failure(
    f"event too large for Kinesis ({_LARGEST_RECORD_BYTES} bytes with its partition key)",
    _LARGE,
    lasting=True,
)


@implementer(IRejectingPublisher)
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
        self._supervisor = context.supervisor
        self._reachability = Reachability(context, self.destination)
        self._timeout = settings.publish_timeout_ms / 1000
        self._client: KinesisClient
        self._check: StreamCheck
        self._streams: KnownTopics
        self._putting: Putting
        budget = InFlightBudget(_IN_FLIGHT_EVENTS, _IN_FLIGHT_BYTES)
        self._accounts = Accounts(context, self.name, budget, _FULL)
        self._hand_over = HandOver(self.name, self._supervisor, self._keyed)
        self.expect = self._hand_over.expect
        self.rejection = self._accounts.rejections.reason
        self._outbox = Outbox(
            records=_REQUEST_RECORDS,
            size=_REQUEST_BYTES,
            alone=RECORD_BYTES,
            delay=_DELAY,
            in_flight=1 if self._keyed else _REQUESTS_OF_A_STREAM,
            senders=_SENDERS,
        )
        self._senders = DaemonThreads(self._supervisor, _SENDERS, "kinesis-sender")
        self._checkers = DaemonThreads(self._supervisor, _CHECKERS, "kinesis-checker")
        failed = self._accounts.break_down
        self._dispatcher = LoopThread(
            self._supervisor, "kinesis-dispatcher", self._dispatch, failed
        )
        self._prober = LoopThread(self._supervisor, "kinesis-prober", self._probe)
        self._started = False
        self._cut_off = threading.Event()
        if self._keyed:
            alsoProvides(self, IOrderedPublisher)

    @property
    def reachable(self) -> bool:
        """See IPublisher."""
        return self._reachability.reachable

    def start(self) -> None:
        """Open the client and start the threads.

        Raises:
            StartError: there is no region, or the credentials file cannot be used.
        """
        self._client = self._open()
        announce = self._reachability.announce
        self._check = StreamCheck(self._client, self._settings, announce, self._cut_off)
        self._streams = KnownTopics(self._check.check, self._checkers.submit, self._supervisor)
        self._putting = Putting(
            self._client, self._check, self._streams, self._reachability, self._supervisor
        )
        self.destination = f"Kinesis at {self._client.endpoint}, streams {self._pattern}"
        self._reachability.destination = self.destination
        if self._context.settings.event.metadata_enabled:
            _log.warning("EVENT_METADATA_ENABLED has no effect: a Kinesis record has no headers")
        self._dispatcher.start()
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
        self._outbox.hurry()
        self._accounts.wait_until_empty(timeout)
        self._cut_off.set()
        self._reachability.close()
        self._hand_over.wait_until_done(_LAST_CALLS)
        self._accounts.give_up(CLOSED)
        self._dispatcher.stop()
        self._prober.stop()
        self._outbox.close()
        self._checkers.stop()
        self._senders.stop()
        deadline = time.monotonic() + _LAST_CALLS
        for thread in (self._dispatcher, self._prober):
            thread.join(max(deadline - time.monotonic(), 0))
        self._checkers.join(deadline)
        self._senders.join(deadline)
        self._supervisor.call("kinesis close", self._client.close)
        return self._accounts.abandoned

    def _open(self) -> KinesisClient:
        return open_client(
            self._settings,
            connections=_SENDERS + _CHECKERS + 1,
            read_timeout=min(_READ_TIMEOUT, max(self._timeout, 1)),
        )

    def _take_in(self, delivery: CountedDelivery) -> None:
        if not self._accounts.admit(delivery):
            return
        for stream, records in self._records(delivery).items():
            if not _STREAM_NAME.fullmatch(stream):
                failure = does_not_exist(stream, ": not a name")
                _settle((record, failure) for record in records)
            elif self._outbox.add(stream, records):
                self._look_up(stream, delivery.deadline)

    def _records(self, delivery: CountedDelivery) -> dict[str, list[Record]]:
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

    def _look_up(self, stream: str, deadline: float) -> None:
        try:
            self._streams.ask(stream, deadline, partial(self._found_out, stream))
        except BaseException as error:
            self._lose(self._outbox.remove(stream), error)

    def _found_out(self, stream: str, failure: Failure | None) -> None:
        try:
            if failure is None:
                self._outbox.open(stream)
            else:
                _settle((record, failure) for record in self._outbox.remove(stream))
        except BaseException as error:
            self._lose(self._outbox.remove(stream), error)

    def _dispatch(self) -> None:
        parcel = self._outbox.take()
        if parcel is None:
            return
        try:
            _settle((record, record.failure or _FULL) for record in parcel.expired)
            if parcel.records:
                self._senders.submit(self._send, parcel.stream, parcel.records)
        except BaseException as error:
            if parcel.records:
                self._outbox.done(parcel.stream, [], 0.0, hold=False)
            self._lose(parcel.expired + parcel.records, error)

    def _lose(self, records: Iterable[Record], error: BaseException) -> None:
        """What had these under its hands failed unexpectedly: so do their requests."""
        self._supervisor.failed("kinesis sender", error)
        for delivery in {record.owner[0] for record in records}:
            delivery.interrupted(error)

    def _send(self, stream: str, records: list[Record]) -> None:
        """Make one request, and have sent again what may succeed later."""
        again: list[Record] = []
        pause, hold = 0.0, False
        try:
            settled, again, pause, hold = self._attempt(stream, records)
        except BaseException as error:
            settled = []
            self._lose(records, error)
        self._outbox.done(stream, again, pause, hold)
        _settle(settled)

    def _attempt(
        self, stream: str, records: list[Record]
    ) -> tuple[list[tuple[Record, Failure | None]], list[Record], float, bool]:
        """Make one request.

        Returns:
            What became of records, those that are to be sent again, after so many seconds, and
            whether nothing else of the stream is sent before.
        """
        settled: list[tuple[Record, Failure | None]] = []
        again = []
        attempts = 0
        hold = self._keyed
        for record, trouble in zip(records, self._putting.put(stream, records), strict=True):
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
        return settled, again, pause, hold

    def _probe(self) -> None:
        """Ask for any stream while Kinesis is not known to answer: any answer will do."""
        announce = self._reachability.announce
        try:
            if self._reachability.known is not True:
                self._client.status(self._context.route("probe"))
                announce(True)
        except RefusedError as error:
            announce(not error.from_between, str(error))
        except NoAnswerError as error:
            announce(False, str(error))
        finally:
            self._prober.wait(_PROBE_EVERY)


def _settle(outcomes: Iterable[tuple[Record, Failure | None]]) -> None:
    """Tell the deliveries what became of their records, once for each kind of outcome."""
    counted = Counter[Any]((record.owner, failure) for record, failure in outcomes)
    for ((delivery, event_type), failure), events in counted.items():
        delivery.settle(event_type, events, failure)
