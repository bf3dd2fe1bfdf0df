"""What is written to the journal, what is left out, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.logger import Logger
from zope.interface import implementer

from raccoon.config import EventSettings, JournalSettings
from raccoon.deserialization import Checks
from raccoon.errors import PublishError, StartError
from raccoon.interfaces import IJournal, IMetrics, IPublisher
from raccoon.journal.accounts import Accounts
from raccoon.journal.acknowledgement import Acknowledgement
from raccoon.journal.adoption import Adopter, Adoption
from raccoon.journal.damage import Damage
from raccoon.journal.deadlettering import DeadLettering
from raccoon.journal.entry import Entry, State
from raccoon.journal.files.body import NO_LIMITS
from raccoon.journal.files.segment import Segment
from raccoon.journal.files.store import Found, InUseError, JournalError, Store
from raccoon.journal.outcomes import Outcomes
from raccoon.journal.postponed import Postponed
from raccoon.journal.retention import Retention, record_of
from raccoon.journal.returning import Returning
from raccoon.journal.threads import Threads
from raccoon.request import CollectRequest, Requests
from raccoon.supervision import Supervisor

_PUMP_SECONDS = 0.02
_TIDY_SECONDS = 0.5
_LETTERS_SECONDS = 2.0
_ADOPT_SECONDS = 5.0

_MEMORY_MAX = 8 << 20
_SEGMENTS_AT_LEAST = 8


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
        supervisor: of threads, loops and callbacks.
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
        supervisor: Supervisor,
    ) -> None:
        self._reactor = reactor
        self.bridges_outages = event.ack != 1
        self._publisher = publisher
        self._metrics = metrics
        self._supervisor = supervisor
        self.directory = directory
        self._resident: set[int] = set()
        self._accounts = Accounts(settings.max_bytes, settings.dead_letters_max_bytes, metrics)
        self._postponed = Postponed(self._resident, reactor.seconds)
        segment_bytes = min(settings.segment_bytes, settings.max_bytes // _SEGMENTS_AT_LEAST)
        self._store = Store(directory, segment_bytes, self._damaged)
        acknowledgement = Acknowledgement(event.ack)
        self._threads = Threads(
            reactor, self._store, directory, settings.commit_delay_ms / 1000, supervisor
        )
        self._writer = self._threads.writer
        self._retention = Retention(
            self._store,
            self._writer,
            self._accounts,
            self._resident,
            self._postponed,
            self.add,
            event.ack,
            supervisor,
        )
        # Called for each request: without a method between.
        self._put, self._done = self._retention.put, self._retention.done
        self._damage = Damage(
            reactor,
            self._in_keeper,
            partial(supervisor.failed, "journal damage"),
            self._put,
            self._resident,
            self._postponed.release_all,
            lambda: self._returning.recovered,
            self._accounts.wait,
            metrics,
        )
        self._dead_lettering = DeadLettering(
            self._threads.letters,
            self._accounts,
            acknowledgement,
            self._postponed,
            self._in_keeper,
            self._writer.put,
            self._put,
            self._writer.note,
            self._retention.wait_again,
            metrics,
            reactor.seconds,
        )
        self._outcomes = Outcomes(
            self._accounts,
            acknowledgement,
            self._dead_lettering,
            self._resident,
            self._writer.put,
            self._writer.note,
            metrics,
            reactor.seconds,
        )
        self._returning = Returning(
            reactor,
            self._store,
            Checks(NO_LIMITS, event).check,
            publisher,
            self._threads,
            self._resident,
            self._accounts,
            self._outcomes,
            self._dead_lettering,
            self._retention.wait_again,
            metrics,
            supervisor,
        )
        self._replay = self._returning.replay
        self._retention.attach(self._dead_lettering, self._replay)
        self._adopter = Adopter(
            left_parts,
            partial(Adoption, segment_bytes=segment_bytes, damaged=self._damage.found_elsewhere),
            self._in_keeper,
            self._put,
            self._threads.letters.add,
            lambda: not self._accounts.broken and not self._returning.paused,
            metrics,
            reactor.seconds,
        )
        self._loops = [
            (supervisor.loop(f"journal {name}", call, reactor), seconds)
            for name, call, seconds in (
                ("replay", self._replay.pump, _PUMP_SECONDS),
                ("flush", self._writer.flush, _PUMP_SECONDS),
                ("gauges", self._show, _TIDY_SECONDS),
                ("tidying", self._tidy, _TIDY_SECONDS),
                ("retry", self._outcomes.put_again, _LETTERS_SECONDS),
                ("letters", self._dead_lettering.replay, _LETTERS_SECONDS),
                ("adoption", self._adopter.adopt, _ADOPT_SECONDS),
            )
        ]

    def attach(self, readmit: Callable[[Requests], None], queued: Callable[[], int]) -> None:
        """Say where requests go that come back from disk, and how many wait there."""
        self._returning.readmit = readmit
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
            self._outcomes.disk_fails("the disk is full")
        aside = self._threads.letters.set_aside_if_damaged()
        if aside is not None:
            self._logger.error(
                "the dead letters are damaged and were set aside as {path}", path=str(aside)
            )
        self._accounts.measured(self._threads.measure())
        self._threads.start(self._outcomes, broken=not opened)
        self._returning.recover()
        for loop, seconds in self._loops:
            loop.start(seconds, now=False)
        self._supervisor.call("journal adoption", self._adopt_now)

    def pause(self) -> None:
        """Bring nothing more back; what is on its way goes on."""
        self._returning.paused = True

    @inlineCallbacks
    def close(self) -> Any:
        """Write what is left, and give the directory back, within a few seconds.

        Returns:
            Fires with the number of events that wait there, and of those that are lost: they were
            answered, but could not be written.
        """
        for loop, _ in self._loops:
            loop.stop()
        self._damage.stop()
        if not self._threads.running:
            return 0, 0
        written = yield self._threads.stop_writing()
        waiting, lost = self._outcomes.left()
        waiting += self._accounts.waiting_events
        if lost:
            self._metrics.count("events_failed_total", lost)
            self._logger.error("{lost} events could not be written to the journal", lost=lost)
        yield self._threads.close(with_store=written)
        return waiting, lost

    @property
    def in_transit_events(self) -> int:
        """Events on their way to the disk, and in no other place."""
        return self._accounts.in_transit_events

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
        return self._accounts.refusal(size)

    def memory_left(self, used: int) -> int:
        """Bytes of requests that may be kept in memory beside the disk, `used` being there."""
        return _MEMORY_MAX - used if self._publisher.reachable else 0

    def not_ready(self) -> list[str]:
        """Why no request should be sent here now."""
        return self._accounts.not_ready(len(self._postponed))

    def add(self, request: CollectRequest, in_memory: bool) -> None:
        """Write a request; at level 2 it is acknowledged then.

        Args:
            in_memory: whether it is on its way to the destination at the same time.
        """
        state = State.PARALLEL if in_memory else State.WRITING
        entry = Entry(record_of(request), request, state)
        request.entry = entry
        self._put(entry)

    def delivered(self, requests: Sequence[CollectRequest]) -> None:
        """Requests that were given to the journal were delivered."""
        came_back = State.RETURNED
        returned = [one for one in requests if one.entry.state is came_back]
        if returned:
            self._replay.ended(returned)
            self._outcomes.replayed(sum([request.entry.events for request in returned]))
        self._done([request.entry for request in requests])

    def retain(self, request: CollectRequest, error: PublishError) -> int | None:
        """Take responsibility for a request whose delivery failed; see Retention."""
        return self._retention.retain(request, error)

    def _damaged(self, segment: Segment, why: str, saved: list[Found]) -> None:
        """In the keeper's thread."""
        self._damage.found(segment, why, saved)

    def _in_keeper(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return self._threads.keeper.call(function, *args)

    def _show(self) -> None:
        """Set the gauges, and let the replay have what it has passed over long enough."""
        self._accounts.show()
        self._postponed.release_due()
        self._metrics.gauge("journal_postponed_requests_current", len(self._postponed))
        oldest_age = self._replay.oldest_age(self._accounts.waiting_requests)
        self._metrics.gauge("journal_oldest_age_seconds_current", oldest_age)

    def _tidy(self) -> Deferred[None]:
        tidying = self._in_keeper(self._store.tidy)
        tidying.addCallback(lambda _: self._in_keeper(self._threads.measure))
        return tidying.addCallback(self._accounts.measured)

    def _adopt_now(self) -> None:
        adopting: Deferred[Any] = self._adopter.adopt()
        adopting.addErrback(partial(self._supervisor.failed, "journal adoption"))
