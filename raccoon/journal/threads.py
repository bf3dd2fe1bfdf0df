"""The journal's two threads, and how they end in time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
from twisted.internet.defer import Deferred, TimeoutError, inlineCallbacks
from twisted.internet.task import deferLater
from twisted.logger import Logger

from raccoon.journal.accounts import Measured
from raccoon.journal.deadletters import DeadLetters
from raccoon.journal.files.store import Store
from raccoon.journal.keeper import Keeper
from raccoon.journal.results import InReactor
from raccoon.journal.writer import Results, Writer
from raccoon.supervision import Supervisor

# Of the seconds that a stop of the service gives the journal.
_WRITER_SECONDS = 3.0
_KEEPER_SECONDS = 1.0
_LOOK_SECONDS = 0.01
_HANGS = "the disk does not answer"


class Threads:
    """The writer, for commits, and the keeper, for all else that blocks.

    Attributes:
        writer: see Writer.
        keeper: see Keeper.
        letters: the dead letters, for the keeper's thread.
        running: whether they were started, and not closed.

    Args:
        reactor: gives time.
        store: for both.
        directory: of the journal.
        delay: seconds, of a commit.
        supervisor: of both.
    """

    _logger = Logger()

    def __init__(
        self,
        reactor: Any,
        store: Store,
        directory: Path,
        delay: float,
        supervisor: Supervisor,
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._supervisor = supervisor
        self._writers_letters = DeadLetters(directory)
        self.letters = DeadLetters(directory)
        self.writer = Writer(store, self._writers_letters, delay, supervisor)
        self.keeper = Keeper(reactor, supervisor)
        self.running = False

    def start(self, results: Results, broken: bool) -> None:
        """Begin; `results` are told in the reactor's thread."""
        self._results = results
        self._passed_on = InReactor(self._reactor, results, self._supervisor)
        self.writer.start(self._passed_on, broken)
        self.keeper.start()
        self.running = True

    def measure(self) -> Measured:
        """Sizes on disk. Blocking."""
        try:
            count = self.letters.recent_count()
            size = self.letters.size()
        except apsw.Error:
            count = size = 0  # on a full disk there may be no room to open them
        return Measured(self._store.size, size, count)

    @inlineCallbacks
    def stop_writing(self) -> Any:
        """Write what waits.

        Returns:
            Fires with False where the disk hangs: what waited is reported as not written, and the
            writer's thread is left to itself.
        """
        self.writer.stop()
        until = self._reactor.seconds() + _WRITER_SECONDS
        while self.writer.running and self._reactor.seconds() < until:
            yield deferLater(self._reactor, _LOOK_SECONDS)
        # The writer's last results come through the reactor before this goes on.
        done: Deferred[None] = Deferred()
        self._reactor.callFromThread(done.callback, None)
        yield done
        hangs = self.writer.running
        if hangs:
            self._logger.error("the journal's disk does not answer; it is not waited for")
            self._passed_on.muted = True
        self.writer.give_back(_HANGS, self._results)
        return not hangs

    @inlineCallbacks
    def close(self, with_store: bool) -> Any:
        """Close the files, and end. With a writer that hangs the store stays open."""
        self.running = False
        self._store.interrupt()
        closing = self.keeper.call(self._close_files, with_store)
        self.keeper.stop()
        try:
            yield closing.addTimeout(_KEEPER_SECONDS, self._reactor)
        except TimeoutError:
            self._logger.error("the journal's files are in use and are not closed")
        except Exception as error:
            self._supervisor.failed("closing the journal", error)

    def _close_files(self, with_store: bool) -> None:
        if with_store:
            self._store.close()
            self._writers_letters.close()
        self.letters.close()
