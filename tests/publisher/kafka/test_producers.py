"""Errors of a producer as a whole."""

from __future__ import annotations

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


class FatalErrorTests(KafkaTestCase):
    """Errors after which a producer takes nothing more."""

    def setUp(self) -> None:
        self.patch(kafka, "PATIENCE", 0.05)
        self.start()

    def break_down(self) -> FakeProducer:
        """A fatal error strikes; returns the producer that follows."""
        error = KafkaError(KafkaError._FATAL, "out of sequence", fatal=True)
        self.producer.break_down(error)
        return self.publisher.created.get(timeout=WAIT)

    def test_producer_is_replaced(self) -> None:
        """After a fatal error events go to a new producer, without any restart."""
        with self.assertLogs("raccoon.publisher", "WARNING"):
            second = self.break_down()
            outcomes: list[Any] = []
            while not second.accepted:  # the old one refuses what comes before it is replaced
                outcomes = self.publish(make_request(events=[("click", b"after")]))
        self.assertEqual(outcomes, [None])
        self.assertEqual(second.accepted, [("clickstream-click-log", b"after")])

    def lose_in_flight(self) -> Any:
        self.producer.held.add(b"stuck")
        (late,) = self.publisher.publish([make_request(events=[("click", b"stuck")] * 2)])
        with self.assertLogs("raccoon.publisher", "WARNING"):
            self.break_down()
            return later(late).result(WAIT)

    def test_what_was_in_flight_fails(self) -> None:
        """Requests whose events the old producer still held fail, so that clients may retry."""
        self.check_failed(self.lose_in_flight(), 2, 2)

    def test_reason_is_not_a_shutdown(self) -> None:
        """The reason of such a failure does not speak of a shutdown, as there is none."""
        self.assertNotIn("shutting down", str(self.lose_in_flight()))

    def test_it_does_not_count_as_left(self) -> None:
        """What failed by a fatal error is not counted again when the publisher is closed."""
        self.lose_in_flight()
        self.assertEqual(self.publisher.close(0.01), 0)

    def test_second_producer_is_replaced(self) -> None:
        """After a fatal error of the producer of single events, the next one is a new one."""
        self.producer.failures[b"small"] = KafkaError.MSG_SIZE_TOO_LARGE
        self.assertEqual(self.publish(make_request(events=[("click", b"small")])), [None])
        alone = self.publisher.created.get(timeout=WAIT)
        with self.assertLogs("raccoon.publisher", "ERROR"):
            alone.break_down(KafkaError(KafkaError._FATAL, "out of sequence", fatal=True))
            outcomes: list[Any] = []
            while outcomes != [None]:  # the old one refuses what comes before it is replaced
                outcomes = self.publish(make_request(events=[("click", b"small")]))
        again = self.publisher.created.get(timeout=WAIT)
        self.assertEqual(again.accepted, [("clickstream-click-log", b"small")])
        self.assertTrue(self.publisher.created.empty())

    def test_errors_that_are_not_fatal(self) -> None:
        """After an error that librdkafka mends by itself the producer stays."""
        self.producer.break_down(KafkaError(KafkaError._TRANSPORT, "connection reset"))
        self.assertEqual(self.publish(make_request()), [None])
        self.assertTrue(self.publisher.created.empty())


class ReachableTests(KafkaTestCase):
    """Whether the brokers answer."""

    def next_state(self) -> float:
        name, value = self.metrics.gauged.get(timeout=WAIT)
        self.assertEqual(name, "destination_reachable_current")
        return value

    def test_brokers_that_answer(self) -> None:
        """Brokers that answer are announced before any event is published."""
        self.start()
        self.assertEqual(self.next_state(), 1)
        self.assertTrue(self.publisher.reachable)

    def test_brokers_that_do_not_answer(self) -> None:
        """Brokers that do not answer are announced, and do not keep the publisher from starting."""
        with self.assertLogs("raccoon.publisher", "ERROR") as logged:
            self.start(reachable=False)
            self.assertEqual(self.next_state(), 0)
        self.assertFalse(self.publisher.reachable)
        self.assertIn("broker.test:9092", logged.output[0])

    def test_why_they_do_not_answer(self) -> None:
        """What the client last met is told with it."""
        self.start()
        self.assertEqual(self.next_state(), 1)
        self.producer.reachable = False
        with self.assertLogs("raccoon.publisher", "ERROR") as logged:
            self.producer.break_down(KafkaError(KafkaError._SSL, "certificate verify failed"))
            self.producer.break_down(KafkaError(KafkaError._ALL_BROKERS_DOWN))
            self.assertEqual(self.next_state(), 0)
        self.assertIn("certificate verify failed", logged.output[0])

    def test_brokers_that_go_and_come(self) -> None:
        """Brokers that go away and come back are announced each time."""
        self.start()
        self.assertEqual(self.next_state(), 1)
        self.producer.reachable = False
        with self.assertLogs("raccoon.publisher", "ERROR"):
            self.producer.break_down(KafkaError(KafkaError._ALL_BROKERS_DOWN))
            self.assertEqual(self.next_state(), 0)
        self.assertEqual(self.publish(make_request()), [None])
        self.assertEqual(self.next_state(), 1)
        self.assertTrue(self.publisher.reachable)
