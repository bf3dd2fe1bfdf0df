"""Which topics take events, which do not exist, and the few that are tried to find out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from enum import Enum, auto
from typing import NamedTuple

_REMEMBERED = 10_000
_TRIED = 1000
_MISSED = 1000
_TIMES = 3
_FORGIVEN_SECONDS = 24 * 3600.0
_MISSING_SECONDS = 1.0
_LIST_SECONDS = 5.0


class Verdict(Enum):
    """What is to become of events for a topic that has not taken one yet.

    Attributes:
        TRY: hand them over; `end` follows.
        MISSING: the topic does not exist.
        LATER: too many others are tried.
    """

    TRY = auto()
    MISSING = auto()
    LATER = auto()


class _Missing(NamedTuple):
    until: float
    times: int


_NEVER_MISSING = _Missing(0, 0)


class Trials:
    """Bounds what a client costs that sends to ever new topics.

    librdkafka keeps each topic for which it was given an event. It asks the cluster for all unknown
    topics at once, and holds their events for `topic.metadata.propagation.max.ms` before it says
    that a topic does not exist. Even then some 4 KB stay for the life of the producer. Of each
    error that it raises for such a topic from then on, confluent-kafka leaks some 200 bytes (2.5 to
    2.16).

    So only a number of topics are tried at once. A topic that was missing several times is tried
    only when the cluster lists it; when many topics were missing that holds for every new topic,
    for a day.

    Attributes:
        passed: topics that have taken an event.

    Args:
        list_topics: asks for all topics; blocks, and gives None where there is no answer.
        remembered: how many that have passed are remembered, and of those that are missing.
        most_tried: topics that are tried at once.
        most_missed: topics that may turn out to be missing before the list is asked for others.
        missing_seconds: how long a topic is taken to be missing.
        list_seconds: how long the list is taken to be true.
        seconds: the clock.
    """

    def __init__(
        self,
        list_topics: Callable[[], Collection[str] | None],
        *,
        remembered: int = _REMEMBERED,
        most_tried: int = _TRIED,
        most_missed: int = _MISSED,
        missing_seconds: float = _MISSING_SECONDS,
        list_seconds: float = _LIST_SECONDS,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._list_topics = list_topics
        self._remembered = remembered
        self._most_tried = most_tried
        self._most_missed = most_missed
        self._missing_seconds = missing_seconds
        self._list_seconds = list_seconds
        self._seconds = seconds
        self._tried: dict[str, int] = {}
        self._missing: dict[str, _Missing] = {}
        self._missed = 0
        self._forgiven_at = 0.0
        self._listed: Collection[str] | None = None
        self._list_again = 0.0
        self._lock = threading.Lock()
        self._listing = threading.Lock()
        self.passed: set[str] = set()

    def begin(self, topic: str) -> Verdict:
        """What is to become of a request's events for a topic that has not passed."""
        missing = self._missing.get(topic, _NEVER_MISSING)
        if self._seconds() < missing.until:
            return Verdict.MISSING
        only_listed = missing.times >= _TIMES or self._many_missed()
        with self._lock:
            many_tried = topic not in self._tried and len(self._tried) >= self._most_tried
            if not only_listed and not many_tried:
                return self._try(topic)
        listed = self._list()
        if listed is not None and topic in listed:
            with self._lock:
                return self._try(topic)
        return Verdict.MISSING if only_listed and listed is not None else Verdict.LATER

    def end(self, topic: str, took: bool) -> None:
        """A trial is over: the topic took an event, or did not."""
        with self._lock:
            self._tried[topic] -= 1
            if not self._tried[topic]:
                del self._tried[topic]
            if took:
                self._missing.pop(topic, None)
                if len(self.passed) >= self._remembered:
                    self.passed.pop()
                self.passed.add(topic)

    def miss(self, topic: str) -> None:
        """A topic does not exist, or not any more."""
        with self._lock:
            self.passed.discard(topic)
            before = self._missing.pop(topic, _NEVER_MISSING)
            now = self._seconds()
            if not before.times:
                self._missed += 1
                if self._missed == self._most_missed:
                    self._forgiven_at = now + _FORGIVEN_SECONDS
            # Of one trial many events may tell.
            times = before.times + (now >= before.until)
            if len(self._missing) >= self._remembered:
                del self._missing[next(iter(self._missing))]
            self._missing[topic] = _Missing(now + self._missing_seconds, times)

    def _try(self, topic: str) -> Verdict:
        self._tried[topic] = self._tried.get(topic, 0) + 1
        return Verdict.TRY

    def _many_missed(self) -> bool:
        with self._lock:
            if self._missed >= self._most_missed and self._seconds() >= self._forgiven_at:
                self._missed = 0
            return self._missed >= self._most_missed

    def _list(self) -> Collection[str] | None:
        """The topics that there are; None where the cluster does not say so."""
        with self._listing:
            if self._seconds() >= self._list_again:
                self._listed = self._list_topics()
                self._list_again = self._seconds() + self._list_seconds
            return self._listed
