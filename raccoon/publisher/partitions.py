"""Which partition of its topic a group of events without keys goes to."""

from __future__ import annotations

import threading

_REMEMBERED = 1000
_FIRST = 64
_AGAIN = 64

ANY = -1


class _Topic:
    """What is known of a topic.

    Attributes:
        groups: that were sent to it.
        on_way: to each partition, how many groups are; the one that was chosen last is last.
    """

    __slots__ = ("groups", "on_way")

    def __init__(self) -> None:
        self.groups = 0
        self.on_way: dict[int, int] = {}


class Partitions:
    """Chooses the partition that has the least on its way.

    An idempotent producer of librdkafka sends a partition no batch while it waits for the answer
    to one of five events or more, and its thread takes a whole processor as long as others wait for
    that (`rd_kafka_toppar_producer_serve`, up to 2.16 at least). Its own choice, one partition for
    all that comes in 10 ms, has them wait wherever brokers take longer than the next group does.

    Partitions are known from delivery reports: of the first groups, and of some later ones, as
    topics grow, the partition is librdkafka's choice.

    Attributes:
        most: partitions of the topic that has the most; 0 while none is known.

    Args:
        remembered: topics of which partitions are known.
        first: groups for a topic before the first choice.
        again: of so many groups one is librdkafka's choice.
    """

    def __init__(
        self, remembered: int = _REMEMBERED, first: int = _FIRST, again: int = _AGAIN
    ) -> None:
        self._remembered = remembered
        self._first = first
        self._again = again
        self._topics: dict[str, _Topic] = {}
        self._lock = threading.Lock()
        self.most = 0

    def choose(self, topic: str) -> int:
        """A partition for a group of events, or ANY; `ended` follows."""
        with self._lock:
            known = self._topics.get(topic)
            if known is None:
                if len(self._topics) >= self._remembered:
                    del self._topics[next(iter(self._topics))]
                known = self._topics[topic] = _Topic()
            known.groups += 1
            on_way = known.on_way
            if known.groups <= self._first or not known.groups % self._again or not on_way:
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

    def learn(self, topic: str, partition: int) -> None:
        """An event was delivered to this partition."""
        with self._lock:
            known = self._topics.get(topic)
            if known is not None:
                known.on_way.setdefault(partition, 0)
                self.most = max(self.most, len(known.on_way))

    def forget(self, topic: str) -> None:
        """A topic does not have a partition that it had."""
        with self._lock:
            self._topics.pop(topic, None)
