"""What becomes of segments that are not what was written."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from raccoon.interfaces import IMetrics
from raccoon.journal.entry import Entry
from raccoon.journal.files import segment as files
from raccoon.journal.files.segment import Segment
from raccoon.journal.files.store import Found

_LOOK_SECONDS = 0.5


class Damage:
    """Writes again what could be read of a damaged segment, and only then sets it aside.

    Args:
        reactor: all but `found` and `found_elsewhere` runs in its thread.
        in_keeper: calls in the keeper's thread.
        failed: given the Failure of such a call.
        put: has an entry written.
        resident: positions of requests that are in memory.
        release_postponed: takes out of `resident` what is only on disk.
        recovered: whether what waits has been counted.
        wait: told how many more requests and events wait on disk.
        metrics: counts.
    """

    _logger = Logger()

    def __init__(
        self,
        reactor: Any,
        in_keeper: Callable[..., Deferred[Any]],
        failed: Callable[[Any], None],
        put: Callable[[Entry], None],
        resident: Collection[int],
        release_postponed: Callable[[], None],
        recovered: Callable[[], bool],
        wait: Callable[[int, int], None],
        metrics: IMetrics,
    ) -> None:
        self._reactor = reactor
        self._in_keeper = in_keeper
        self._failed = failed
        self._put = put
        self._resident = resident
        self._release_postponed = release_postponed
        self._recovered = recovered
        self._wait = wait
        self._metrics = metrics
        self._stopped = False

    def found(self, segment: Segment, why: str, saved: list[Found]) -> None:
        """In the keeper's thread: a segment of this journal is damaged."""
        self._reactor.callFromThread(self._found, segment, why, saved)

    def found_elsewhere(self, segment: Segment, why: str, saved: list[Found]) -> None:
        """Likewise, of a journal that is adopted: its positions are not ours."""
        self._reactor.callFromThread(self._found_elsewhere, segment, why, saved)

    def stop(self) -> None:
        """Wait for no request any more: the next start sets aside what is left."""
        self._stopped = True

    def _found(self, segment: Segment, why: str, saved: list[Found]) -> None:
        self._release_postponed()
        saved = [
            (position, record)
            for position, record in saved
            if position not in self._resident and not segment.is_done(files.place(position)[1])
        ]
        events = sum(record.events for _, record in saved)
        if self._recovered():
            waiting = [
                segment.events[index]
                for index in segment.waiting()
                if files.position(segment.number, index) not in self._resident
            ]
            self._wait(-len(waiting), -sum(waiting))
            self._metrics.count("journal_lost_events_total", max(sum(waiting) - events, 0))
        else:
            self._metrics.count("journal_recovered_events_total", events)
        self._save(segment, why, saved, True)

    def _found_elsewhere(self, segment: Segment, why: str, saved: list[Found]) -> None:
        events = sum(record.events for _, record in saved)
        self._metrics.count("journal_recovered_events_total", events)
        self._save(segment, why, saved, False)

    def _save(self, segment: Segment, why: str, saved: list[Found], ours: bool) -> None:
        left = len(saved)

        def stored() -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                self._set_aside(segment, why, len(saved), ours)

        for _, record in saved:
            entry = Entry(record, None)
            entry.stored = stored
            self._put(entry)
        if not saved:
            stored()

    def _set_aside(self, segment: Segment, why: str, saved: int, ours: bool) -> None:
        """At once, or when its last request on the way has ended: a kill would lose that."""
        if ours and any(files.place(one)[0] == segment.number for one in self._resident):
            if not self._stopped:
                self._reactor.callLater(_LOOK_SECONDS, self._set_aside, segment, why, saved, ours)
            return
        setting = self._in_keeper(segment.set_aside)
        setting.addCallback(self._was_set_aside, why, saved)
        setting.addErrback(self._failed)

    def _was_set_aside(self, path: Path, why: str, saved: int) -> None:
        self._metrics.count("journal_segments_damaged_total", 1)
        self._logger.error(
            "a part of the journal is damaged and was set aside as {path}: {why};"
            " {saved} requests in it could be read and are delivered",
            path=str(path),
            why=why,
            saved=saved,
        )
