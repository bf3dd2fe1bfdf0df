"""What every publisher keeps, as cases that a publisher's own test class inherits.

A class for the log inherits Contract; one for an engine, which may refuse events, be away and
come back, inherits EngineContract.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from raccoon.config import load
from raccoon.errors import PublishError
from raccoon.interfaces import IOrderedPublisher, IPublisher
from raccoon.publisher import PublisherContext
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics, make_request
from tests.integration.waiting import wait_until
from tests.mixin import Mixin

WAIT = 60
_SIZE = 200
_MANY = 100_000
_TOPICS = 20
_THREADS = 4
_PAUSE = 0.001
_IN_TIME = 20
_PAGE = os.sysconf("SC_PAGE_SIZE")


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


class Engine(Protocol):
    """A process that events go to."""

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


def make_payloads(count: int, seed: int = 0) -> list[bytes]:
    """Different payloads of 200 bytes, which are neither text nor JSON nor protobuf."""
    source = random.Random(seed)
    return [
        b"\xff" + b"%04d/%010d" % (seed, n) + source.randbytes(_SIZE - 16) for n in range(count)
    ]


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


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
        with ThreadPoolExecutor(_THREADS) as pool:
            for outcomes in pool.map(lambda group: self.publish(publisher, group), groups):
                self.assertEqual(outcomes, [None] * _TOPICS)
        self.check_stored(sent)

    def test_concurrent_publishes(self) -> None:
        """Groups of several threads and topics each have their own outcomes."""
        publisher = self.open()
        topics = [self.topic(f"-{n}") for n in range(_THREADS)]
        sent = {topic: make_payloads(1000, n) for n, topic in enumerate(topics)}

        def run(topic: str) -> None:
            for request in in_requests(topic, sent[topic], 20):
                self.assertEqual(self.publish(publisher, [request]), [None])

        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(run, topics))
        self.check_stored(sent)

    def test_close_with_nothing_left(self) -> None:
        """When everything was confirmed nothing is left at the close."""
        publisher = self.open()
        topic = self.topic()
        requests = in_requests(topic, make_payloads(100), 10)
        self.assertEqual(self.publish(publisher, requests), [None] * 10)
        self.assertEqual(publisher.close(1), 0)


class EngineContract(Contract):
    """What holds besides where the destination is a process of its own.

    Attributes:
        engine: that process, which the class shares.
        keeps_data: whether it has what it had when it is started again.
        loses_at_restart: it loses what is published while its topics are made again, whoever
            publishes.
        has_metadata: whether it takes metadata with an event.
        too_large: bytes of an event that it does not take.
        room: events that are taken in at most while it is away.
    """

    engine: Engine
    keeps_data = True
    loses_at_restart = False
    has_metadata = True
    too_large: int
    room = 20_000

    def delivered(self) -> float:
        """How many events were counted as delivered."""
        return self.metrics.total(f"{self.kind()}_messages_delivered_total")

    def undelivered(self) -> float:
        """How many events were counted as undelivered."""
        return self.metrics.total(f"{self.kind()}_messages_undelivered_total")

    def kind(self) -> str:
        """The publisher's name."""
        return str(self.publisher_class.name)  # type: ignore[attr-defined]

    def restart(self, *topics: str) -> None:
        """Start the engine again, with these topics."""
        self.engine.start()
        if not self.keeps_data:
            for topic in topics:
                self.create(topic)

    def check_failed(self, outcome: Any, failed: int, total: int, reason: str = "") -> None:
        """An outcome is this PublishError."""
        self.assertIsInstance(outcome, PublishError)
        self.assertEqual((outcome.failed, outcome.total), (failed, total), str(outcome))
        self.assertIn(reason, str(outcome))

    def test_failed_event(self) -> None:
        """An event that the destination does not take fails its own request only, in its place."""
        publisher = self.open()
        topic = self.topic()
        payloads = make_payloads(100)
        requests = in_requests(topic, payloads, 5)
        for place in (3, 4, 17):
            requests[place] = make_request(
                str(place),
                [
                    (topic, payloads[place * 5]),
                    (topic, bytes(self.too_large)),
                    *((topic, payload) for payload in payloads[place * 5 + 1 : place * 5 + 5]),
                ],
            )
        outcomes = self.publish(publisher, requests)
        failed = {place for place, outcome in enumerate(outcomes) if outcome is not None}
        self.assertEqual(failed, {3, 4, 17})
        for place in failed:
            self.check_failed(outcomes[place], 1, 6)
        self.check_stored({topic: payloads})
        self.assertEqual((self.delivered(), self.undelivered()), (100, 3))

    def test_unknown_destination(self) -> None:
        """A topic that is not there fails its own events by name, until it is there."""
        publisher = self.open()
        topic, missing = self.topic(), self.name("-missing")
        payloads = make_payloads(20)
        requests = in_requests(topic, payloads, 2)
        requests.insert(5, make_request("bad", [(missing, b"never")]))
        requests.insert(7, make_request("mixed", [(missing, b"never"), (topic, b"half")]))
        outcomes = publisher.publish(requests)
        prompt = [outcome for n, outcome in enumerate(outcomes) if n not in (5, 7)]
        self.assertEqual(prompt, [None] * 10)
        self.check_failed(self.settled(outcomes[5]), 1, 1, f"{missing} does not exist")
        self.check_failed(self.settled(outcomes[7]), 1, 2, f"{missing} does not exist")
        self.check_stored({topic: [*payloads, b"half"]})
        self.create(missing)
        last = [make_request("last", [(missing, b"last")])]
        wait_until(lambda: self.publish(publisher, last) == [None], "the topic is known", _IN_TIME)
        self.check_stored({missing: [b"last"]})

    def test_gone_and_back(self) -> None:
        """An engine killed in the middle of a group: no confirmed event is lost, and it goes on."""
        publisher = self.open()
        topic = self.topic()
        payloads = make_payloads(20_000)
        requests = in_requests(topic, payloads, 1)
        with ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(publisher.publish, requests)
            while not self.delivered():
                time.sleep(_PAUSE)
            self.engine.freeze()
            outcomes = publishing.result(WAIT)
        time.sleep(0.5)  # for confirmations that were on their way
        early = {
            payload
            for payload, outcome in zip(payloads, outcomes, strict=True)
            if outcome is None or (isinstance(outcome, Future) and outcome.done())
        }
        self.assertLess(0, len(early))
        self.assertLess(len(early), len(payloads))
        self.engine.kill()
        try:
            wait_until(lambda: not publisher.reachable, "known to be unreachable", _IN_TIME)
        finally:
            self.restart(topic)
        errors = [self.settled(outcome) for outcome in outcomes]
        confirmed = {
            payload for payload, error in zip(payloads, errors, strict=True) if error is None
        }
        last = make_request("last", [(topic, b"last")])
        wait_until(lambda: self.publish(publisher, [last]) == [None], "it goes on", _IN_TIME)
        self.assertTrue(publisher.reachable)
        if self.keeps_data:
            self.assertEqual(len(confirmed), len(payloads), set(map(str, errors)))
            self.check_stored({topic: [*payloads, b"last"]})
        else:
            kept = confirmed - early
            self.assertGreater(len(kept), 0)
            found = {event.payload for event in self.stored({topic: len(kept) + 1})}
            if not self.loses_at_restart:
                self.assertEqual(len(kept - found), 0, "events are missing")
            self.assertEqual(found - set(payloads), {b"last"})
        self.assertEqual(self.delivered() - len(confirmed), 1)
        self.assertEqual(self.undelivered(), len(payloads) - len(confirmed))

    def test_close_while_it_is_gone(self) -> None:
        """What was published to a dead engine is left at the close, to the event."""
        publisher = self.open()
        topic = self.topic()
        payloads = make_payloads(1500)
        requests = in_requests(topic, payloads, 5)
        self.assertEqual(self.publish(publisher, requests[:100]), [None] * 100)
        if not self.keeps_data:
            self.check_stored({topic: payloads[:500]})
        self.engine.kill()
        try:
            outcomes = publisher.publish(requests[100:])
            self.assertEqual(publisher.close(0.5), 1000)
            for outcome in outcomes:
                self.check_failed(self.settled(outcome), 5, 5, "shutting down")
        finally:
            self.restart()
        if self.keeps_data:
            self.check_stored({topic: payloads[:500]})
        self.assertEqual((self.delivered(), self.undelivered()), (500, 1000))

    def test_close_under_load(self) -> None:
        """Of what several threads publish to an engine that hangs, delivered + left = sent."""
        publisher = self.open()
        topic = self.topic()
        stopping = threading.Event()
        published: list[tuple[CollectRequest, Any]] = []

        def run(number: int) -> None:
            requests = in_requests(topic, make_payloads(50_000, number), 7)
            while requests and not stopping.is_set():
                group, requests = requests[:10], requests[10:]
                published.extend(zip(group, publisher.publish(group), strict=True))

        with ThreadPoolExecutor(_THREADS) as pool:
            running = [pool.submit(run, number) for number in range(_THREADS)]
            while self.delivered() < 1000:
                time.sleep(_PAUSE)
            self.engine.freeze()
            try:
                time.sleep(1)  # so that every thread has something that is not confirmed
                stopping.set()
                time.sleep(0.1)
                left = publisher.close(0.3)
                for each in running:
                    each.result(WAIT)
                outcomes = [(request, self.settled(outcome)) for request, outcome in published]
            finally:
                self.engine.thaw()
        sent = sum(len(request.types) for request, _ in outcomes)
        failed = sum(error.failed for _, error in outcomes if error is not None)
        self.assertGreater(left, 0)
        self.assertEqual(left, failed)
        self.assertEqual((self.delivered(), self.undelivered()), (sent - left, left))
        confirmed = {
            payload for request, error in outcomes if error is None for payload in request.payloads
        }
        found = {event.payload for event in self.stored({topic: len(confirmed)})}
        self.assertEqual(len(confirmed - found), 0, "confirmed events are missing")

    def test_bounded_while_it_is_gone(self) -> None:
        """While the engine is away only so much is taken in; it is delivered when it is back."""
        publisher = self.open()
        topic = self.topic()
        self.assertEqual(self.publish(publisher, in_requests(topic, [b"first"], 1)), [None])
        taken: list[tuple[CollectRequest, Any]] = []
        stopping = threading.Event()

        def run(number: int) -> None:
            requests = in_requests(topic, make_payloads(30_000, number), 50)
            while requests and not stopping.is_set():
                group, requests = requests[:10], requests[10:]
                taken.extend(zip(group, publisher.publish(group), strict=True))

        self.engine.kill()
        before = resident()
        with ThreadPoolExecutor(_THREADS) as pool:
            running = [pool.submit(run, number) for number in range(_THREADS)]
            try:
                count = -1
                while count != len(taken):
                    count = len(taken)
                    time.sleep(1.5)
                self.assertLess(count * 50, self.room + 1)
                self.assertFalse(any(each.done() for each in running), "none was held back")
                self.assertLess(resident() - before, 150 << 20)
            finally:
                stopping.set()
                self.restart(topic)
            for each in running:
                each.result(WAIT)
        outcomes = [(request, self.settled(outcome)) for request, outcome in taken]
        confirmed = [request for request, error in outcomes if error is None]
        self.assertGreater(len(confirmed), 0)
        if self.keeps_data:
            self.assertEqual(len(confirmed), len(outcomes))
            payloads = [payload for request in confirmed for payload in request.payloads]
            self.check_stored({topic: [b"first", *payloads]})

    def check_keys(self, **environment: str) -> dict[str, list[Stored]]:
        """Publish events of several clients from several threads; each client's are in order."""
        topic = self.topic()
        publisher = self.open(
            EVENT_PARTITION_KEY="connection",
            EVENT_DISTRIBUTION_PUBLISHER_PATTERN=topic,
            **environment,
        )
        self.assertTrue(IOrderedPublisher.providedBy(publisher))
        clients = [f"client-{n}" for n in range(10)]
        numbers = dict.fromkeys(clients, 0)

        def request(client: str) -> CollectRequest:
            events = []
            for _ in range(5):
                # Types differ, the topic does not.
                kind = "click" if numbers[client] % 3 else "view"
                events.append((kind, f"{client}/{numbers[client]}".encode()))
                numbers[client] += 1
            return make_request(
                f"{client}/{numbers[client]}", events, client=client, group="web", received_at=1.5
            )

        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in range(100 // _THREADS):
                groups = [[request(client) for client in clients] for _ in range(_THREADS)]
                for group in groups:
                    publisher.expect(group)
                # The thread of the last group comes first.
                publishing = [
                    pool.submit(self.publish, publisher, group) for group in reversed(groups)
                ]
                for each in publishing:
                    self.assertEqual(each.result(WAIT), [None] * len(clients))
        by_client: dict[str, list[Stored]] = {client: [] for client in clients}
        for event in self.stored({topic: sum(numbers.values())}):
            by_client[event.payload.decode().partition("/")[0]].append(event)
        for client, events in by_client.items():
            self.assertEqual({event.key for event in events}, {f"web/{client}"})
            self.assertEqual(len({event.place for event in events}), 1)
            expected = [f"{client}/{n}".encode() for n in range(numbers[client])]
            self.assertEqual([event.payload for event in events], expected)
        return by_client

    def test_keys(self) -> None:
        """With a key each client's events are in order, whatever their types and threads."""
        for events in self.check_keys().values():
            self.assertTrue(all(event.metadata == {} for event in events))

    def test_keys_and_metadata(self) -> None:
        """Metadata goes with each event, where the destination has a place for it."""
        for client, events in self.check_keys(EVENT_METADATA_ENABLED="true").items():
            for number, event in enumerate(events):
                expected = {
                    "req_guid": f"{client}/{number // 5 * 5 + 5}",
                    "event_index": str(number % 5),
                    "conn_group": "web",
                    "received_at": "1500",
                }
                self.assertEqual(event.metadata, expected if self.has_metadata else {})
