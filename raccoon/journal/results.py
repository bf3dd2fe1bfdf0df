"""Brings the writer's results to the reactor's thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from raccoon.journal.entry import Entry, LetterEntry
from raccoon.journal.writer import Results
from raccoon.supervision import Supervisor


class InReactor:
    """Passes results on in the reactor's thread, until it is muted.

    Args:
        reactor: whose thread it is.
        results: told there.
        supervisor: of these calls.
    """

    def __init__(self, reactor: Any, results: Results, supervisor: Supervisor) -> None:
        self._from_thread = reactor.callFromThread
        self._results = results
        self._supervisor = supervisor
        self.muted = False

    def written(
        self,
        entries: Sequence[Entry],
        letters: Sequence[LetterEntry],
        delivered: Sequence[int],
        first: int,
        took: float,
    ) -> None:
        """See Results."""
        written = self._results.written
        self._from_thread(self._pass_on, written, entries, letters, delivered, first, took)

    def not_written(self, entries: Sequence[Entry], delivered: Sequence[int], reason: str) -> None:
        """See Results."""
        self._from_thread(self._pass_on, self._results.not_written, entries, delivered, reason)

    def letters_not_written(self, letters: Sequence[LetterEntry], reason: str) -> None:
        """See Results."""
        self._from_thread(self._pass_on, self._results.letters_not_written, letters, reason)

    def unstorable(self, item: Entry | LetterEntry, reason: str) -> None:
        """See Results."""
        self._from_thread(self._pass_on, self._results.unstorable, item, reason)

    def disk_works(self) -> None:
        """See Results."""
        self._from_thread(self._pass_on, self._results.disk_works)

    def _pass_on(self, result: Callable[..., None], *args: Any) -> None:
        if not self.muted:
            self._supervisor.call("journal results", result, *args)
