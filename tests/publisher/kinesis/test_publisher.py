"""The Kinesis publisher on a boto3 client in memory."""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import attrs
from botocore.exceptions import EndpointConnectionError
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from raccoon.config import KinesisSettings, Settings
from raccoon.errors import PublishError, StartError
from raccoon.interfaces import IOrderedPublisher, IPublisher
from raccoon.publisher import PublisherContext
from raccoon.publisher.kinesis import publisher as kinesis
from raccoon.publisher.kinesis.client import KinesisClient
from raccoon.publisher.kinesis.publisher import KinesisPublisher
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics, make_request
from tests.publisher.kinesis.fakes import WAIT, FakeKinesis, refusal

THROTTLED = "ProvisionedThroughputExceededException"
MIB = 1 << 20


class GaugeWatch(FakeMetrics):
    """Lets a test wait for a gauge that another thread sets."""

    def __init__(self) -> None:
        super().__init__()
        self.gauged: queue.Queue[tuple[str, float]] = queue.Queue()

    def gauge(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        super().gauge(name, value, labels)
        self.gauged.put((name, value))


class PublisherInMemory(KinesisPublisher):
    """A KinesisPublisher on a FakeKinesis."""

    def __init__(self, context: PublisherContext, api: FakeKinesis) -> None:
        super().__init__(context)
        self._api = api

    def _open(self) -> KinesisClient:
        return KinesisClient(self._api)


def make_context(
    metrics: FakeMetrics, *, key: str = "none", metadata: bool = False, **options: Any
) -> PublisherContext:
    """The context of a publisher to streams named as the event types."""
    settings = Settings()
    event = attrs.evolve(
        settings.event,
        distribution_publisher_pattern="%s",
        partition_key=key,
        metadata_enabled=metadata,
    )
    publisher = attrs.evolve(settings.publisher, kinesis=KinesisSettings(**options))
    return PublisherContext(
        attrs.evolve(settings, event=event, publisher=publisher), metrics, Supervisor(metrics)
    )


def request_of(*payloads: bytes, stream: str = "s", **options: Any) -> CollectRequest:
    """A request of events for one stream."""
    return make_request(events=[(stream, payload) for payload in payloads], **options)


def settled(outcomes: Sequence[Any]) -> list[str | None]:
    """Each outcome, waited for: None, or the error's text."""
    results = [each.result(WAIT) if isinstance(each, Future) else each for each in outcomes]
    return [None if result is None else str(result) for result in results]


class KinesisTestCase(SynchronousTestCase):
    """A started publisher on a FakeKinesis that has the stream `s`."""

    def setUp(self) -> None:
        self.api = FakeKinesis()
        self.api.streams["s"] = "ACTIVE"
        self.metrics = GaugeWatch()
        self.pauses: list[int] = []
        self.patch(kinesis, "full_jitter", self.no_pause)
        self.patch(kinesis, "PATIENCE", 0.02)

    def no_pause(self, attempts: int) -> float:
        """Remember how many attempts there were."""
        self.pauses.append(attempts)
        return 0.0

    def start(self, **options: Any) -> PublisherInMemory:
        """A publisher that is closed after the test."""
        publisher = PublisherInMemory(make_context(self.metrics, **options), self.api)
        publisher.start()
        self.addCleanup(publisher.close, 0)
        self.addCleanup(self.api.gate.set)
        return publisher

    def publish_at_once(
        self, publisher: KinesisPublisher, *requests: CollectRequest
    ) -> list[str | None]:
        """The outcomes of a group that waits as a whole when its first request is answered."""
        self.api.gate.clear()
        outcomes = publisher.publish(requests)
        self.api.gate.set()
        return settled(outcomes)

    def publish(self, publisher: KinesisPublisher, *requests: CollectRequest) -> list[str | None]:
        """The outcomes of a group."""
        return settled(publisher.publish(requests))

    def counted(self) -> dict[str, float]:
        """The sums of all counters of Kinesis."""
        sums: Counter[str] = Counter()
        for name, value, _ in self.metrics.counts:
            sums[name.removeprefix("kinesis_").removesuffix("_total")] += int(value)
        return dict(sums)


class RequestTests(KinesisTestCase):
    """What goes into a PutRecords."""

    def test_interfaces(self) -> None:
        """It is a publisher; with a partition key, one that keeps order."""
        publisher = self.start()
        verifyObject(IPublisher, publisher)
        self.assertFalse(IOrderedPublisher.providedBy(publisher))
        verifyObject(IOrderedPublisher, self.start(key="type"))

    def test_delivered(self) -> None:
        """Events of several types are written to their streams, byte for byte, and counted."""
        self.api.streams["t"] = "ACTIVE"
        request = make_request(events=[("s", b"\x00\xff"), ("t", b""), ("s", b"2")], group="g")
        self.assertEqual(self.publish(self.start(), request), [None])
        stored = Counter((stream, data) for stream, data, _ in self.api.stored)
        self.assertEqual(stored, Counter([("s", b"\x00\xff"), ("t", b""), ("s", b"2")]))
        name = "kinesis_messages_delivered_total"
        self.assertEqual(self.metrics.total(name, ("s", "g", "s")), 2)
        self.assertEqual(self.metrics.total(name, ("t", "g", "t")), 1)

    def test_full_requests(self) -> None:
        """The events of many requests are written 500 at a time."""
        self.patch(kinesis, "_DELAY", 2.0)
        requests = [request_of(*(b"%d-%d" % (i, j) for j in range(100))) for i in range(12)]
        self.assertEqual(self.publish(self.start(), *requests), [None] * 12)
        sizes = sorted(len(data) for _, data in self.api.requests)
        self.assertEqual(sizes, [200, 500, 500])
        self.assertEqual(len({data for _, data, _ in self.api.stored}), 1200)

    def test_requests_of_5_mib(self) -> None:
        """A request has 5 MiB at most, and as much of it as fits."""
        events = [bytes([i]) * 1_000_000 for i in range(12)]
        self.assertEqual(self.publish(self.start(), request_of(*events)), [None])
        sizes = sorted(len(data) for _, data in self.api.requests)
        self.assertEqual(sizes, [2, 5, 5])
        for _, data in self.api.requests:
            self.assertLessEqual(sum(map(len, data)), 5 * MIB)

    def test_the_key_counts(self) -> None:
        """The partition key is part of a record's size."""
        client = "k" * 250  # and with the group's name 256
        events = [b"x" * (MIB - 256)] * 5
        publisher = self.start(key="connection")
        self.assertEqual(self.publish(publisher, request_of(*events, client=client)), [None])
        self.assertEqual([len(data) for _, data in self.api.requests], [5])
        larger = [b"x" * (MIB - 255)] * 5
        self.assertEqual(self.publish(publisher, request_of(*larger, client=client)), [None])
        self.assertEqual([len(data) for _, data in self.api.requests], [5, 1, 1, 1, 1, 1])

    def test_a_large_event_goes_alone(self) -> None:
        """An event over 1 MiB, which a stream may be set to take, has a request of its own."""
        large = b"x" * (MIB + 1)
        self.assertEqual(self.publish(self.start(), request_of(b"1", large, b"2")), [None])
        self.assertIn(("s", [large]), self.api.requests)
        self.assertEqual(sum(len(data) for _, data in self.api.requests), 3)

    def test_several_streams_at_once(self) -> None:
        """A stream that is slow does not hold up another."""
        self.api.streams["t"] = "ACTIVE"
        publisher = self.start()
        self.api.gate.clear()
        outcomes = publisher.publish([request_of(b"1"), request_of(b"2", stream="t")])
        self.api.wait_for_requests(2)
        self.assertTrue(all(isinstance(outcome, Future) for outcome in outcomes))
        self.api.gate.set()
        self.assertEqual(settled(outcomes), [None, None])

    def test_an_empty_request(self) -> None:
        """A request without events is delivered."""
        self.assertEqual(self.publish(self.start(), make_request(events=[])), [None])
        self.assertEqual(self.publish(self.start()), [])


class KeyTests(KinesisTestCase):
    """Partition keys."""

    def keys(self, stream: str = "s") -> list[str]:
        """Of each record stored."""
        return [key for name, _, key in self.api.stored if name == stream]

    def test_none(self) -> None:
        """Without EVENT_PARTITION_KEY each record has a random key."""
        self.publish(self.start(), request_of(*[b"x"] * 100))
        self.assertEqual(len(set(self.keys())), 100)
        self.assertLessEqual(max(map(len, self.keys())), 16)

    def test_chosen(self) -> None:
        """With it the key is what it chooses."""
        request = request_of(b"1", client="c", group="g", guid="id")
        for choice, key in (("connection", "g/c"), ("type", "s"), ("request", "id")):
            self.publish(self.start(key=choice), request)
            self.assertEqual(self.keys(), [key])
            self.api.stored.clear()

    def test_too_long(self) -> None:
        """A key of more than 256 bytes is replaced by its hash."""
        self.publish(self.start(key="request"), request_of(b"1", guid="g" * 257))
        self.assertEqual(len(self.keys()[0]), 64)

    def test_another_shard(self) -> None:
        """A record without a key that is refused goes again with another random one."""
        keys: list[str] = []
        put = self.api.put_records

        def put_records(**arguments: Any) -> Any:
            keys.extend(record["PartitionKey"] for record in arguments["Records"])
            return put(**arguments)

        self.patch(self.api, "put_records", put_records)
        self.api.refuse[b"1"] = [THROTTLED]
        self.assertEqual(self.publish(self.start(), request_of(b"1")), [None])
        self.assertEqual(len(set(keys)), 2)

    def test_one_at_a_time(self) -> None:
        """With a key a stream has one request under way; without, several."""
        for key, most in (("type", 1), ("none", 4)):
            publisher = self.start(key=key)
            self.api.most_at_once.clear()
            self.api.requests.clear()
            self.api.gate.clear()
            outcomes = publisher.publish([request_of(*[b"x"] * 3000)])
            self.api.wait_for_requests(most)
            self.api.gate.set()
            self.assertEqual(settled(outcomes), [None])
            self.assertEqual(self.api.most_at_once["s"], most)

    def test_groups_in_order(self) -> None:
        """With a key, groups are written in the order expected, whichever thread comes first."""
        publisher = self.start(key="type")
        groups = [[request_of(b"%d" % i)] for i in range(20)]
        for group in groups:
            publisher.expect(group)
        with ThreadPoolExecutor(20) as pool:
            outcomes = list(pool.map(publisher.publish, reversed(groups)))
        self.assertEqual([settled(each) for each in outcomes], [[None]] * 20)
        self.assertEqual([data for _, data, _ in self.api.stored], [b"%d" % i for i in range(20)])

    def test_refused_before_later_ones(self) -> None:
        """With a key, a refused record goes before all that came later."""
        self.patch(kinesis, "_DELAY", 2.0)
        self.api.refuse[b"0"] = [THROTTLED] * 2
        publisher = self.start(key="type")
        requests = [request_of(b"%d" % i) for i in range(1200)]
        self.assertEqual(self.publish_at_once(publisher, *requests), [None] * 1200)
        stored = [data for _, data, _ in self.api.stored]
        self.assertEqual(stored.index(b"0") + 1, stored.index(b"999"))
        self.assertEqual([data[0] for _, data in self.api.requests], [b"0"] * 3)

    def test_the_whole_refused_keeps_order(self) -> None:
        """With a key, a request refused whole is sent again before later ones, in its order."""
        self.patch(KinesisPublisher, "_watch", lambda publisher: None)
        self.api.raising = [{"StreamDescriptionSummary": {"StreamStatus": "ACTIVE"}}]
        self.api.raising += [refusal(THROTTLED), refusal("InternalFailure", 500)]
        self.patch(kinesis, "_DELAY", 2.0)
        publisher = self.start(key="type")
        requests = [request_of(b"%d" % i) for i in range(1200)]
        self.assertEqual(self.publish_at_once(publisher, *requests), [None] * 1200)
        stored = [data for _, data, _ in self.api.stored]
        self.assertEqual(stored, [b"%d" % i for i in range(1200)])
        first = [b"%d" % i for i in range(500)]
        self.assertEqual([data for _, data in self.api.requests][:3], [first] * 3)


class RefusalTests(KinesisTestCase):
    """What Kinesis refuses."""

    def setUp(self) -> None:
        super().setUp()
        # Nothing asks for the stream `probe`, so that `raising` is for the calls of the test.
        self.patch(KinesisPublisher, "_watch", lambda publisher: None)

    def test_only_the_refused_ones_again(self) -> None:
        """Of a request refused in part, only the refused records are sent again."""
        self.api.refuse = {b"2": [THROTTLED, "InternalFailure"], b"4": ["InternalFailure"]}
        events = [b"%d" % i for i in range(6)]
        self.assertEqual(self.publish(self.start(), request_of(*events)), [None])
        self.assertEqual([data for _, data in self.api.requests], [events, [b"2", b"4"], [b"2"]])
        self.assertEqual(Counter(data for _, data, _ in self.api.stored), Counter(events))
        self.assertEqual(self.counted(), {"messages_delivered": 6, "records_sent_again": 3})

    def test_the_pause_grows_while_nothing_gets_through(self) -> None:
        """Each attempt without any success makes the next pause longer; a success starts anew."""
        self.api.refuse = {b"1": [THROTTLED] * 4}
        self.assertEqual(self.publish(self.start(), request_of(b"0", b"1")), [None])
        self.assertEqual(self.pauses, [0, 1, 2, 3])

    def test_throttled_until_the_deadline(self) -> None:
        """A record that is throttled until the deadline fails by that name, the others do not."""
        self.api.refuse = {b"1": [THROTTLED] * 100_000}
        self.patch(kinesis, "full_jitter", lambda attempts: 0.02)
        publisher = self.start(publish_timeout_ms=300)
        began = time.monotonic()
        outcomes = self.publish(publisher, request_of(b"0", b"1"), request_of(b"2"))
        self.assertLess(time.monotonic() - began, WAIT / 2)
        reason = f"1 of 2 events failed: stream s takes no more for now ({THROTTLED})"
        self.assertEqual(outcomes, [reason, None])
        counted = self.counted()
        self.assertGreater(counted.pop("records_sent_again"), 1)
        self.assertEqual(
            counted,
            {"messages_delivered": 2, "messages_undelivered": 1, "stream_throughput_exceeded": 1},
        )

    def test_missing_stream(self) -> None:
        """Events for a stream that does not exist fail by its name, the others do not."""
        request = make_request(events=[("s", b"1"), ("gone", b"2")])
        outcomes = self.publish(self.start(), request, request_of(b"3"))
        self.assertEqual(outcomes, ["1 of 2 events failed: stream gone does not exist", None])
        self.assertEqual(self.counted()["unknown_stream_failure"], 1)
        self.assertEqual(self.api.asked["gone"], 1)

    def test_not_a_name(self) -> None:
        """A stream whose name cannot be one is not asked for."""
        for name in ("a/b", "n" * 129):
            [outcome] = self.publish(self.start(), request_of(b"1", stream=name))
            self.assertIn(f"stream {name} does not exist: not a name", str(outcome))
        self.assertEqual(self.api.asked.total(), 0)
        self.assertEqual(self.counted()["unknown_stream_failure"], 2)

    def test_deleted_stream(self) -> None:
        """A stream that is deleted later is forgotten, and there again when it is made again."""
        publisher = self.start()
        self.assertEqual(self.publish(publisher, request_of(b"1")), [None])
        del self.api.streams["s"]
        self.assertEqual(
            self.publish(publisher, request_of(b"2")),
            ["1 of 1 events failed: stream s does not exist"],
        )
        self.api.streams["s"] = "ACTIVE"
        self.assertEqual(self.publish(publisher, request_of(b"3")), [None])

    def test_autocreate(self) -> None:
        """Asked to, a missing stream is made, and its events wait until it is active."""
        self.api.made = ["CREATING", "ACTIVE"]
        publisher = self.start(stream_autocreate=True, stream_probe_interval_ms=20)
        self.assertEqual(self.publish(publisher, request_of(b"1", stream="new")), [None])
        self.assertEqual([made["StreamName"] for made in self.api.created], ["new"])
        self.assertEqual(self.api.asked["new"], 3)

    def test_deleted_and_made_again(self) -> None:
        """Asked to, a stream that was deleted is made again, and no event for it fails."""
        publisher = self.start(stream_autocreate=True, stream_probe_interval_ms=20)
        self.assertEqual(self.publish(publisher, request_of(b"1")), [None])
        del self.api.streams["s"]
        self.assertEqual(self.publish(publisher, request_of(b"2")), [None])
        self.assertEqual([made["StreamName"] for made in self.api.created], ["s"])

    def test_limit_exceeded(self) -> None:
        """A stream that cannot be made for the account's limits fails by that name."""
        publisher = self.start(stream_autocreate=True, publish_timeout_ms=200)
        self.api.raising = [refusal("ResourceNotFoundException")]
        self.api.raising += [refusal("LimitExceededException")] * 100
        [outcome] = self.publish(publisher, request_of(b"1"))
        self.assertIn("stream s cannot be made: the account's limit", str(outcome))
        self.assertEqual(self.counted(), {"messages_undelivered": 1, "streams_limit_exceeded": 1})

    def test_too_large_for_the_stream(self) -> None:
        """An event that is too large for its stream fails by that name, alone."""
        large = b"x" * (MIB + 1)
        self.api.invalid = {large}
        outcomes = self.publish(self.start(), request_of(b"1", large), request_of(b"2"))
        size = len(large) + 16
        self.assertEqual(
            outcomes,
            [
                f"1 of 2 events failed: event too large for stream s ({size} bytes with its key)",
                None,
            ],
        )
        counted = self.counted()
        self.assertEqual(counted["message_too_large"], 1)
        self.assertNotIn("stream_throughput_exceeded", counted)

    def test_too_large_for_any(self) -> None:
        """An event over 10 MiB is not sent."""
        large = b"x" * (10 * MIB - 15)
        [outcome] = self.publish(self.start(), request_of(b"1", large))
        self.assertIn("1 of 2 events failed: event too large for Kinesis (10485760", str(outcome))
        self.assertEqual([data for _, data in self.api.requests], [[b"1"]])
        self.assertEqual(self.counted()["message_too_large"], 1)

    def test_for_ever(self) -> None:
        """What can never be delivered is told by type; what may be delivered yet is not."""
        large = b"x" * (10 * MIB - 15)
        publisher = self.start()
        request = make_request(events=[("s", b"1"), ("s", large), ("gone", b"2"), ("a/b", b"3")])
        outcome: Any
        [outcome] = publisher.publish([request])
        error = outcome.result(WAIT) if isinstance(outcome, Future) else outcome
        self.assertEqual({"s": 1, "gone": 1, "a/b": 1}, error.lasting)

    def test_a_bad_record_among_many(self) -> None:
        """Where a request is refused for a record in it, only that one's request fails."""
        self.api.invalid = {b"7"}
        requests = [request_of(b"%d" % i) for i in range(16)]
        outcomes = self.publish(self.start(), *requests)
        self.assertEqual(
            outcomes.pop(7), "1 of 1 events failed: Kinesis refused: InvalidArgumentException"
        )
        self.assertEqual(outcomes, [None] * 15)
        self.assertEqual(len(self.api.stored), 15)

    def test_not_allowed(self) -> None:
        """A refusal that will not pass fails at once by its code, without the account's names."""
        self.api.raising = [{"StreamDescriptionSummary": {"StreamStatus": "ACTIVE"}}]
        self.api.raising += [refusal("AccessDeniedException")]
        self.assertEqual(
            self.publish(self.start(), request_of(b"1")),
            ["1 of 1 events failed: Kinesis refused: AccessDeniedException"],
        )

    def test_a_broken_client(self) -> None:
        """What nobody expects fails its events and ends no thread."""
        self.publish(publisher := self.start(), request_of(b"1"))
        self.api.raising = [TypeError("no such thing")]
        self.assertEqual(
            self.publish(publisher, request_of(b"2")),
            ["1 of 1 events failed: not sent: no such thing"],
        )
        self.assertEqual(self.publish(publisher, request_of(b"3")), [None])


class ReachabilityTests(KinesisTestCase):
    """Kinesis gone and back."""

    def test_gone_and_back(self) -> None:
        """While Kinesis does not answer it says so; events are delivered when it is back."""
        absent = EndpointConnectionError(endpoint_url="http://kinesis.test")
        self.api.raising = [absent] * 5
        publisher = self.start()
        gauge = "destination_reachable_current"
        self.assertEqual(self.metrics.gauged.get(timeout=WAIT), (gauge, 0.0))
        self.assertFalse(publisher.reachable)
        self.assertEqual(self.publish(publisher, request_of(b"1")), [None])
        self.assertEqual(self.metrics.gauged.get(timeout=WAIT), (gauge, 1.0))
        self.assertTrue(publisher.reachable)

    def test_a_refusal_is_an_answer(self) -> None:
        """Without any stream, and without being allowed to ask, it is known to answer."""
        self.api.raising = [refusal("AccessDeniedException")]
        self.start()
        self.assertEqual(
            self.metrics.gauged.get(timeout=WAIT), ("destination_reachable_current", 1.0)
        )

    def test_never_back(self) -> None:
        """At the deadline events fail in those words."""
        self.publish(publisher := self.start(publish_timeout_ms=200), request_of(b"0"))
        self.patch(kinesis, "full_jitter", lambda attempts: 0.02)
        self.api.raising = [EndpointConnectionError(endpoint_url="http://kinesis.test")] * 10_000
        self.assertEqual(
            self.publish(publisher, request_of(b"1")),
            ["1 of 1 events failed: Kinesis does not answer"],
        )


class RoomTests(KinesisTestCase):
    """Bounded memory."""

    def test_waits_for_room(self) -> None:
        """Who publishes more than there is room for waits, and goes on when there is room."""
        self.patch(kinesis, "_ROOM_EVENTS", 10)
        publisher = self.start()
        self.api.gate.clear()
        first = publisher.publish([request_of(*[b"1"] * 10)])
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(publisher.publish, [request_of(b"2")])
            self.assertRaises(TimeoutError, second.result, 0.05)
            self.assertEqual(len(self.api.requests), 1)
            self.api.gate.set()
            self.assertEqual(settled(second.result(WAIT)), [None])
        self.assertEqual(settled(first), [None])

    def test_no_room_until_the_deadline(self) -> None:
        """Where no room comes, the events fail with words that ask for a retry."""
        self.patch(kinesis, "_ROOM_EVENTS", 10)
        publisher = self.start(publish_timeout_ms=100)
        self.api.gate.clear()
        publisher.publish([request_of(*[b"1"] * 10)])
        self.assertEqual(
            self.publish(publisher, request_of(b"2")),
            ["1 of 1 events failed: Kinesis takes events too slowly, retry"],
        )


class CloseTests(KinesisTestCase):
    """The end."""

    def test_nothing_is_left(self) -> None:
        """What waits for company is sent at once, and nothing is left."""
        self.patch(kinesis, "_DELAY", 1000.0)
        publisher = self.start()
        outcomes = publisher.publish([request_of(b"1")])
        self.assertEqual(publisher.close(WAIT), 0)
        self.assertEqual(settled(outcomes), [None])
        self.assertTrue(self.api.closed)

    def test_counts_exactly_what_is_left(self) -> None:
        """What is under way, waits, or has no room when the time is up is given up and counted."""
        self.patch(kinesis, "_ROOM_EVENTS", 2000)
        self.patch(kinesis, "_LAST_CALLS", 0.1)
        publisher = self.start(key="type")
        self.publish(publisher, request_of(b"before"))
        self.api.gate.clear()
        outcomes = publisher.publish([request_of(*[b"%d" % i] * 3) for i in range(600)])
        self.api.wait_for_requests(2)
        with ThreadPoolExecutor(1) as pool:
            no_room = pool.submit(publisher.publish, [request_of(*[b"x"] * 300)])
            left = publisher.close(0.01)
            outcomes += no_room.result(WAIT)
        self.assertEqual(left, 600 * 3 + 300)
        reason = "3 of 3 events failed: the server is shutting down"
        self.assertEqual(settled(outcomes)[:600], [reason] * 600)
        self.api.gate.set()
        self.assertEqual(self.counted(), {"messages_delivered": 1, "messages_undelivered": left})

    def test_what_comes_too_late_changes_nothing(self) -> None:
        """An answer after the events were given up is not counted as delivered."""
        self.patch(kinesis, "_LAST_CALLS", 0.0)
        publisher = self.start()
        self.api.gate.clear()
        outcomes = publisher.publish([request_of(b"1")])
        self.api.wait_for_requests(1)
        self.assertEqual(publisher.close(0), 1)
        self.api.gate.set()
        for threads in publisher._threads:
            threads.join(time.monotonic() + WAIT)
        self.assertEqual(settled(outcomes), ["1 of 1 events failed: the server is shutting down"])
        self.assertEqual(self.counted(), {"messages_undelivered": 1})

    def test_waits_for_a_stream_in_the_making(self) -> None:
        """Events whose stream is not there yet are given up and counted as well."""
        self.api.streams["s"] = "CREATING"
        publisher = self.start()
        outcomes = publisher.publish([request_of(b"1", b"2")])
        self.assertEqual(publisher.close(0), 2)
        self.assertEqual(settled(outcomes), ["2 of 2 events failed: the server is shutting down"])

    def test_failures_before_are_not_left(self) -> None:
        """Events that failed before are answered: they are not left."""
        publisher = self.start()
        self.publish(publisher, request_of(b"1", stream="gone"))
        self.assertEqual(publisher.close(WAIT), 0)

    def test_no_thread_is_left(self) -> None:
        """Every thread ends."""
        before = set(threading.enumerate())
        publisher = self.start()
        self.publish(publisher, request_of(b"1"))
        self.assertGreater(len(threading.enumerate()), len(before))
        publisher.close(WAIT)
        self.assertEqual(set(threading.enumerate()) - before, set())

    def test_never_started(self) -> None:
        """One that was not started has nothing to close."""
        publisher = KinesisPublisher(make_context(self.metrics))
        self.assertEqual(publisher.close(1), 0)


class StartTests(SynchronousTestCase):
    """The real client, which is asked nothing."""

    def test_destination(self) -> None:
        """It says where events go, and that metadata cannot be sent."""
        self.patch(os, "environ", {"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "http://[::1]:9"})
        publisher = KinesisPublisher(make_context(FakeMetrics(), metadata=True))
        self.addCleanup(publisher.close, 0)
        with self.assertLogs(kinesis.__name__, logging.WARNING) as logs:
            publisher.start()
        self.assertEqual(publisher.destination, "Kinesis at http://[::1]:9, streams %s")
        said = [line for line in logs.output if "EVENT_METADATA_ENABLED" in line]
        self.assertEqual(len(said), 1)

    def test_no_region(self) -> None:
        """Without a region it does not start, and leaves no thread."""
        nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        self.patch(os, "environ", nothing)
        before = threading.active_count()
        publisher = KinesisPublisher(make_context(FakeMetrics()))
        error = self.assertRaises(StartError, publisher.start)
        self.assertIn("PUBLISHER_KINESIS_AWS_REGION: missing", str(error))
        self.assertEqual(threading.active_count(), before)


class OutcomeTests(KinesisTestCase):
    """Outcomes."""

    def test_the_error_is_a_publish_error(self) -> None:
        """It knows how many events failed."""
        self.patch(kinesis, "PATIENCE", WAIT)
        [outcome] = self.start().publish([request_of(b"1", b"2", stream="gone")])
        assert isinstance(outcome, PublishError)
        self.assertEqual((outcome.failed, outcome.total), (2, 2))
