"""librdkafka's producer in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Set
from types import SimpleNamespace

from confluent_kafka import KafkaError, KafkaException

NOW = 1_795_492_430.0
_WRITE_BUFFER = 65536  # of a Twisted transport; past it its producer is paused
_TOPIC_BYTES = 512
_POLL = 0.003  # seconds; a poll may return early, and closing need not wait long for it

_POLL = 0.003  # seconds; a poll may return early, and closing need not wait long for it


class FakeMessage:
    """confluent_kafka's Message, as a delivery report has it."""

    def __init__(self, topic: str, value: bytes, key: str | bytes | None) -> None:
        self._topic = topic
        self._value = value
        self._key = key

    def topic(self) -> str:
        return self._topic

    def value(self) -> bytes:
        return self._value

    def key(self) -> str | bytes | None:
        return self._key


class FakeProducer:
    """confluent_kafka's Producer, set to report errors only, with a cluster in memory.

    A thread that polls is served at once: of every event that is not held it lets go, and has
    reported its failure before.

    Attributes:
        partitions: of each topic.
        leaderless: those that have no leader.
        refuses_to_list: raised when it is asked for a topic.
        asked: for each event that was taken, the partition that it was to go to.

    Args:
        on_error: the producer's error_cb.
        capacity: events in its queue at most.
    """

    def __init__(self, on_error: Callable[[KafkaError], None], capacity: int = 100_000) -> None:
        self._on_error = on_error
        self._capacity = capacity
        self._changed = threading.Condition()
        self._queue: list[tuple[bytes, Callable[..., None]]] = []
        self._purged: list[tuple[bytes, Callable[..., None]]] = []
        self._topics: dict[bytes, str] = {}
        self.partitions = 3
        self.leaderless: set[int] = set()
        self.refuses_to_list: Exception | None = None
        self.asked: list[int] = []
        self._errors: list[KafkaError] = []
        self._broken = False
        self.accepted: list[tuple[str, bytes]] = []
        self.keys: dict[bytes, str | bytes | None] = {}
        self.headers: dict[bytes, dict[str, str]] = {}
        self.refusals: dict[bytes, int] = {}
        self.failures: dict[bytes, int] = {}
        self.held: set[bytes] = set()
        self.reachable = True
        self.topics: set[str] = set()
        self.full_times = 0

    # For the test.

    def release(self, still: Set[bytes] = frozenset()) -> None:
        """Nothing else is held any more."""
        with self._changed:
            self.held &= still
            self._changed.notify_all()

    def break_down(self, error: KafkaError) -> None:
        """Report an error of the client as a whole; after a fatal one it takes nothing more."""
        with self._changed:
            self._errors.append(error)
            self._broken = error.fatal()
            self._changed.notify_all()

    # confluent_kafka.Producer.

    def produce(
        self,
        topic: str,
        value: bytes,
        key: str | bytes | None,
        partition: int = -1,
        on_delivery: Callable[..., None] | None = None,
        *,
        headers: dict[str, str] | None = None,
    ) -> None:
        assert on_delivery is not None
        assert isinstance(value, bytes)
        assert partition >= -1
        if "\0" in topic:
            raise ValueError("embedded null character")
        if len(topic.encode()) > _TOPIC_BYTES:
            raise KafkaException(KafkaError(KafkaError._INVALID_ARG))
        with self._changed:
            if self._broken:
                raise KafkaException(KafkaError(KafkaError._FATAL))
            if value in self.refusals:
                raise KafkaException(KafkaError(self.refusals[value]))
            if partition >= self.partitions:
                raise KafkaException(KafkaError(KafkaError._UNKNOWN_PARTITION))
            if len(self._queue) >= self._capacity:
                self.full_times += 1
                raise BufferError
            self.asked.append(partition)
            self._queue.append((value, on_delivery))
            self.accepted.append((topic, value))
            if key is not None:
                self.keys[value] = key
            if headers:
                self.headers[value] = headers
            self._topics[value] = topic
            self._changed.notify_all()

    def poll(self, timeout: float) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._errors or self._due(), min(timeout, _POLL))
            errors, self._errors = self._errors, []
        for error in errors:
            self._on_error(error)
        return len(errors) + self._serve()

    def flush(self, timeout: float) -> int:
        assert timeout >= 0
        self._serve()
        with self._changed:
            return len(self._queue)

    def purge(self) -> None:
        with self._changed:
            self._purged += self._queue
            self._queue = []

    def list_topics(self, topic: str | None = None, *, timeout: float) -> object:
        if not self.reachable:
            raise KafkaException(KafkaError(KafkaError._TRANSPORT))
        if topic and self.refuses_to_list:
            raise self.refuses_to_list
        partitions = {
            number: SimpleNamespace(leader=-1 if number in self.leaderless else 1)
            for number in range(self.partitions)
        }
        known = SimpleNamespace(partitions=partitions)
        return SimpleNamespace(topics=dict.fromkeys([topic] if topic else self.topics, known))

    def _due(self) -> bool:
        return bool(self._purged) or any(value not in self.held for value, _ in self._queue)

    def _serve(self) -> int:
        with self._changed:
            purged, self._purged = self._purged, []
            due = [entry for entry in self._queue if entry[0] not in self.held]
            self._queue = [entry for entry in self._queue if entry[0] in self.held]
        served = len(due) + len(purged)
        while due:
            value, callback = due.pop(0)
            if value in self.failures:
                message = FakeMessage(self._topics[value], value, self.keys.get(value))
                try:
                    callback(KafkaError(self.failures[value]), message)
                except Exception:
                    with self._changed:
                        self._queue[:0] = due
                    raise
            del callback
        while purged:
            _, callback = purged.pop(0)
            callback(KafkaError(KafkaError._PURGE_QUEUE), None)
            del callback
        return served
