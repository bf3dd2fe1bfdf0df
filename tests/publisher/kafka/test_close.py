"""The end of the Kafka publisher."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from confluent_kafka import KafkaError

from raccoon.publisher.kafka import publisher as kafka
from tests.fakes import make_request
from tests.publisher.kafka.case import (
    KafkaTestCase,
    later,
)
from tests.publisher.kafka.fakes import FakeProducer
from tests.publisher.watch import WAIT


class CloseTests(KafkaTestCase):
    """The end of the publisher."""

    def setUp(self) -> None:
        self.patch(kafka, "PATIENCE", 0.05)
        self.start()

    def test_nothing_is_left(self) -> None:
        """With everything delivered nothing is left."""
        self.publish(make_request())
        self.assertEqual(self.publisher.close(0.1), 0)

    def test_what_flushes_in_time_is_delivered(self) -> None:
        """What is confirmed while the publisher flushes is delivered, and not counted as left."""
        self.producer.held.add(b"slow")
        (late,) = self.publisher.publish([make_request(events=[("click", b"slow")] * 5)])
        self.producer.flush = self.release_and_flush  # type: ignore[method-assign]
        self.assertEqual(self.publisher.close(0.1), 0)
        self.assertIsNone(later(late).result(WAIT))

    def release_and_flush(self, timeout: float) -> int:
        self.producer.release()
        return FakeProducer.flush(self.producer, timeout)

    def test_counts_exactly_what_is_left(self) -> None:
        """What is undelivered is counted to the event, and every request has its outcome."""
        self.producer.held.add(b"stuck")
        done, mixed, stuck = self.publisher.publish(
            [
                make_request("a", [("click", b"1")] * 4),
                make_request("b", [("click", b"2"), ("click", b"stuck"), ("click", b"stuck")]),
                make_request("c", [("click", b"stuck")] * 5),
            ]
        )
        self.assertEqual(self.publisher.close(0.01), 7)
        self.assertIsNone(done)
        self.check_failed(later(mixed).result(WAIT), 2, 3, "shutting down")
        self.check_failed(later(stuck).result(WAIT), 5, 5, "shutting down")
        labels = ("clickstream-click-log", "group", "click")
        self.assertEqual(self.metrics.total("kafka_messages_delivered_total", labels), 5)
        self.assertEqual(self.metrics.total("kafka_messages_undelivered_total", labels), 7)

    def test_failures_before_are_not_left(self) -> None:
        """Events that failed before the close were told so, and are not counted again."""
        self.producer.failures[b"bad"] = KafkaError._MSG_TIMED_OUT
        self.publish(make_request(events=[("click", b"bad")]))
        self.assertEqual(self.publisher.close(0.01), 0)

    def test_publish_after_close(self) -> None:
        """What is published after the close fails at once, and nothing of it is produced."""
        self.publisher.close(0.01)
        (outcome,) = self.publisher.publish([make_request(events=[("click", b"1")] * 2)])
        self.check_failed(outcome, 2, 2, "shutting down")
        self.assertEqual(self.producer.accepted, [])

    def test_close_ends_a_publish_that_waits_for_room(self) -> None:
        """A publish that waits for room in the queue ends when the publisher is closed."""
        self.start(capacity=1)
        self.producer.held.add(b"stuck")
        waits = threading.Event()
        produce = self.producer.produce

        def produce_again_after_the_close(*args: Any, **options: Any) -> None:
            if waits.is_set():
                self.publisher._stopped.wait(WAIT)
            try:
                produce(*args, **options)
            except BufferError:
                waits.set()
                raise

        self.producer.produce = produce_again_after_the_close  # type: ignore[method-assign]
        request = make_request(events=[("click", b"stuck")] * 3)
        with ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(self.publisher.publish, [request])
            self.assertTrue(waits.wait(WAIT))
            self.publisher.close(0.01)
            (outcome,) = publishing.result(WAIT)
        if isinstance(outcome, Future):
            outcome = outcome.result(1)
        self.check_failed(outcome, 3, 3, "shutting down")

    def test_close_fails_the_rest_of_a_request(self) -> None:
        """After an event that the close failed no later one of its request is taken."""
        self.start(capacity=1)
        self.producer.held.add(b"1")
        produce = self.producer.produce

        def close_while_full(*args: Any, **options: Any) -> None:
            try:
                produce(*args, **options)
            except BufferError:
                self.publisher._closing.set()
                self.publisher._stopped.set()
                self.producer.release()
                self.producer.poll(0)  # there is room again
                raise

        self.producer.produce = close_while_full  # type: ignore[method-assign]
        events = [("click", b"%d" % n) for n in range(1, 4)]
        (outcome,) = self.publisher.publish([make_request(events=events)])
        self.check_failed(outcome, 2, 3, "shutting down")
        self.assertEqual(self.producer.accepted, [("clickstream-click-log", b"1")])

    def test_close_waits_for_what_is_handed_over(self) -> None:
        """What a thread is handing over at the moment of the close is counted and answered."""
        produce = self.producer.produce
        begun = threading.Event()

        def produce_while_closing(*args: Any, **options: Any) -> None:
            begun.set()
            self.publisher._stopped.wait(WAIT)
            threading.Event().wait(0.05)  # the purge would come first, were it not to wait
            produce(*args, **options)

        self.producer.produce = produce_while_closing  # type: ignore[method-assign]
        self.producer.held.add(b"stuck")
        request = make_request(events=[("click", b"stuck")] * 3)
        with ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(self.publisher.publish, [request])
            self.assertTrue(begun.wait(WAIT))
            self.assertEqual(self.publisher.close(0.01), 3)
            (outcome,) = publishing.result(WAIT)
        if isinstance(outcome, Future):
            outcome = outcome.result(1)
        self.check_failed(outcome, 3, 3, "shutting down")
