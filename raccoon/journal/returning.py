"""What waits on disk is counted at the start, and comes back from there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from raccoon.interfaces import IMetrics, IPublisher
from raccoon.journal.accounts import Accounts
from raccoon.journal.deadlettering import DeadLettering
from raccoon.journal.files.store import Recovered, Store
from raccoon.journal.outcomes import Outcomes
from raccoon.journal.replay import Replay, Return
from raccoon.journal.threads import Threads
from raccoon.messages import Batch
from raccoon.request import Requests
from raccoon.supervision import Supervisor

_RECOVER_AGAIN_SECONDS = 5.0
_RECOVERY = "journal recovery"


class Returning:
    """Recovers the files of earlier runs, and admits what the replay reads.

    Attributes:
        readmit: puts requests into the queue.
        recovered: whether what waits has been counted.
        paused: nothing is to come back any more.
        replay: reads what waits, and keeps the pace.

    Args:
        reactor: gives time.
        store: what is read.
        check: see Replay.
        publisher: see Replay.
        threads: the keeper reads.
        resident: positions of requests that are in memory.
        accounts: sums.
        outcomes: knows the newest request on disk.
        dead_lettering: takes what cannot be read.
        wait_again: takes a position and its events, for which there is no room there.
        metrics: counts.
        supervisor: is told of faults.
    """

    _logger = Logger()

    def __init__(
        self,
        reactor: Any,
        store: Store,
        check: Callable[[Batch], Batch],
        publisher: IPublisher,
        threads: Threads,
        resident: set[int],
        accounts: Accounts,
        outcomes: Outcomes,
        dead_lettering: DeadLettering,
        wait_again: Callable[[int, int], None],
        metrics: IMetrics,
        supervisor: Supervisor,
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._threads = threads
        self._resident = resident
        self._accounts = accounts
        self._outcomes = outcomes
        self._dead_lettering = dead_lettering
        self._wait_again = wait_again
        self._metrics = metrics
        self._supervisor = supervisor
        self.readmit: Callable[[Requests], None] = lambda requests: None
        self.recovered = self.paused = False
        self.replay = Replay(
            store,
            check,
            publisher,
            reactor.seconds,
            threads.keeper.call,
            resident,
            self._replay_until,
            self._came_back,
            partial(supervisor.failed, "journal reading"),
        )

    def recover(self) -> None:
        """Count what waits, and let it come back; tried again until it works."""
        recovering = self._threads.keeper.call(self._store.recover)
        recovering.addCallback(self._has_recovered)
        recovering.addErrback(self._recovery_failed)

    def _recovery_failed(self, failure: Failure) -> None:
        self._supervisor.failed(_RECOVERY, failure)
        self._recover_again()

    def _recover_again(self) -> None:
        if self._threads.running:
            self._reactor.callLater(_RECOVER_AGAIN_SECONDS, self.recover)

    def _has_recovered(self, recovered: Recovered) -> None:
        self.recovered = True
        self.replay.rewind()
        self._outcomes.last_position = max(self._outcomes.last_position, recovered.last)
        self._metrics.count("journal_recovered_events_total", recovered.events)
        self._accounts.wait(recovered.requests, recovered.events)
        if recovered.requests:
            self._logger.info(
                "{requests} requests with {events} events wait in the journal of earlier runs",
                requests=recovered.requests,
                events=recovered.events,
            )
        if self._store.unread:
            self._recover_again()
        else:
            self._threads.writer.carry()

    def _replay_until(self) -> int:
        """The newest request that may come back, or -1; none does while many letters wait."""
        accounts = self._accounts
        if not self.recovered or not accounts.waiting_requests or self.paused:
            return -1
        return -1 if accounts.many_letters_wait else self._outcomes.last_position

    def _came_back(self, came: Return) -> None:
        self.readmit(came.requests)
        self._resident.update(came.positions)
        unreadable = sum(record.events for _, record, _ in came.unreadable)
        self._accounts.wait(-len(came.positions), -came.requests.events - unreadable)
        for position, record, problem in came.unreadable:
            failed = {"": record.events}
            if not self._dead_lettering.dead_letter(record, failed, problem, position, None):
                self._wait_again(position, record.events)
