"""Requests go to disk, wait there while they must, and come back from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import apsw
from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from raccoon.config import EventSettings, JournalSettings
from raccoon.deserialization import Checks
from raccoon.errors import Overloaded, PublishError, StartError
from raccoon.interfaces import IJournal, IMetrics, IPublisher
from raccoon.journal.adoption import Adopter, Adoption
from raccoon.journal.damage import Damage
from raccoon.journal.deadletters import DeadLetters, Letter
from raccoon.journal.files.body import MESSAGEPACK, NO_LIMITS, encode_body
from raccoon.journal.files.record import Record
from raccoon.journal.files.store import InUseError, JournalError, Recovered, Store
from raccoon.journal.replay import Replay, Return
from raccoon.journal.writer import Entry, LetterEntry, Writer
from raccoon.logs import Throttle
from raccoon.messages import Batch
from raccoon.request import CollectRequest, Requests

_PUMP_SECONDS = 0.02
_TIDY_SECONDS = 0.5
_LETTERS_SECONDS = 2.0
_LETTERS_AT_ONCE = 100

_NEARLY_FULL = 0.95
_MEMORY_MAX = 8 << 20
_SEGMENTS_AT_LEAST = 8
_INBOX_BYTES = 32 << 20
_LETTERS_BYTES = 4 << 20
_RECOVER_AGAIN_SECONDS = 5.0
_UNWRITTEN = 1000
_ADOPT_SECONDS = 5.0


@implementer(IJournal)
class JournalService(Service):
    """Keeps requests on disk until they are delivered.

    Args:
        reactor: everything but the disk runs in its thread.
        settings: sizes.
        directory: of this journal.
        left_parts: finds journals that no process has any more, to adopt.
        event: the acknowledgement level, and the types that are allowed.
        publisher: whose destination is known to answer or not.
        metrics: counts.
    """

    _logger = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: JournalSettings,
        directory: Path,
        left_parts: Callable[[], Sequence[Path]],
        event: EventSettings,
        publisher: IPublisher,
        metrics: IMetrics,
    ) -> None:
        self._reactor = reactor
        self._ack_level = event.ack
        self.bridges_outages = event.ack != 1
        self._max_bytes = settings.max_bytes
        self._throttle = Throttle(self._logger, reactor.seconds)
        self._publisher = publisher
        self._metrics = metrics
        self.directory = directory
        self._resident: set[int] = set()
        self._damage = Damage(
            reactor,
            self._in_keeper,
            self._keeper_failed,
            self._put,
            self._resident,
            lambda: self._recovered,
            self._wait,
            metrics,
        )
        segment_bytes = min(settings.segment_bytes, settings.max_bytes // _SEGMENTS_AT_LEAST)
        self._store = Store(directory, segment_bytes, self._damage.found)
        self._delay = settings.commit_delay_ms / 1000
        self._writer: Writer | None = None
        self._letters: DeadLetters | None = None
        self._writers_letters: DeadLetters | None = None
        self._keeper: ThreadPoolExecutor | None = None
        # On disk, and how much of it dead letters take.
        self._size = self._letters_size = 0
        # On the way to disk: requests, and dead letters.
        self._inbox_bytes = self._burying_bytes = 0
        self._broken = ""
        self._readmit: Callable[[Requests], None] = lambda requests: None
        self._replay = Replay(
            self._store,
            Checks(NO_LIMITS, event).check,
            publisher,
            reactor.seconds,
            self._in_keeper,
            self._resident,
            self._replay_until,
            self._came_back,
            self._keeper_failed,
        )
        self._adopter = Adopter(
            left_parts,
            partial(Adoption, segment_bytes=segment_bytes, damaged=self._damage.found_elsewhere),
            self._in_keeper,
            self._put,
            self._add_letters,
            self._may_adopt,
            metrics,
            reactor.seconds,
        )
        self._replayed_events = 0
        self._last_position = -1
        self._recovered = False
        self._tidying = self._reading_letters = False
        self._loops: list[LoopingCall] = []
        self._pausing = False
        # Was answered before the disk failed: it is written when it can be.
        self._unwritten: list[Entry | LetterEntry] = []
        self.waiting_requests = 0
        self.waiting_events = 0
        # On the way to the disk, and in no other place.
        self.in_transit_events = 0

    def attach(self, readmit: Callable[[Requests], None], queued: Callable[[], int]) -> None:
        """Say where requests go that come back from disk, and how many wait there."""
        self._readmit = readmit
        self._replay.attach(queued)

    def startService(self) -> None:
        """Take the directory, and begin to look at what earlier runs left there.

        Raises:
            StartError: another process has it, or it cannot be written.
        """
        super().startService()
        try:
            opened = self._store.open()
        except (InUseError, JournalError) as error:
            raise StartError(f"JOURNAL_DIR: {error}") from error
        if not opened:
            self._now_broken("the disk is full")
        self._writers_letters = DeadLetters(self.directory)
        self._letters = DeadLetters(self.directory)
        aside = self._letters.set_aside_if_damaged()
        if aside is not None:
            self._logger.error(
                "the dead letters are damaged and were set aside as {path}", path=str(aside)
            )
        self._measured(self._measure())
        from_thread = self._reactor.callFromThread
        self._writer = Writer(
            self._store,
            self._writers_letters,
            self._delay,
            lambda *what: from_thread(self._written, *what),
            lambda *what: from_thread(self._not_written, *what),
            lambda *what: from_thread(self._not_buried, *what),
            lambda: from_thread(self._mended),
            broken=not opened,
        )
        self._writer.start()
        self._keeper = ThreadPoolExecutor(1, "journal-keeper")
        self._recover()
        for call, seconds in (
            (self._replay.pump, _PUMP_SECONDS),
            (self._writer.flush, _PUMP_SECONDS),
            (self._tidy, _TIDY_SECONDS),
            (self._replay_letters, _LETTERS_SECONDS),
            (self._adopter.adopt, _ADOPT_SECONDS),
        ):
            loop = LoopingCall(call)
            loop.clock = self._reactor
            loop.start(seconds, now=False)
            self._loops.append(loop)
        self._adopter.adopt()

    def pause(self) -> None:
        """Bring nothing more back; what is on its way goes on."""
        self._pausing = True

    @inlineCallbacks
    def close(self) -> Any:
        """Write what is left, and give the directory back.

        Returns:
            Fires with the number of events that wait there, and of those that are lost: they were
            answered, but could not be written.
        """
        for loop in self._loops:
            loop.stop()
        self._loops = []
        self._damage.stop()
        if self._keeper is None or self._writer is None:
            return 0, 0
        yield self._in_keeper(self._writer.stop)
        # What the writer said last comes through the reactor before this goes on.
        done: Deferred[None] = Deferred()
        self._reactor.callFromThread(done.callback, None)
        yield done
        lost, waiting = 0, self.waiting_events
        for item in self._unwritten:
            if isinstance(item, LetterEntry) and item.position >= 0:
                waiting += item.letter.record.events  # its request is still in the journal
            else:
                lost += item.events
        if lost:
            self._metrics.count("events_failed_total", lost)
            self._logger.error("{lost} events could not be written to the journal", lost=lost)
        yield self._in_keeper(self._close_files)
        keeper, self._keeper = self._keeper, None
        keeper.shutdown(wait=False)
        self._writer = None
        return waiting, lost

    def _close_files(self) -> None:
        self._store.close()
        for letters in (self._writers_letters, self._letters):
            assert letters is not None
            letters.close()

    @property
    def returned_requests(self) -> int:
        """Requests that came back from disk and are on their way."""
        return self._replay.on_way

    @property
    def returned_bytes(self) -> int:
        """The memory they are charged with."""
        return self._replay.on_way_bytes

    def refusal(self, size: int) -> str | None:
        """Why a request of so many bytes cannot be taken now, or None."""
        if self._broken:
            return f"the journal cannot be written: {self._broken}"
        if self._inbox_bytes + self._burying_bytes > _INBOX_BYTES:
            return "the journal's disk is slow"
        if self._size + self._inbox_bytes + size > self._max_bytes:
            return "the journal is full (JOURNAL_MAX_BYTES)"
        return None

    def memory_left(self, used: int) -> int:
        """Bytes of requests that may be kept in memory beside the disk, `used` being there."""
        return _MEMORY_MAX - used if self._publisher.reachable else 0

    def not_ready(self) -> list[str]:
        """Why no request should be sent here now."""
        if self._broken:
            return [f"the journal cannot be written: {self._broken}"]
        if self._size > self._max_bytes * _NEARLY_FULL:
            mostly = ", mostly of dead letters" if self._letters_size > self._size / 2 else ""
            return [f"the journal is nearly full{mostly}"]
        return []

    def add(self, request: CollectRequest, in_memory: bool) -> None:
        """Write a request; at level 2 it is acknowledged then.

        Args:
            in_memory: whether it is on its way to the destination at the same time.
        """
        entry = Entry(_record(request), request)
        entry.in_memory = in_memory
        request.entry = entry
        self._put(entry)

    def delivered(self, requests: Sequence[CollectRequest]) -> None:
        """Requests that were given to the journal were delivered."""
        replayed = [request for request in requests if request.entry.replayed]
        if replayed:
            self._replay.ended(replayed)
            self._replayed_events += sum([request.entry.events for request in replayed])
        self._done([request.entry for request in requests])

    def keep(self, request: CollectRequest, error: PublishError) -> bool:
        """Take back a request whose delivery failed; False where its failure is final."""
        entry: Entry | None = request.entry
        if entry is not None and entry.replayed:
            if error.lasting:
                self._replay.ended([request])
            else:
                self._replay.failed(request)
        if error.lasting:
            if entry is None and self._ack_level == 1:
                return False  # the client is told
            position = entry.position if entry is not None else -1
            if entry is not None and position < 0:
                self._settle(entry)
            self._bury(_record(request), error.lasting, str(error), position, request)
            return True
        if entry is None:
            if self.refusal(request.size) is not None:
                return False
            self.add(request, in_memory=False)
        elif entry.position < 0:
            entry.in_memory = False
            self.in_transit_events += entry.events
        elif self._store.has(entry.position):
            self._resident.discard(entry.position)
            self._wait(1, entry.events)
        else:  # its segment is damaged: it is done with there once it is written again
            self.add(request, in_memory=False)
            self._done([entry])
        return True

    def _done(self, entries: Sequence[Entry]) -> None:
        positions = []
        for entry in entries:
            if entry.position < 0:
                self._settle(entry)
            else:
                positions.append(entry.position)
        if self._writer is not None:
            self._writer.note(positions)

    def _settle(self, entry: Entry) -> None:
        """It need not be written any more; the writer passes over it, or has just taken it."""
        entry.settled = True
        entry.request = None
        self._inbox_bytes -= entry.size

    def _put(self, entry: Entry) -> None:
        assert self._writer is not None
        self._inbox_bytes += entry.size
        if not entry.in_memory:
            self.in_transit_events += entry.events
        self._writer.put(entry)

    def _written(
        self,
        entries: Sequence[Entry],
        letters: Sequence[LetterEntry],
        delivered: Sequence[int],
        first: int,
        took: float,
    ) -> None:
        self._metrics.observe("journal_commit_ms", took * 1000)
        self._noted(delivered)
        self._resident.update(range(first, first + len(entries)))
        waiting = waiting_events = 0
        for position, entry in enumerate(entries, first):
            if not entry.settled:
                self._inbox_bytes -= entry.size
            self._size += entry.size
            entry.position = position
            request = entry.request
            # The request has the entry: two that have each other would wait for the collector.
            entry.record = entry.request = None
            if entry.settled:
                self._done([entry])
            elif not entry.in_memory:
                self._resident.discard(position)
                self.in_transit_events -= entry.events
                waiting += 1
                waiting_events += entry.events
            self._answer(request)
            if entry.stored is not None:
                entry.stored()
        if waiting:
            self._wait(waiting, waiting_events)
        if entries:
            self._last_position = first + len(entries) - 1
        for letter in letters:
            self._size += letter.size
            self._burying_bytes -= letter.size
            self.in_transit_events -= letter.events
            self._metrics.count("journal_dead_lettered_events_total", letter.events)
            self._answer(letter.request)
            if letter.position >= 0 and self._writer is not None:
                self._writer.note([letter.position])

    def _noted(self, delivered: Sequence[int]) -> None:
        """These deliveries are known, and on disk if it takes writes."""
        self._resident.difference_update(delivered)
        if self._replayed_events:
            self._metrics.count("journal_replayed_events_total", self._replayed_events)
            self._replayed_events = 0

    def _answer(self, request: CollectRequest | None) -> None:
        """A request is on disk; at level 1 that is not what its answer waits for."""
        if request is None or self._ack_level == 1:
            return
        acknowledged, request.acknowledged = request.acknowledged, None
        if acknowledged is not None:
            acknowledged.callback(None)

    def _not_written(
        self,
        entries: Sequence[Entry],
        delivered: Sequence[int],
        reason: str,
    ) -> None:
        self._noted(delivered)
        self._now_broken(reason)
        for entry in entries:
            if entry.settled:
                continue
            self._inbox_bytes -= entry.size
            request: CollectRequest | None = entry.request
            if request is not None and entry.in_memory:
                request.entry = None  # it is answered when it is delivered
            elif request is not None and request.acknowledged is not None:
                request.entry = None
                self.in_transit_events -= entry.events
                self._metrics.count("requests_refused_total", 1, ("journal",))
                self._metrics.count("events_refused_total", entry.events, ("journal",))
                self._refuse(request, reason)
            else:
                self._unwritten.append(entry)

    def _not_buried(self, letters: Sequence[LetterEntry], reason: str) -> None:
        if letters:
            self._throttle.error("the dead letters cannot be written: {reason}", reason=reason)
        for letter in letters:
            self._burying_bytes -= letter.size
            if letter.request is not None and letter.request.acknowledged is not None:
                self.in_transit_events -= letter.events
                self._metrics.count("events_failed_total", letter.events)
                self._refuse(letter.request, reason)
            elif letter.position >= 0 and len(self._unwritten) >= _UNWRITTEN:
                self.in_transit_events -= letter.events
                self._resident.discard(letter.position)
                self._wait(1, letter.letter.record.events)
            else:
                self._unwritten.append(letter)

    def _now_broken(self, reason: str) -> None:
        if not self._broken:
            self._logger.error(
                "the journal cannot be written: {reason}; requests are refused until it can",
                reason=reason,
            )
        self._broken = reason

    def _refuse(self, request: CollectRequest, reason: str) -> None:
        acknowledged, request.acknowledged = request.acknowledged, None
        if acknowledged is not None:
            acknowledged.errback(Overloaded(f"the journal cannot be written: {reason}"))

    def _mended(self) -> None:
        self._broken = ""
        self._logger.info("the journal can be written again")
        self._put_again()

    def _put_again(self) -> None:
        unwritten, self._unwritten = self._unwritten, []
        for item in unwritten:
            if isinstance(item, Entry):
                self._inbox_bytes += item.size
            else:
                self._burying_bytes += item.size
            if self._writer is not None:
                self._writer.put(item)

    def _bury(
        self,
        record: Record,
        failed: Mapping[str, int],
        reason: str,
        position: int,
        request: CollectRequest | None,
    ) -> None:
        self._throttle.error(
            "{events} events can never be delivered and went to the dead letters: {reason}",
            events=sum(failed.values()),
            reason=reason,
        )
        letter = LetterEntry(
            Letter(self._reactor.seconds(), reason, failed, record), position, request
        )
        self.in_transit_events += letter.events
        self._burying_bytes += letter.size
        assert self._writer is not None
        self._writer.put(letter)

    def _wait(self, requests: int, events: int) -> None:
        self.waiting_requests += requests
        self.waiting_events += events
        self._metrics.gauge("journal_requests_current", self.waiting_requests)
        self._metrics.gauge("journal_events_current", self.waiting_events)

    def _recover(self) -> None:
        self._in_keeper(self._store.recover).addCallbacks(self._has_recovered, self._keeper_failed)

    def _has_recovered(self, recovered: Recovered) -> None:
        self._recovered = True
        self._replay.rewind()
        self._last_position = max(self._last_position, recovered.last)
        self._metrics.count("journal_recovered_events_total", recovered.events)
        self._wait(recovered.requests, recovered.events)
        if recovered.requests:
            self._logger.info(
                "{requests} requests with {events} events wait in the journal of earlier runs",
                requests=recovered.requests,
                events=recovered.events,
            )
        assert self._writer is not None
        if not self._store.unread:
            self._writer.carry()
        elif self._loops:
            self._reactor.callLater(_RECOVER_AGAIN_SECONDS, self._recover)

    def _replay_until(self) -> int:
        """The newest request that may come back, or -1; none does while many letters wait."""
        waits = self._recovered and self.waiting_requests and not self._pausing
        return self._last_position if waits and self._burying_bytes < _LETTERS_BYTES else -1

    def _came_back(self, came: Return) -> None:
        self._resident.update(came.positions)
        events = came.requests.events
        self._readmit(came.requests)
        for position, record, problem in came.unreadable:
            events += record.events
            self._bury(record, {"": record.events}, problem, position, None)
        self._wait(-len(came.positions), -events)

    def _replay_letters(self) -> None:
        """Take back the letters that `raccoon-journal replay` chose."""
        if self._unwritten and not self._broken:
            self._put_again()
        if self._reading_letters or self._letters is None or self._broken:
            return
        self._reading_letters = True
        reading = self._in_keeper(self._letters.to_replay, _LETTERS_AT_ONCE)
        reading.addCallbacks(self._has_letters, self._letters_failed)

    def _has_letters(self, letters: list[tuple[int, Letter]]) -> None:
        left = len(letters)
        if not left:
            self._reading_letters = False

        def stored() -> None:
            nonlocal left
            left -= 1
            if not left:
                assert self._letters is not None
                removing = self._in_keeper(self._letters.remove, [number for number, _ in letters])
                removing.addErrback(self._keeper_failed)
                self._reading_letters = False

        for _, letter in letters:
            entry = Entry(letter.record, None)
            entry.stored = stored
            self._metrics.count("journal_recovered_events_total", entry.events)
            self._put(entry)

    def _letters_failed(self, failure: Failure) -> None:
        self._reading_letters = False
        self._keeper_failed(failure)

    def _tidy(self) -> None:
        self._metrics.gauge("journal_bytes_current", self._size)
        oldest_age = self._replay.oldest_age(self.waiting_requests)
        self._metrics.gauge("journal_oldest_age_seconds_current", oldest_age)
        if self._tidying:
            return
        self._tidying = True

        def done(_: Any) -> None:
            self._tidying = False

        tidying = self._in_keeper(self._tidy_store)
        tidying.addCallbacks(self._measured, self._keeper_failed)
        tidying.addBoth(done)

    def _tidy_store(self) -> tuple[int, int, int]:
        self._store.tidy()
        return self._measure()

    def _measure(self) -> tuple[int, int, int]:
        """Bytes of the requests and of the dead letters, and how many letters there are."""
        assert self._letters is not None
        try:
            letters = self._letters.recent_count()
            size = self._letters.size()
        except apsw.Error:
            letters = size = 0  # on a full disk there may be no room to open them
        return self._store.size, size, letters

    def _measured(self, measured: tuple[int, int, int]) -> None:
        requests, self._letters_size, letters = measured
        self._size = requests + self._letters_size
        self._metrics.gauge("journal_dead_letters_current", letters)

    def _may_adopt(self) -> bool:
        return not self._broken and not self._pausing

    def _add_letters(self, letters: Sequence[Letter]) -> None:
        assert self._letters is not None
        self._letters.add(letters)

    def _in_keeper(self, call: Callable[..., Any], *args: Any) -> Deferred[Any]:
        done: Deferred[Any] = Deferred()
        if self._keeper is None:
            return done  # closed: what follows is not to be

        def run() -> None:
            try:
                result = call(*args)
            except BaseException:
                self._reactor.callFromThread(done.errback, Failure())
            else:
                self._reactor.callFromThread(done.callback, result)

        self._keeper.submit(run)
        return done

    def _keeper_failed(self, failure: Failure) -> None:
        self._throttle.error(
            "the journal's keeper failed: {reason}", reason=failure.getErrorMessage()
        )


def _record(request: CollectRequest) -> Record:
    identifier = request.identifier
    batch = Batch(request.guid, request.sent_time, request.types, request.payloads)
    return Record(
        identifier.id,
        identifier.group,
        request.received_at,
        len(request.types),
        MESSAGEPACK,
        encode_body(batch),
    )
