"""librdkafka's options, on the real producer, without a broker."""

from __future__ import annotations

import weakref
from typing import Any

import attrs
from confluent_kafka import KafkaError, Message, Producer
from twisted.trial.unittest import SynchronousTestCase

from raccoon.errors import StartError
from raccoon.publisher import PublisherContext
from raccoon.publisher.kafka import producers as kafka_producers
from raccoon.publisher.kafka.publisher import KafkaPublisher
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics
from tests.publisher.kafka.case import (
    make_context,
)
from tests.publisher.watch import WAIT, GaugeWatch


class OptionTests(SynchronousTestCase):
    """librdkafka's options, on the real producer."""

    def make(self, **client: str) -> KafkaPublisher:
        options = {name.replace("_", "."): value for name, value in client.items()}
        return KafkaPublisher(make_context(FakeMetrics(), options))

    def refusal(self, **client: str) -> str:
        return str(self.assertRaises(StartError, self.make(**client).start))

    def test_unknown_option(self) -> None:
        """An option that librdkafka does not know stops the start, in its own words."""
        self.assertIn('No such configuration property: "no.such"', self.refusal(no_such="1"))

    def test_value_that_does_not_fit(self) -> None:
        """A value that librdkafka does not take stops the start, in its own words."""
        self.assertIn(
            'Invalid value for configuration property "message.max.bytes"',
            self.refusal(message_max_bytes="many"),
        )

    def test_waiting_for_company(self) -> None:
        """The worker has up to 4.5 ms of it, less a timer's lateness; librdkafka the rest."""
        made: list[dict[str, Any]] = []

        def make(options: dict[str, Any]) -> Producer:
            made.append(options)
            return Producer(options)

        self.patch(kafka_producers, "Producer", make)
        for client, worker, rest in (
            ({}, 0.001, 0.5),
            ({"linger_ms": "0"}, 0.001, 0),
            ({"linger_ms": "0.25"}, 0.001, 0.25),
            ({"linger_ms": "1.5"}, 0.001, 0.5),
            ({"linger_ms": "5"}, 0.0035, 0.5),
            ({"queue_buffering_max_ms": "100"}, 0.0035, 95.5),
        ):
            publisher = self.make(**client)
            publisher._producers.create()
            options = made.pop()
            self.assertEqual(publisher.linger, worker, client)
            self.assertEqual(options["linger.ms"], rest, client)
            self.assertNotIn("queue.buffering.max.ms", options)
            self.assertEqual(publisher.enough_bytes, 65536)
            self.assertNotIn("batch.size", options)  # librdkafka's default
        publisher = self.make(batch_size="1000")
        publisher._producers.create()
        self.assertEqual((publisher.enough_bytes, made.pop()["batch.size"]), (1000, "1000"))

    def test_group(self) -> None:
        """A group is a batch, or several small ones."""
        for size, group in (("", 1_000_000), ("1000", 1_000_000), ("3000000", 3_000_000)):
            publisher = self.make(**({"batch_size": size} if size else {}))
            self.assertEqual(group, publisher.group_bytes)

    def test_waiting_where_no_client_waits(self) -> None:
        """Where the answer does not wait for the delivery, batches are as large as librdkafka's.

        With all on disk, too, more of them wait, and longer.
        """
        for ack, client, worker, rest in (
            (0, {}, 0.0035, 0.5),
            (0, {"linger.ms": "100"}, 0.0035, 95.5),
            (2, {}, 0.0185, 0.5),
            (2, {"linger.ms": "5"}, 0.0035, 0.5),
            (2, {"linger.ms": "100"}, 0.0185, 80.5),
        ):
            publisher = KafkaPublisher(make_context(FakeMetrics(), client, ack=ack))
            self.assertEqual((publisher.linger, publisher.enough_bytes), (worker, 1_000_000))
            self.assertEqual(publisher._options.client["linger.ms"], rest)

    def test_linger_and_batch_that_do_not_fit(self) -> None:
        """Bad values for them stop the start, in librdkafka's words."""
        for value in ("soon", "-1", "1e9"):
            self.assertIn("queue.buffering.max.ms", self.refusal(linger_ms=value))
        for value in ("large", "-1", "0"):
            self.assertIn("batch.size", self.refusal(batch_size=value))

    def test_transactions(self) -> None:
        """An option with which the publisher could not keep its word is refused by name."""
        reason = self.refusal(transactional_id="me")
        self.assertIn("PUBLISHER_KAFKA_CLIENT_TRANSACTIONAL_ID: cannot be used", reason)

    def test_reports_of_errors_only(self) -> None:
        """Whatever the option says, a failure is reported, and then the callable is let go of."""
        for value in ("true", "false"):
            producer = self.make(delivery_report_only_error=value)._producers.create()
            reported: list[int] = []

            def report(
                error: KafkaError | None, _: Message, reported: list[int] = reported
            ) -> None:
                assert error is not None
                reported.append(error.code())

            held = weakref.ref(report)
            for _ in range(2):
                producer.produce("click", b"1", None, -1, report)
            del report
            self.assertIsNotNone(held())
            producer.purge()
            producer.flush(WAIT)
            self.assertEqual([KafkaError._PURGE_QUEUE] * 2, reported)
            self.assertIsNone(held())

    def test_idempotence_gives_way(self) -> None:
        """Options that exclude idempotence switch it off, which the log says, and not the start."""
        for client in ({"acks": "1"}, {"max_in_flight": "10"}, {"retries": "0"}):
            with self.assertLogs(kafka_producers.__name__, "WARNING") as logged:
                producer = self.make(**client)._producers.create()
            self.assertIsInstance(producer, Producer)
            self.assertEqual(len(logged.output), 1)
            self.assertIn("idempotence is off", logged.output[0])
            self.assertIn("enable.idempotence", logged.output[0])

    def test_idempotence_by_default(self) -> None:
        """Without such options nothing is switched off."""
        with self.assertNoLogs(kafka_producers.__name__, "WARNING"):
            self.make()._producers.create()
            self.make(acks="all")._producers.create()
            self.make(enable_idempotence="false", acks="1")._producers.create()

    def test_idempotence_that_was_asked_for(self) -> None:
        """Idempotence that the user asked for is not given up: a contradiction stops the start."""
        self.assertIn("acks", self.refusal(enable_idempotence="true", acks="1"))

    def test_statistics(self) -> None:
        """librdkafka reports as often as the process's gauges are set, unless told otherwise."""
        for client, reports in (({}, True), ({"statistics_interval_ms": "0"}, False)):
            metrics = GaugeWatch()
            options = {name.replace("_", "."): value for name, value in client.items()}
            context = make_context(metrics, options)
            metric = attrs.evolve(context.settings.metric, runtime_stats_record_interval_ms=10)
            settings = attrs.evolve(context.settings, metric=metric)
            producer = KafkaPublisher(
                PublisherContext(settings, metrics, Supervisor(metrics))
            )._producers.create()
            for _ in range(20 if reports else 2):
                producer.poll(0.02)
                if metrics.gauges:
                    break
            self.assertEqual(bool(metrics.gauges), reports)

    def test_destination(self) -> None:
        """People read where the events go, and no secret."""
        publisher = self.make(bootstrap_servers="broker.test:9092", sasl_password="hush")
        self.assertIn("broker.test:9092", publisher.destination)
        self.assertIn("clickstream-%s-log", publisher.destination)
        self.assertNotIn("hush", publisher.destination)
