"""What follows for a request from what became of its way to disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.logger import Logger

from raccoon.interfaces import IMetrics
from raccoon.journal.accounts import Accounts
from raccoon.journal.acknowledgement import Acknowledgement
from raccoon.journal.deadlettering import DeadLettering
from raccoon.journal.entry import Entry, LetterEntry, State
from raccoon.logs import Throttle
from raccoon.request import CollectRequest


class Outcomes:
    """The Results of the writer, in the reactor's thread.

    Attributes:
        last_position: of the newest request on disk, or -1.

    Args:
        accounts: sums.
        acknowledgement: answers clients.
        dead_lettering: told of letters.
        resident: positions of requests that are in memory.
        put: has a request written.
        done: told of entries that need no place on disk.
        replayed: told that what was delivered is noted.
        metrics: counts.
        seconds: the clock.
    """

    _logger = Logger()

    def __init__(
        self,
        accounts: Accounts,
        acknowledgement: Acknowledgement,
        dead_lettering: DeadLettering,
        resident: set[int],
        put: Callable[[Entry], None],
        note: Callable[[Sequence[int]], None],
        metrics: IMetrics,
        seconds: Callable[[], float],
    ) -> None:
        self._accounts = accounts
        self._acknowledgement = acknowledgement
        self._dead_lettering = dead_lettering
        self._resident = resident
        self._put = put
        self._note = note
        self._metrics = metrics
        self._throttle = Throttle(self._logger, seconds)
        # Was answered before the disk failed: it is written once the disk works.
        self._unwritten: list[Entry] = []
        self._replayed_events = 0
        self.last_position = -1

    def replayed(self, events: int) -> None:
        """So many events that had come back from disk were delivered; counted once it is noted."""
        self._replayed_events += events

    def written(
        self,
        entries: Sequence[Entry],
        letters: Sequence[LetterEntry],
        delivered: Sequence[int],
        first: int,
        took: float,
    ) -> None:
        """A commit is on disk; see Results."""
        accounts = self._accounts
        self._metrics.observe("journal_commit_ms", took * 1000)
        self._noted(delivered)
        self._resident.update(range(first, first + len(entries)))
        waiting = waiting_events = size = 0
        settled, parallel, answer = State.SETTLED, State.PARALLEL, self._acknowledgement.stored
        for position, entry in enumerate(entries, first):
            state = entry.state
            if state is not settled:
                accounts.inbox_bytes -= entry.size
            size += entry.size
            entry.position = position
            request: CollectRequest | None = entry.request
            # The request has the entry: two that have each other would wait for the collector.
            entry.record = entry.request = None
            if state is settled:
                self._note([position])
            elif state is parallel:
                entry.state = State.STORED
            else:
                entry.state = State.WAITING
                self._resident.discard(position)
                accounts.in_transit_events -= entry.events
                waiting += 1
                waiting_events += entry.events
            answer(request)
            if entry.stored is not None:
                entry.stored()
        accounts.written(size)
        if waiting:
            accounts.wait(waiting, waiting_events)
        if entries:
            self.last_position = first + len(entries) - 1
        self._dead_lettering.written(letters)

    def not_written(self, entries: Sequence[Entry], delivered: Sequence[int], reason: str) -> None:
        """The disk took nothing; see Results."""
        self._noted(delivered)
        self.disk_fails(reason)
        for entry in entries:
            if entry.state is State.SETTLED:
                continue
            self._accounts.inbox_bytes -= entry.size
            request: CollectRequest | None = entry.request
            if request is not None and entry.state is State.PARALLEL:
                request.entry = None  # it is answered when it is delivered
            elif request is not None and request.acknowledged is not None:
                request.entry = None
                self._accounts.in_transit_events -= entry.events
                self._metrics.count("requests_refused_total", 1, ("journal",))
                self._metrics.count("events_refused_total", entry.events, ("journal",))
                self._acknowledgement.refused(request, reason)
            else:
                self._unwritten.append(entry)

    def letters_not_written(self, letters: Sequence[LetterEntry], reason: str) -> None:
        """See Results."""
        self._dead_lettering.not_written(letters, reason)

    def unstorable(self, item: Entry | LetterEntry, reason: str) -> None:
        """A request or a letter can never be written; see Results."""
        if isinstance(item, LetterEntry):
            self._dead_lettering.unstorable(item, reason)
            return
        if item.state is State.SETTLED:
            return
        self._accounts.inbox_bytes -= item.size
        request: CollectRequest | None = item.request
        if request is not None:
            request.entry = None
            if item.state is State.PARALLEL:
                return  # it is answered when it is delivered
        self._accounts.in_transit_events -= item.events
        self._metrics.count("events_failed_total", item.events)
        self._throttle.error(
            "a request of {events} events cannot be stored: {reason}",
            events=item.events,
            reason=reason,
        )
        if request is not None:
            self._acknowledgement.failed(request, reason)
        if item.not_stored is not None:
            item.not_stored()

    def disk_fails(self, reason: str) -> None:
        """The disk takes no writes."""
        if not self._accounts.broken:
            self._logger.error(
                "the journal cannot be written: {reason}; requests are refused until it can",
                reason=reason,
            )
        self._accounts.broken = reason

    def disk_works(self) -> None:
        """The disk takes writes again; see Results."""
        self._accounts.broken = ""
        self._logger.info("the journal can be written again")
        self.put_again()

    def put_again(self) -> None:
        """Write what the disk did not take, if it takes writes now."""
        if self._accounts.broken:
            return
        unwritten, self._unwritten = self._unwritten, []
        for entry in unwritten:
            self._accounts.inbox_bytes += entry.size
            self._put(entry)
        self._dead_lettering.put_again()

    def left(self) -> tuple[int, int]:
        """Events without a place on disk: whose request is there all the same, and lost ones."""
        waiting, lost = self._dead_lettering.left()
        return waiting, lost + sum(entry.events for entry in self._unwritten)

    def _noted(self, delivered: Sequence[int]) -> None:
        """These deliveries are known, and on disk if it takes writes."""
        self._resident.difference_update(delivered)
        if self._replayed_events:
            self._metrics.count("journal_replayed_events_total", self._replayed_events)
            self._replayed_events = 0
