"""Partition keys of Kinesis records, and the order that comes with them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from raccoon.publisher.kinesis import publisher as kinesis
from raccoon.publisher.kinesis.publisher import KinesisPublisher
from tests.publisher.kinesis.case import (
    THROTTLED,
    KinesisTestCase,
    request_of,
    settled,
)
from tests.publisher.kinesis.fakes import refusal
from tests.publisher.watch import WAIT


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
        self.patch(KinesisPublisher, "_probe", lambda publisher: publisher._prober.wait(WAIT))
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
