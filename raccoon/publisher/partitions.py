"""Which partition of its topic a group of events without keys goes to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection

_REMEMBERED = 1000
_FIRST_SECONDS = 1.0
_AGAIN_SECONDS = 300.0

ANY = -1


class _Topic:
    """What is known of a topic.

    Attributes:
        on_way: to each partition, how many groups are; the one that was chosen last is last.
        ask_at: when the cluster is asked for its partitions, in seconds of the clock.
    """

    __slots__ = ("ask_at", "on_way")

    def __init__(self, ask_at: float) -> None:
        self.on_way: dict[int, int] = {}
        self.ask_at = ask_at


class Partitions:
    """Chooses the partition that has the least on its way.

    An idempotent producer of librdkafka sends a partition no batch while it waits for the answer
    to one of five events or more, and its thread takes a whole processor as long as others wait for
    that (`rd_kafka_toppar_producer_serve`, up to 2.16 at least). Its own choice, one partition for
    all that comes in 10 ms, has them wait wherever brokers take longer than the next group does.

    The cluster is asked for the partitions of a topic that is used for some time, and again later,
    as topics grow. While they are not known the partition is librdkafka's choice.

    Attributes:
        most: partitions of the topic that has the most; 0 while none is known.

    Args:
        ask: gives the partitions of a topic that take events, none where there is no answer. May
            block.
        remembered: topics of which partitions are known.
        first_seconds: after the first use of a topic it is asked for, and where there was no
            answer.
        again_seconds: after the last answer it is asked again.
        seconds: the clock.
    """

    def __init__(
        self,
        ask: Callable[[str], Collection[int]],
        *,
        remembered: int = _REMEMBERED,
        first_seconds: float = _FIRST_SECONDS,
        again_seconds: float = _AGAIN_SECONDS,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._remembered = remembered
        self._first_seconds = first_seconds
        self._again_seconds = again_seconds
        self._seconds = seconds
        self._topics: dict[str, _Topic] = {}
        self._lock = threading.Lock()
        self.most = 0

    def choose(self, topic: str) -> int:
        """A partition for a group of events, or ANY; `ended` follows."""
        with self._lock:
            known = self._topics.get(topic) or self._remember(topic)
            due = self._seconds() >= known.ask_at
            if due:
                known.ask_at = self._seconds() + self._first_seconds
        if due:
            self._learn(known, self._ask(topic))
        with self._lock:
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

    def _remember(self, topic: str) -> _Topic:
        if len(self._topics) >= self._remembered:
            del self._topics[next(iter(self._topics))]
        known = self._topics[topic] = _Topic(self._seconds() + self._first_seconds)
        return known

    def _learn(self, known: _Topic, partitions: Collection[int]) -> None:
        if not partitions:
            return
        with self._lock:
            known.on_way = {one: known.on_way.get(one, 0) for one in partitions}
            known.ask_at = self._seconds() + self._again_seconds
            self.most = max(self.most, len(partitions))
