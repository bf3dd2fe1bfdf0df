"""Errors that nobody expects, in each place of the Kafka publisher that has requests."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from operator import attrgetter
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.base import threads
from raccoon.publisher.kafka import log, producers
from raccoon.publisher.kafka import publisher as kafka
from raccoon.publisher.kafka.delivery import KafkaGroup
from raccoon.publisher.kafka.publisher import KafkaPublisher
from tests.fakes import FakeMetrics, make_request
from tests.integration.waiting import wait_until
from tests.publisher.injection import Injected, InjectionMixin
from tests.publisher.kafka.case import SERVERS, KafkaTestCase, make_context

# What raises once, whether a request may fail for it, and whether SystemExit is no end of a thread.
PLACES = (
    ("_trials.begin", True, True),
    ("_partitions.choose", True, True),
    ("_producers.main.produce", True, True),
    ("_producers.poll", False, False),
    ("_producers.replace_failed", False, False),
    ("_partitions.ended", False, False),
    ("_accounts._missing", True, False),
    ("_accounts._count_failure", True, False),
    ("answered", False, False),
    ("count", False, False),
)


class InjectionTests(InjectionMixin, KafkaTestCase):
    """Every request has an outcome, and the next is delivered."""

    def setUp(self) -> None:
        self.patch(threads, "_PAUSE_AFTER_FAILURE", 0.001)

    def test_places(self) -> None:
        """Whatever raises, it is told, each request has its outcome, and the next is delivered."""
        for metadata in (False, True):
            for path, may_fail, exits in PLACES:
                self.check(path, may_fail, metadata, Injected)
                if exits:
                    self.check(path, may_fail, metadata, SystemExit)

    def check(self, path: str, may_fail: bool, metadata: bool, error: type[BaseException]) -> None:
        case = f"{error.__name__} in {path}, metadata {metadata}"
        self.start(metadata=metadata)
        self.learn("click", "view")
        self.producer.failures[b"missing"] = KafkaError.UNKNOWN_TOPIC_OR_PART
        owner, _, name = path.rpartition(".")
        target = attrgetter(owner)(self.publisher) if owner else self.publisher
        raised = self.raise_once(target, name, error)
        *outcomes, missing = self.publish(
            make_request(events=[("click", b"1"), ("view", b"2")]),
            make_request(events=[("click", b"3")] * 3),
            make_request(events=[("gone", b"missing")]),
        )
        wait_until(raised.is_set, case, 5)
        self.check_told(case, error)
        if not may_fail:
            self.assertEqual([None] * 2, outcomes, case)
        self.check_failed(missing, 1, 1)
        self.assertEqual([None], self.publish(make_request()), case)
        self.assertEqual({}, self.publisher._trials._tried, case)
        began = time.monotonic()
        self.assertEqual(0, self.publisher.close(5), case)
        self.assertLess(time.monotonic() - began, 1, case)

    def test_end_of_a_request(self) -> None:
        """A request whose end fails as such has an outcome, which is not that it was delivered."""
        for error in (Injected, SystemExit):
            self.start()
            ended = KafkaGroup.ended
            raised = self.raise_once(KafkaGroup, "ended", error)
            (outcome,) = self.publish(make_request())
            self.assertTrue(raised.is_set())
            self.check_failed(outcome, 1, 1, "retry")
            self.check_told("ended", error)
            self.patch(KafkaGroup, "ended", ended)

    def test_probe(self) -> None:
        """What ends a look for the brokers does not end the looking."""
        self.raise_once(producers.Producers, "probe")
        self.start()
        self.check_told("probe")
        wait_until(lambda: self.publisher._reachability.known, "the next look", 5)
        self.assertEqual([], self.publisher._supervisor.reasons())

    def test_close(self) -> None:
        """A flush that fails does not keep what is left from its outcome and its count."""
        self.patch(kafka, "PATIENCE", 0.01)
        for error in (Injected, KafkaException):
            self.start()
            self.producer.held.add(b"held")
            (waiting,) = self.publisher.publish([make_request(events=[("click", b"held")] * 3)])
            self.raise_once(self.producer, "flush", error)
            self.assertEqual(3, self.publisher.close(5))
            self.check_failed(self.wait(waiting), 3, 3, "shutting down")
            self.check_told("flush", error)

    def test_poller_ends(self) -> None:
        """Without it nothing would be answered: all that waits fails, and all that comes."""
        self.patch(kafka, "PATIENCE", 0.01)
        self.start()
        self.producer.held.add(b"held")
        waiting = self.publisher.publish([make_request(events=[("click", b"held")])])
        self.raise_once(self.publisher._producers, "poll", SystemExit)
        for outcome in [*map(self.wait, waiting), *self.publish(make_request())]:
            self.check_failed(outcome, 1, 1)
            self.assertEqual({}, outcome.lasting)
        self.check_told("poller", SystemExit)
        self.assertIn("kafka-poller failed: injected", self.publisher._supervisor.reasons())
        self.assertEqual(0, self.publisher.close(5))

    def wait(self, outcome: Any) -> Any:
        return outcome.result(5) if isinstance(outcome, Future) else outcome


class CallbackTests(InjectionMixin, SynchronousTestCase):
    """What librdkafka calls, as the real producer is given it."""

    def setUp(self) -> None:
        self.metrics = FakeMetrics()
        self.given: dict[str, Any] = {}

        def make(options: dict[str, Any]) -> None:
            self.given = options

        self.patch(producers, "Producer", make)
        self.publisher = KafkaPublisher(make_context(self.metrics, SERVERS))
        self.publisher._producers.open()

    def check(self, call: Callable[..., object], *args: object) -> None:
        """A call raises nothing, and what it met is told."""
        call(*args)
        self.check_told(str(args))

    def test_error_callback(self) -> None:
        """One that fails is told, and does not come up where reports are served."""
        self.raise_once(self.publisher._reachability, "announce")
        self.check(self.given["error_cb"], KafkaError(KafkaError._ALL_BROKERS_DOWN))

    def test_statistics(self) -> None:
        """So are statistics."""
        self.raise_once(self.metrics, "gauge")
        self.check(self.given["stats_cb"], '{"txmsgs": 1, "txmsg_bytes": 1, "brokers": {}}')

    def test_log(self) -> None:
        """So is a line of its log."""
        self.raise_once(log._log, "log")
        self.check(self.given["logger"].log, logging.ERROR, "%s", "FAIL", "client", "text")
