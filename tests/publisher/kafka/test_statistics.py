"""librdkafka's statistics and log lines, as they reach Raccoon's gauges and log."""

from __future__ import annotations

import json
import logging
from typing import Any

from confluent_kafka import Producer
from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.kafka.log import ClientLog
from raccoon.publisher.kafka.statistics import Statistics
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics

LIBRDKAFKA = "raccoon.publisher.kafka.librdkafka"


def report(messages: int, size: int, **brokers: tuple[int, int, list[int]]) -> str:
    """A report of a producer; of each broker requests, bytes, and round trips in microseconds."""
    return json.dumps(
        {
            "txmsgs": messages,
            "txmsg_bytes": size,
            "brokers": {
                name: {
                    "nodename": f"{name}:9092",
                    "tx": requests,
                    "txbytes": sent,
                    "rtt": {"sum": sum(trips), "cnt": len(trips)},
                }
                for name, (requests, sent, trips) in brokers.items()
            },
        }
    )


class StatisticsTests(SynchronousTestCase):
    """What the gauges show."""

    def setUp(self) -> None:
        self.metrics = FakeMetrics()
        self.statistics = Statistics(self.metrics, brokers=2)

    def shown(self) -> dict[tuple[str, ...], float]:
        return {(name, *labels): value for name, value, labels in self.metrics.gauges}

    def check(self, name: str, value: float, *labels: str) -> None:
        self.assertEqual(self.shown().get((name, *labels)), value)

    def test_one_producer(self) -> None:
        """Messages and bytes in all; requests, bytes and milliseconds of each broker."""
        self.statistics.record("main", report(5, 1000, a=(3, 300, [1000, 3000]), b=(1, 50, [])))
        self.assertEqual(
            self.shown(),
            {
                ("kafka_tx_messages_total",): 5,
                ("kafka_tx_messages_bytes_total",): 1000,
                ("kafka_brokers_tx_total", "a"): 3,
                ("kafka_brokers_tx_bytes_total", "a"): 300,
                ("kafka_brokers_rtt_average_milliseconds", "a"): 2.0,
                ("kafka_brokers_tx_total", "b"): 1,
                ("kafka_brokers_tx_bytes_total", "b"): 50,
            },
        )

    def test_last_report_counts(self) -> None:
        """A producer's reports are totals and are not added to each other."""
        self.statistics.record("main", report(5, 1000, a=(3, 300, [])))
        self.statistics.record("main", report(7, 1400, a=(4, 400, [])))
        self.check("kafka_tx_messages_total", 7)
        self.check("kafka_brokers_tx_bytes_total", 400, "a")

    def test_two_producers(self) -> None:
        """Producers are summed, and their round trips averaged by number."""
        self.statistics.record("main", report(5, 1000, a=(3, 300, [1000] * 3)))
        self.statistics.record("alone", report(1, 100, a=(2, 200, [5000])))
        self.check("kafka_tx_messages_total", 6)
        self.check("kafka_tx_messages_bytes_total", 1100)
        self.check("kafka_brokers_tx_total", 5, "a")
        self.check("kafka_brokers_rtt_average_milliseconds", 2.0, "a")

    def test_replaced_producer(self) -> None:
        """What a producer sent counts on when another takes its place, its round trips do not."""
        self.statistics.record("main", report(5, 1000, a=(3, 300, [9000])))
        self.statistics.retire("main")
        self.statistics.record("main", report(1, 100, a=(1, 10, [1000])))
        self.check("kafka_tx_messages_total", 6)
        self.check("kafka_brokers_tx_total", 4, "a")
        self.check("kafka_brokers_rtt_average_milliseconds", 1.0, "a")

    def test_broker_label_is_bounded(self) -> None:
        """Past so many hosts what comes is summed as `other`."""
        for name in ("a", "b", "c", "d"):
            self.statistics.record(name, report(1, 10, **{name: (1, 10, [])}))
        self.check("kafka_brokers_tx_total", 1, "b")
        self.check("kafka_brokers_tx_total", 2, "other")
        self.assertNotIn(("kafka_brokers_tx_total", "c"), self.shown())

    def test_real_report(self) -> None:
        """A report of the librdkafka that is installed is understood."""
        reports: list[str] = []
        options: dict[str, Any] = {
            "bootstrap.servers": "broker.invalid:9092",
            "statistics.interval.ms": 10,
            "stats_cb": reports.append,
            "log_level": 0,
        }
        producer = Producer(options)
        while not reports:
            producer.poll(0.05)
        self.statistics.record("main", reports[0])
        self.check("kafka_tx_messages_total", 0)
        self.check("kafka_brokers_tx_total", 0, "broker.invalid")

    def test_report_that_is_none(self) -> None:
        """What cannot be read is logged and does not end the thread that polls."""
        with self.assertLogs("raccoon.publisher.kafka.statistics", "ERROR"):
            self.statistics.record("main", "{}")
        self.assertEqual(self.metrics.gauges, [])


class ClientLogTests(SynchronousTestCase):
    """Lines of librdkafka."""

    def records(self, *lines: tuple[int, str, str]) -> list[logging.LogRecord]:
        log = ClientLog(Supervisor(FakeMetrics()))
        with self.assertLogs(LIBRDKAFKA, "DEBUG") as logged:
            for level, facility, text in lines:
                log.log(level, "%s [%s] %s", facility, "rdkafka#producer-1", text)
        return logged.records

    def test_levels_and_text(self) -> None:
        """Level and text stay what they were."""
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.CRITICAL):
            (record,) = self.records((level, "FACILITY", "100% of it"))
            self.assertEqual(record.levelno, level)
            self.assertEqual(record.getMessage(), "FACILITY rdkafka#producer-1 100% of it")

    def test_templates(self) -> None:
        """Lines of one facility have one template, those of another have another."""
        first, second, third = self.records(
            (logging.ERROR, "FAIL", "a"), (logging.ERROR, "FAIL", "b"), (logging.ERROR, "SSL", "a")
        )
        self.assertEqual(first.msg, second.msg)
        self.assertNotEqual(first.msg, third.msg)

    def test_closed_connection(self) -> None:
        """A connection that is closed in use is a warning, so that it is throttled."""
        levels = [
            record.levelno
            for record in self.records(
                (logging.INFO, "FAIL", "Disconnected"),
                (logging.DEBUG, "FAIL", "idle"),
                (logging.ERROR, "FAIL", "refused"),
            )
        ]
        self.assertEqual(levels, [logging.WARNING, logging.DEBUG, logging.ERROR])
