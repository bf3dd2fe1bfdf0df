"""Which topics take events, which are missing, and the few that are tried to find out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_REMEMBERED = 10_000
_TRIED = 1000
_MISSING_SECONDS = 10.0


class Trials:
    """Bounds what a client costs that sends to ever new topics.

    librdkafka keeps each topic that it was given an event for, about 10 KB of memory, asks the
    cluster for those that it does not know, all of them at once, and holds their events for
    `topic.metadata.propagation.max.ms` before it says that a topic does not exist. Of the error
    that it then raises at once for each event, confluent-kafka never frees some 200 bytes
    (2.5 to 2.16).

    Attributes:
        passed: topics that have taken an event.

    Args:
        remembered: how many of these, and of those that are missing; others are tried again.
        most_tried: topics that are tried at once.
        missing_seconds: how long a topic is taken to be missing.
        seconds: the clock.
    """

    def __init__(
        self,
        remembered: int = _REMEMBERED,
        most_tried: int = _TRIED,
        missing_seconds: float = _MISSING_SECONDS,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._remembered = remembered
        self._most_tried = most_tried
        self._missing_seconds = missing_seconds
        self._seconds = seconds
        self._tried: dict[str, int] = {}
        self._missing_until: dict[str, float] = {}
        self._lock = threading.Lock()
        self.passed: set[str] = set()

    def missing(self, topic: str) -> bool:
        """Whether a topic was found missing a short while ago."""
        until = self._missing_until.get(topic)
        return until is not None and self._seconds() < until

    def begin(self, topic: str) -> bool:
        """Try a topic that has not passed; False where too many are tried. `end` follows."""
        with self._lock:
            requests = self._tried.get(topic, 0)
            if not requests and len(self._tried) >= self._most_tried:
                return False
            self._tried[topic] = requests + 1
            return True

    def end(self, topic: str, took: bool) -> None:
        """A trial is over: the topic took an event, or did not."""
        with self._lock:
            self._tried[topic] -= 1
            if not self._tried[topic]:
                del self._tried[topic]
            if took:
                if len(self.passed) >= self._remembered:
                    self.passed.pop()
                self.passed.add(topic)

    def miss(self, topic: str) -> None:
        """A topic does not exist, or not any more."""
        with self._lock:
            self.passed.discard(topic)
            self._missing_until.pop(topic, None)
            if len(self._missing_until) >= self._remembered:
                del self._missing_until[next(iter(self._missing_until))]
            self._missing_until[topic] = self._seconds() + self._missing_seconds
