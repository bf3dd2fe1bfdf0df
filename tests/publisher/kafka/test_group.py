"""Requests of a group, which are counted together where they were delivered."""

from __future__ import annotations

import gc
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from confluent_kafka import KafkaError

from raccoon.publisher.base.delivery import Delivery, Group
from raccoon.publisher.kafka import publisher as kafka
from raccoon.publisher.kafka.delivery import KafkaDelivery, KafkaGroup
from raccoon.publisher.kafka.producers import MAIN
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor
from tests.fakes import make_request
from tests.integration.waiting import wait_until
from tests.publisher.kafka.case import (
    KafkaTestCase,
    later,
)
from tests.publisher.watch import WAIT


class TogetherTests(KafkaTestCase):
    """Requests of a group, which are counted together where they were delivered."""

    def setUp(self) -> None:
        self.patch(kafka, "PATIENCE", 0.05)
        self.start()
        self.learn("click", "view")

    def test_failures(self) -> None:
        """Each failure is that of its request."""
        self.producer.failures[b"bad"] = KafkaError._MSG_TIMED_OUT
        self.producer.refusals[b"worse"] = KafkaError._UNKNOWN_TOPIC
        good, bad, worse, nothing, both = self.publish(
            make_request(events=[("click", b"1"), ("view", b"2")]),
            make_request(events=[("view", b"bad"), ("click", b"3"), ("click", b"bad")]),
            make_request(events=[("click", b"worse"), ("click", b"4")]),
            make_request(events=[("view", b"worse")]),
            make_request(events=[("view", b"bad"), ("click", b"worse")]),
        )
        self.assertIsNone(good)
        for outcome, failed, total in ((bad, 2, 3), (worse, 2, 2), (nothing, 1, 1), (both, 2, 2)):
            self.check_failed(outcome, failed, total)
        self.check_counted(delivered=3, undelivered=4)

    def check_counted(self, delivered: int, undelivered: int) -> None:
        """So many clicks were, those of `learn` included."""
        self.assertEqual(
            (delivered, undelivered), (self.clicks("delivered"), self.clicks("undelivered"))
        )

    def clicks(self, became: str) -> float:
        """How many clicks of which this became were counted."""
        labels = ("clickstream-click-log", "group", "click")
        return self.metrics.total(f"kafka_messages_{became}_total", labels)

    def test_one_that_is_late(self) -> None:
        """Nobody waits for it past PATIENCE, and no count does; what comes later has its own."""
        self.producer.held |= {b"slow", b"slower"}
        outcomes = self.publisher.publish(
            [
                make_request(str(number), [("click", payload)])
                for number, payload in enumerate([b"1", b"slow", b"2", b"slower", b"3"])
            ]
        )
        self.assertEqual([None] * 3, outcomes[::2])
        self.check_counted(delivered=4, undelivered=0)
        slow, slower = map(later, outcomes[1::2])
        self.producer.release(still={b"slower"})
        self.assertIsNone(slow.result(WAIT))
        self.check_counted(delivered=5, undelivered=0)
        self.assertFalse(slower.done())
        self.producer.failures[b"slower"] = KafkaError._MSG_TIMED_OUT
        self.producer.release()
        self.check_failed(slower.result(WAIT), 1, 1)
        self.check_counted(delivered=5, undelivered=1)

    def test_all_that_are_late(self) -> None:
        """A group of which nothing came in time is told when it comes."""
        self.producer.held.add(b"slow")
        outcomes = self.publisher.publish([make_request(events=[("click", b"slow")])] * 3)
        self.producer.release()
        self.assertEqual([None] * 3, [later(outcome).result(WAIT) for outcome in outcomes])
        self.check_counted(delivered=4, undelivered=0)

    def test_last_that_end_meanwhile(self) -> None:
        """Who counts others counts those, too, that are all that are left then."""
        group = KafkaGroup(101, Supervisor(self.metrics), self.publisher, None, 1000)
        first, *more = [KafkaDelivery(group, make_request()) for _ in range(101)]
        count = self.publisher.count

        def meanwhile(requests: Sequence[CollectRequest]) -> None:
            self.patch(self.publisher, "count", count)
            group.ended(first)
            count(requests)

        self.patch(self.publisher, "count", meanwhile)
        for delivery in more:
            self.assertFalse(group.done.is_set())
            group.ended(delivery)
        self.assertTrue(group.done.is_set())

    def test_partitions_are_free_again(self) -> None:
        """A group ends once, also where that is just when nobody waits any longer."""
        partitions = self.publisher._partitions
        assert partitions is not None
        topic = "clickstream-click-log"
        group = KafkaGroup(1, Supervisor(self.metrics), self.publisher, partitions, 1000)
        chosen = group.partition(topic, 10)
        for _ in range(3):  # others, one of them likewise
            partitions.choose(topic)
        delivery = KafkaDelivery(group, make_request())
        wait = group.done.wait

        def too_short(timeout: float) -> bool:
            self.patch(group.done, "wait", wait)
            group.ended(delivery)
            return False

        self.patch(group.done, "wait", too_short)
        self.assertEqual([None], group.results([delivery], 0))
        self.assertEqual(1, partitions._topics[topic].on_way[chosen])

    def test_success_before_an_outage(self) -> None:
        """What Kafka took before it went away does not say that it is there when it is counted."""
        self.patch(kafka, "PATIENCE", WAIT)
        ended, one_ended = KafkaGroup.ended, threading.Event()

        def then_tell(group: KafkaGroup, delivery: KafkaDelivery) -> None:
            ended(group, delivery)
            one_ended.set()

        self.patch(KafkaGroup, "ended", then_tell)
        self.producer.held.add(b"slow")
        self.producer.failures[b"slow"] = KafkaError._MSG_TIMED_OUT
        requests = [make_request(events=[("click", payload)]) for payload in (b"1", b"slow")]
        with ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(self.publish, *requests)
            self.assertTrue(one_ended.wait(WAIT))
            self.producer.reachable = False
            self.publisher._producers.on_error(MAIN, KafkaError(KafkaError._ALL_BROKERS_DOWN))
            self.producer.release()
            good, bad = publishing.result(WAIT)
        self.assertIsNone(good)
        self.check_failed(bad, 1, 1)
        self.assertFalse(self.publisher.reachable)

    def test_error_while_handing_over(self) -> None:
        """Only the request fails in which it struck, and nothing waits."""
        produce = self.producer.produce

        def produce_or_break(topic: str, payload: bytes, *more: Any, **named: Any) -> None:
            if payload == b"broken":
                raise TypeError("no such thing")
            produce(topic, payload, *more, **named)

        self.patch(self.producer, "produce", produce_or_break)
        self.producer.refusals[b"bad"] = KafkaError._UNKNOWN_TOPIC
        requests = [
            make_request(events=[("click", b"1")]),
            make_request(events=[("new", b"2")]),
            make_request(events=[("bad", b"bad"), ("click", b"3"), ("click", b"broken")]),
            make_request(events=[("click", b"4")]),
        ]
        first, new, broken, last = self.publish(*requests)
        self.assertEqual([None] * 3, [first, new, last])
        self.check_failed(broken, 3, 3, "could not be handed over")
        self.assertEqual({}, broken.lasting)
        trials, partitions = self.publisher._trials, self.publisher._partitions
        assert partitions is not None
        wait_until(lambda: "clickstream-new-log" in trials.passed, "the end of the trial")
        on_way = partitions._topics["clickstream-click-log"].on_way
        wait_until(lambda: not any(on_way.values()), "the end of the group")
        self.assertEqual(1, len(self.flushLoggedErrors(TypeError)))
        self.assertEqual(1, self.metrics.total("supervised_failures_total", ("kafka hand-over",)))
        self.assertEqual((3, 2), (self.clicks("delivered"), self.clicks("undelivered")))
        labels = ("clickstream-bad-log", "group", "bad")
        self.assertEqual(0, self.metrics.total("kafka_messages_delivered_total", labels))

    def test_answer_that_cannot_be_told(self) -> None:
        """What was delivered was delivered, whether or not it could be told that Kafka answers."""

        def broken() -> None:
            raise ValueError("no such metric")

        self.patch(self.publisher, "answered", broken)
        self.assertEqual([None] * 2, self.publish(make_request("a"), make_request("b")))
        self.assertTrue(self.flushLoggedErrors(ValueError))

    def test_count_that_fails(self) -> None:
        """What was delivered was delivered, whether or not it could be counted."""

        def broken(_: Any) -> None:
            raise ValueError("no such metric")

        self.patch(self.publisher, "count", broken)
        self.assertEqual([None] * 2, self.publish(make_request("a"), make_request("b")))
        self.assertTrue(self.flushLoggedErrors(ValueError))

    def test_nothing_is_left_to_the_collector(self) -> None:
        """What was published is freed at once: a cycle would stay until it is looked for."""
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        before = {id(one) for one in gc.get_objects() if isinstance(one, Group | Delivery)}
        requests = [make_request(events=[("click", b"1"), ("view", b"2")]) for _ in range(3)]
        self.assertEqual([None] * 3, self.publish(*requests))
        wait_until(
            lambda: (
                not [
                    one
                    for one in gc.get_objects()
                    if isinstance(one, Group | Delivery) and id(one) not in before
                ]
            ),
            "the end of all",
        )
