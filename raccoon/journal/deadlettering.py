"""The way of dead letters to disk, and the way back of those that are to be sent again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred, gatherResults, inlineCallbacks
from twisted.logger import Logger

from raccoon.interfaces import IMetrics
from raccoon.journal.accounts import Accounts
from raccoon.journal.acknowledgement import Acknowledgement
from raccoon.journal.deadletters import DeadLetters, Letter
from raccoon.journal.entry import Entry, LetterEntry
from raccoon.journal.files.record import Record
from raccoon.journal.postponed import Postponed
from raccoon.logs import Throttle
from raccoon.request import CollectRequest

_AT_ONCE = 100
_UNWRITTEN = 1000


class DeadLettering:
    """Has undeliverable requests written to the dead letters. In the reactor's thread.

    Args:
        letters: the file; used in the keeper's thread alone.
        accounts: sums.
        acknowledgement: answers clients.
        postponed: told when a letter was stored.
        in_keeper: calls in the keeper's thread.
        put: has a letter written.
        put_entry: has a request written.
        note: has the deliveries of positions noted.
        return_to_wait: takes a position, and the events of its request: it waits on disk again.
        metrics: counts.
        seconds: the clock.
    """

    _logger = Logger()

    def __init__(
        self,
        letters: DeadLetters,
        accounts: Accounts,
        acknowledgement: Acknowledgement,
        postponed: Postponed,
        in_keeper: Callable[..., Deferred[Any]],
        put: Callable[[LetterEntry], None],
        put_entry: Callable[[Entry], None],
        note: Callable[[list[int]], None],
        return_to_wait: Callable[[int, int], None],
        metrics: IMetrics,
        seconds: Callable[[], float],
    ) -> None:
        self._letters = letters
        self._accounts = accounts
        self._acknowledgement = acknowledgement
        self._postponed = postponed
        self._in_keeper = in_keeper
        self._put = put
        self._put_entry = put_entry
        self._note = note
        self._return_to_wait = return_to_wait
        self._metrics = metrics
        self._seconds = seconds
        self._throttle = Throttle(self._logger, seconds)
        self._unwritten: list[LetterEntry] = []

    def dead_letter(
        self,
        record: Record,
        failed: Mapping[str, int],
        reason: str,
        position: int,
        request: CollectRequest | None,
    ) -> bool:
        """Have a request written to the dead letters.

        Args:
            record: the request.
            failed: how many events of each type failed.
            reason: why.
            position: of the request in the journal, or -1.
            request: in memory, or None.

        Returns:
            False where the dead letters are full: nothing was done.
        """
        events, reason = sum(failed.values()), _storable(reason)
        if not self._accounts.letter_fits(len(record.body)):
            self._throttle.error(
                "{events} events can never be delivered, and the dead letters are full"
                " (JOURNAL_DEAD_LETTERS_MAX_BYTES): {reason}",
                events=events,
                reason=reason,
            )
            return False
        self._throttle.error(
            "{events} events can never be delivered and went to the dead letters: {reason}",
            events=events,
            reason=reason,
        )
        letter = Letter(self._seconds(), reason, failed, record)
        entry = LetterEntry(letter, position, request)
        self._accounts.in_transit_events += entry.events
        self._accounts.letters_inbox_bytes += entry.size
        self._put(entry)
        return True

    def written(self, letters: Sequence[LetterEntry]) -> None:
        """Letters are on disk."""
        for letter in letters:
            self._accounts.letter_written(letter.size)
            self._left_the_inbox(letter)
            self._metrics.count("journal_dead_lettered_events_total", letter.events)
            self._acknowledgement.stored(letter.request)
            if letter.position >= 0:
                self._note([letter.position])
        if letters:
            self._postponed.has_room_again()

    def not_written(self, letters: Sequence[LetterEntry], reason: str) -> None:
        """The disk did not take letters."""
        if letters:
            self._throttle.error("the dead letters cannot be written: {reason}", reason=reason)
        for letter in letters:
            if letter.request is not None and letter.request.acknowledged is not None:
                self._left_the_inbox(letter)
                self._metrics.count("events_failed_total", letter.events)
                self._acknowledgement.refused(letter.request, reason)
            elif letter.position >= 0 and len(self._unwritten) >= _UNWRITTEN:
                self._left_the_inbox(letter)
                self._return_to_wait(letter.position, letter.letter.record.events)
            else:
                self._accounts.letters_inbox_bytes -= letter.size
                self._unwritten.append(letter)

    def unstorable(self, letter: LetterEntry, reason: str) -> None:
        """A letter can never be written."""
        self._left_the_inbox(letter)
        if letter.position >= 0:
            self._return_to_wait(letter.position, letter.letter.record.events)
            return
        self._metrics.count("events_failed_total", letter.events)
        self._throttle.error(
            "{events} events are lost: their dead letter cannot be stored: {reason}",
            events=letter.events,
            reason=reason,
        )
        if letter.request is not None:
            self._acknowledgement.failed(letter.request, reason)

    def put_again(self) -> None:
        """Write what the disk did not take."""
        unwritten, self._unwritten = self._unwritten, []
        for letter in unwritten:
            self._accounts.letters_inbox_bytes += letter.size
            self._put(letter)

    def left(self) -> tuple[int, int]:
        """Events of unwritten letters: those whose request is in the journal, and those lost."""
        waiting = sum(one.letter.record.events for one in self._unwritten if one.position >= 0)
        return waiting, sum(one.events for one in self._unwritten if one.position < 0)

    @inlineCallbacks
    def replay(self) -> Any:
        """Take back the letters that `raccoon-journal replay` chose, some at a time."""
        if self._accounts.broken:
            return
        letters: list[tuple[int, Letter]]
        letters = yield self._in_keeper(self._letters.to_replay, _AT_ONCE)
        storing = [self._store(number, letter.record) for number, letter in letters]
        stored = [number for number in (yield gatherResults(storing)) if number is not None]
        if stored:
            yield self._in_keeper(self._letters.remove, stored)

    def _store(self, number: int, record: Record) -> Deferred[int | None]:
        """Fires with the letter's number once its request is in the journal, or with None."""
        done: Deferred[int | None] = Deferred()
        entry = Entry(record, None)
        entry.stored = lambda: done.callback(number)
        entry.not_stored = lambda: done.callback(None)
        self._metrics.count("journal_recovered_events_total", entry.events)
        self._put_entry(entry)
        return done

    def _left_the_inbox(self, letter: LetterEntry) -> None:
        self._accounts.letters_inbox_bytes -= letter.size
        self._accounts.in_transit_events -= letter.events


def _storable(text: str) -> str:
    """Text that SQLite takes: no lone surrogates."""
    return text.encode(errors="backslashreplace").decode()
