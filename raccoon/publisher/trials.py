"""Which topics take events, and the few that may be tried at once of those not known to."""

from __future__ import annotations

import threading

_PASSED = 10_000
_TRIED = 1000


class Trials:
    """Bounds what a client costs that sends to ever new topics.

    librdkafka keeps each topic that it was given an event for, about 10 KB of memory, asks the
    cluster for those that it does not know, all of them at once, and holds their events for
    `topic.metadata.propagation.max.ms` before it says that a topic does not exist.

    Attributes:
        passed: topics that have taken an event.

    Args:
        most_passed: how many of these are remembered; others are tried again.
        most_tried: topics that are tried at once.
    """

    def __init__(self, most_passed: int = _PASSED, most_tried: int = _TRIED) -> None:
        self._most_passed = most_passed
        self._most_tried = most_tried
        self._tried: dict[str, int] = {}
        self._lock = threading.Lock()
        self.passed: set[str] = set()

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
                if len(self.passed) >= self._most_passed:
                    self.passed.pop()
                self.passed.add(topic)

    def forget(self, topic: str) -> None:
        """A topic that had passed is not there any more."""
        self.passed.discard(topic)
