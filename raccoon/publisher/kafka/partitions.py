"""Which partition of its topic a group of events without keys goes to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

_REMEMBERED = 1000
_FIRST_SECONDS = 1.0
_AGAIN_SECONDS = 300.0
_PAUSE_SECONDS = 5.0

ANY = -1


class _Topic:
    """What is known of a topic.

    Attributes:
        on_way: groups in flight to each partition; the one chosen last is last.
        ask_at: when the cluster is asked for its partitions, in seconds of the clock.
    """

    __slots__ = ("ask_at", "on_way")

    def __init__(self, ask_at: float) -> None:
        self.on_way: dict[int, int] = {}
        self.ask_at = ask_at


class Partitions:
    """Chooses the partition with the fewest groups in flight.

    An idempotent librdkafka producer sends no further batch to a partition while a batch of five
    events or more is unanswered there, and its thread spins on a whole processor as long as events
    wait for that (`rd_kafka_toppar_producer_serve`, up to 2.16 at least). Its own choice, one
    partition for all events of 10 ms, makes them wait whenever a broker is slower than that.

    The cluster is asked for the partitions of a topic some time after its first use, and again
    later, as topics grow. While they are unknown librdkafka chooses the partition.

    Attributes:
        most: partitions of the topic that has the most; 0 while none is known.

    Args:
        remembered: topics of which partitions are known.
        first_seconds: after the first use of a topic it is asked for.
        again_seconds: after the last answer it is asked again.
        pause_seconds: after no answer none is asked for.
        seconds: the clock.
    """

    def __init__(
        self,
        *,
        remembered: int = _REMEMBERED,
        first_seconds: float = _FIRST_SECONDS,
        again_seconds: float = _AGAIN_SECONDS,
        pause_seconds: float = _PAUSE_SECONDS,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._remembered = remembered
        self._first_seconds = first_seconds
        self._again_seconds = again_seconds
        self._pause_seconds = pause_seconds
        self._seconds = seconds
        self._topics: dict[str, _Topic] = {}
        # Topics that were used when they were to be asked for, oldest first.
        self._due: dict[str, None] = {}
        self._pause_until = 0.0
        self._lock = threading.Lock()
        self.most = 0

    def choose(self, topic: str) -> int:
        """A partition for a group of events, or ANY; `ended` follows."""
        with self._lock:
            known = self._topics.get(topic) or self._remember(topic)
            if self._seconds() >= known.ask_at:
                self._due[topic] = None
            on_way = known.on_way
            if not on_way:
                return ANY
            chosen = min(on_way, key=on_way.__getitem__)
            on_way[chosen] = on_way.pop(chosen) + 1
            return chosen

    def ended(self, topic: str, chosen: int) -> None:
        """A group's events for a topic were delivered, or failed."""
        with self._lock:
            known = self._topics.get(topic)
            if known is not None and known.on_way.get(chosen):
                known.on_way[chosen] -= 1

    def forget(self, topic: str) -> None:
        """A topic does not have a partition that it had."""
        with self._lock:
            self._topics.pop(topic, None)

    def due(self) -> str | None:
        """A topic that the cluster is to be asked for now; `learn` follows."""
        if not self._due or self._seconds() < self._pause_until:
            return None
        with self._lock:
            return next(iter(self._due), None)

    def learn(self, topic: str, partitions: Collection[int]) -> None:
        """These partitions of a topic take events; none where the cluster did not answer."""
        now = self._seconds()
        with self._lock:
            self._due.pop(topic, None)
            if not partitions:
                self._pause_until = now + self._pause_seconds
                return
            known = self._topics.get(topic)
            if known is not None:
                known.on_way = {one: known.on_way.get(one, 0) for one in partitions}
                known.ask_at = now + self._again_seconds
                self.most = max(self.most, len(partitions))

    def _remember(self, topic: str) -> _Topic:
        if len(self._topics) >= self._remembered:
            oldest = next(iter(self._topics))
            del self._topics[oldest]
            self._due.pop(oldest, None)
        known = self._topics[topic] = _Topic(self._seconds() + self._first_seconds)
        return known
