"""What every publisher keeps, as cases that a publisher's own test class inherits.

A class for the log inherits Contract; one for an engine, which may refuse events, be away and
come back, inherits EngineContract of tests.publisher.engine_contract.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from raccoon.config import load
from raccoon.interfaces import IPublisher
from raccoon.publisher import PublisherContext
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics, make_request
from tests.mixin import Mixin

WAIT = 60
_SIZE = 200
_MANY = 100_000
_TOPICS = 20
THREADS = 4


class Stored(NamedTuple):
    """One event as the destination has it.

    Attributes:
        destination: topic or stream.
        place: partition or shard; events of one place are in order.
        payload: its bytes.
        key: the key it was sent with.
        metadata: what else it was sent with.
    """

    destination: str
    place: str
    payload: bytes
    key: str = ""
    metadata: dict[str, str] = {}


def make_payloads(count: int, seed: int = 0) -> list[bytes]:
    """Different payloads of 200 bytes, which are neither text nor JSON nor protobuf."""
    source = random.Random(seed)
    return [
        b"\xff" + b"%04d/%010d" % (seed, n) + source.randbytes(_SIZE - 16) for n in range(count)
    ]


def in_requests(topic: str, payloads: Sequence[bytes], events: int) -> list[CollectRequest]:
    """Requests of so many events each."""
    return [
        make_request(str(first), [(topic, each) for each in payloads[first : first + events]])
        for first in range(0, len(payloads), events)
    ]


class Contract(Mixin):
    """What holds wherever events go.

    Attributes:
        publisher_class: what is tested.
    """

    publisher_class: Callable[[PublisherContext], Any]

    def environment(self) -> dict[str, str]:
        """The variables that lead the publisher to its destination."""
        return {}

    def create(self, destination: str) -> None:
        """Make a topic or stream."""

    def stored(self, expected: Mapping[str, int]) -> list[Stored]:
        """All that these topics or streams hold, once so many events are there or are overdue."""
        raise NotImplementedError

    def open(self, **environment: str) -> Any:
        """A started publisher; it is closed when the test ends."""
        quiet = logging.getLogger("raccoon")
        self.patch(quiet, "handlers", [logging.NullHandler()])
        self.patch(quiet, "propagate", False)
        self.metrics = FakeMetrics()
        everything = {
            "EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "%s",
            **self.environment(),
            **environment,
        }
        publisher = self.publisher_class(
            PublisherContext(load({}, everything), self.metrics, Supervisor(self.metrics))
        )
        publisher.start()
        self.addCleanup(publisher.close, 0)
        return publisher

    def topic(self, suffix: str = "") -> str:
        """The name of a topic or stream of this test's own, that is there."""
        name = self.name(suffix)
        self.create(name)
        return name

    def name(self, suffix: str = "") -> str:
        """The name of a topic or stream of this test's own."""
        return self.id().rpartition(".")[2].replace("_", "-") + suffix

    def publish(self, publisher: Any, requests: Sequence[CollectRequest]) -> list[Any]:
        """The outcomes, those that come later included."""
        return [self.settled(outcome) for outcome in publisher.publish(requests)]

    def settled(self, outcome: Any) -> Any:
        """An outcome, waited for."""
        return outcome.result(WAIT) if isinstance(outcome, Future) else outcome

    def check_stored(self, sent: Mapping[str, Sequence[bytes]]) -> None:
        """Topics hold these, each once, and nothing else."""
        wanted = Counter((topic, each) for topic, payloads in sent.items() for each in payloads)
        events = self.stored({topic: len(payloads) for topic, payloads in sent.items()})
        found = Counter((event.destination, event.payload) for event in events)
        self.assertEqual((wanted - found).total(), 0, "events are missing")
        self.assertEqual((found - wanted).total(), 0, "events came twice, or changed")

    def test_is_a_publisher(self) -> None:
        """It is an IPublisher that says what it is and where it sends."""
        publisher = self.open()
        self.assertTrue(IPublisher.providedBy(publisher))
        self.assertTrue(publisher.name)
        self.assertTrue(publisher.destination)

    def test_nothing(self) -> None:
        """An empty group has no outcomes, and a request without events is confirmed."""
        publisher = self.open()
        began = time.monotonic()
        self.assertEqual(self.publish(publisher, []), [])
        self.assertEqual(self.publish(publisher, [make_request(events=[])]), [None])
        self.assertLess(time.monotonic() - began, 0.3)

    def test_one_outcome_each(self) -> None:
        """Requests of any number of events, for two topics, each have their outcome."""
        publisher = self.open()
        first, second = self.topic("-a"), self.topic("-b")
        payloads = make_payloads(60)
        requests: list[CollectRequest] = []
        left = list(payloads)
        while left:
            some, left = left[: len(requests)], left[len(requests) :]
            events = [(second if n % 2 else first, payload) for n, payload in enumerate(some)]
            requests.append(make_request(str(len(requests)), events))
        self.assertEqual(self.publish(publisher, requests), [None] * len(requests))
        counts = Counter(kind for request in requests for kind in request.types)
        found = self.stored(counts)
        self.assertEqual(sorted(event.payload for event in found), sorted(payloads))
        self.assertEqual(Counter(event.destination for event in found), counts)

    def test_many(self) -> None:
        """100,000 events of 200 bytes are all there, once, byte for byte."""
        publisher = self.open()
        topics = [self.topic(f"-{n}") for n in range(_TOPICS)]
        sent = {topic: make_payloads(_MANY // _TOPICS, n) for n, topic in enumerate(topics)}
        by_topic = [in_requests(topic, payloads, 50) for topic, payloads in sent.items()]
        groups = [list(group) for group in zip(*by_topic, strict=True)]
        with ThreadPoolExecutor(THREADS) as pool:
            for outcomes in pool.map(lambda group: self.publish(publisher, group), groups):
                self.assertEqual(outcomes, [None] * _TOPICS)
        self.check_stored(sent)

    def test_concurrent_publishes(self) -> None:
        """Groups of several threads and topics each have their own outcomes."""
        publisher = self.open()
        topics = [self.topic(f"-{n}") for n in range(THREADS)]
        sent = {topic: make_payloads(1000, n) for n, topic in enumerate(topics)}

        def run(topic: str) -> None:
            for request in in_requests(topic, sent[topic], 20):
                self.assertEqual(self.publish(publisher, [request]), [None])

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(run, topics))
        self.check_stored(sent)

    def test_close_with_nothing_left(self) -> None:
        """When everything was confirmed nothing is left at the close."""
        publisher = self.open()
        topic = self.topic()
        requests = in_requests(topic, make_payloads(100), 10)
        self.assertEqual(self.publish(publisher, requests), [None] * 10)
        self.assertEqual(publisher.close(1), 0)
