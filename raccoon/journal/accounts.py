"""What the journal holds and has room for, in bytes, requests and events."""

from __future__ import annotations

from typing import NamedTuple

from raccoon.interfaces import IMetrics

_NEARLY_FULL = 0.95
_INBOX_BYTES = 32 << 20
_LETTERS_INBOX_BYTES = 4 << 20
# A letter's row beside the body, and the log of the letters' file at its longest.
_LETTER_OVERHEAD = 512
_LETTERS_LOG_BYTES = 4 << 20


class Measured(NamedTuple):
    """Sizes on disk.

    Attributes:
        requests: bytes of the segments.
        letters: bytes of the dead letters.
        letter_count: how many dead letters there are.
    """

    requests: int
    letters: int
    letter_count: int


class Accounts:
    """Keeps the sums, and sets their gauges.

    Between two measurements of the disk, sizes are estimated from what was written.

    Attributes:
        broken: why the disk takes no writes, or empty.
        inbox_bytes: of requests that are on their way to disk.
        letters_inbox_bytes: of dead letters that are.
        in_transit_events: events on their way to disk and in no other place.
        waiting_requests: requests that wait on disk alone.
        waiting_events: their events.

    Args:
        max_bytes: of the requests on disk.
        letters_max_bytes: of the dead letters on disk.
        metrics: gauges.
    """

    def __init__(self, max_bytes: int, letters_max_bytes: int, metrics: IMetrics) -> None:
        self._max_bytes = max_bytes
        self._letters_max_bytes = max(
            letters_max_bytes - _LETTERS_LOG_BYTES, letters_max_bytes // 2
        )
        self._metrics = metrics
        self._size = self._letters_size = 0
        self.broken = ""
        self.inbox_bytes = 0
        self.letters_inbox_bytes = 0
        self.in_transit_events = 0
        self.waiting_requests = 0
        self.waiting_events = 0

    def measured(self, sizes: Measured) -> None:
        """The sizes on disk were measured."""
        self._size, self._letters_size, letters = sizes
        self._metrics.gauge("journal_dead_letters_current", letters)

    def written(self, size: int) -> None:
        """So many bytes of requests came to disk."""
        self._size += size

    def letter_written(self, size: int) -> None:
        """A dead letter of so many bytes came to disk."""
        self._letters_size += size + _LETTER_OVERHEAD

    def wait(self, requests: int, events: int) -> None:
        """So many more requests and events wait on disk alone; may be negative."""
        self.waiting_requests += requests
        self.waiting_events += events
        self._metrics.gauge("journal_requests_current", self.waiting_requests)
        self._metrics.gauge("journal_events_current", self.waiting_events)

    def refusal(self, size: int) -> str | None:
        """Why a request of so many bytes cannot be taken now, or None."""
        if self.broken:
            return f"the journal cannot be written: {self.broken}"
        if self.inbox_bytes + self.letters_inbox_bytes > _INBOX_BYTES:
            return "the journal's disk is slow"
        if self._size + self.inbox_bytes + size > self._max_bytes:
            return "the journal is full (JOURNAL_MAX_BYTES)"
        return None

    def letter_fits(self, size: int) -> bool:
        """Whether the dead letters have room for one more of so many bytes."""
        used = self._letters_size + self.letters_inbox_bytes
        return used + size + _LETTER_OVERHEAD <= self._letters_max_bytes

    @property
    def many_letters_wait(self) -> bool:
        """Whether so many dead letters are on their way to disk that no more should be made."""
        return self.letters_inbox_bytes >= _LETTERS_INBOX_BYTES

    def not_ready(self, postponed: int) -> list[str]:
        """Why no request should be sent here now, `postponed` requests waiting for good."""
        if self.broken:
            return [f"the journal cannot be written: {self.broken}"]
        if self._size > self._max_bytes * _NEARLY_FULL:
            because = ""
            if postponed:
                because = (
                    f"; {postponed} undeliverable requests wait in it, as the dead letters are full"
                    " (JOURNAL_DEAD_LETTERS_MAX_BYTES)"
                )
            return [f"the journal is nearly full{because}"]
        return []

    def show(self) -> None:
        """Set the gauges of the sizes."""
        self._metrics.gauge("journal_bytes_current", self._size)
        self._metrics.gauge("journal_dead_letters_bytes_current", self._letters_size)
