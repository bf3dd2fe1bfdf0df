"""One outcome for each request to Kafka, in order, and why events failed."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer

from raccoon.publisher.kafka import publisher as kafka
from tests.fakes import make_request
from tests.publisher.kafka.case import (
    KafkaTestCase,
)
from tests.publisher.kafka.fakes import FakeProducer
from tests.publisher.watch import WAIT


class OutcomeTests(KafkaTestCase):
    """One outcome for each request, in order."""

    def setUp(self) -> None:
        self.start()

    def test_events_arrive(self) -> None:
        """Each event's bytes are the value of a record in the topic of its type."""
        request = make_request(events=[("click", b"\x00\xff"), ("view", b""), ("click", b"2")])
        self.assertEqual(self.publish(request), [None])
        self.assertEqual(
            sorted(self.producer.accepted),
            [
                ("clickstream-click-log", b"\x00\xff"),
                ("clickstream-click-log", b"2"),
                ("clickstream-view-log", b""),
            ],
        )

    def test_order_of_a_type_is_kept(self) -> None:
        """Events of one type are produced in the order in which they came."""
        payloads = [b"%d" % n for n in range(100)]
        self.publish(
            make_request(events=[("click", payload) for payload in payloads[:50]]),
            make_request(events=[("click", payload) for payload in payloads[50:]]),
        )
        self.assertEqual([value for _, value in self.producer.accepted], payloads)

    def test_outcomes_are_in_the_order_of_the_requests(self) -> None:
        """Of many requests those that failed are told apart by their place."""
        requests = [make_request(str(n), [("click", b"%d" % n)]) for n in range(20)]
        bad = {3, 4, 17}
        for n in bad:
            self.producer.failures[b"%d" % n] = KafkaError._MSG_TIMED_OUT
        outcomes = self.publish(*requests)
        self.assertEqual({n for n, outcome in enumerate(outcomes) if outcome is not None}, bad)
        for n in bad:
            self.check_failed(outcomes[n], 1, 1)

    def test_one_failed_event_fails_its_request_only(self) -> None:
        """One event of many that fails fails its request, and says how many of how many."""
        self.producer.failures[b"bad"] = KafkaError._MSG_TIMED_OUT
        good, mixed, other = self.publish(
            make_request(events=[("click", b"1")] * 10),
            make_request(events=[("click", b"2"), ("view", b"bad"), ("click", b"3")]),
            make_request(events=[("view", b"4")] * 10),
        )
        self.assertEqual((good, other), (None, None))
        self.check_failed(mixed, 1, 3, "1 of 3 events failed")

    def test_event_refused_at_once_fails_its_request_only(self) -> None:
        """An event that the producer does not even take fails its request, and no other."""
        self.producer.refusals[b"bad"] = KafkaError.MSG_SIZE_TOO_LARGE
        good, mixed, other = self.publish(
            make_request(events=[("click", b"1")]),
            make_request(events=[("click", b"2"), ("click", b"bad"), ("click", b"3")]),
            make_request(events=[("click", b"4")]),
        )
        self.assertEqual((good, other), (None, None))
        self.check_failed(mixed, 1, 3)
        self.assertEqual([value for _, value in self.producer.accepted], [b"1", b"2", b"3", b"4"])

    def test_all_events_refused_at_once(self) -> None:
        """A request of which nothing was taken has its outcome without any report."""
        self.producer.refusals[b"bad"] = KafkaError._UNKNOWN_TOPIC
        (outcome,) = self.publish(make_request(events=[("click", b"bad"), ("view", b"bad")]))
        self.check_failed(outcome, 2, 2)

    def test_first_few_distinct_reasons(self) -> None:
        """The message names each reason once, however many events it struck."""
        self.producer.failures[b"bad"] = KafkaError.UNKNOWN_TOPIC_OR_PART
        (outcome,) = self.publish(make_request(events=[("click", b"bad")] * 1000))
        self.check_failed(outcome, 1000, 1000)
        self.assertEqual(str(outcome).count("does not exist"), 1)
        self.assertLess(len(str(outcome)), 200)

    def test_report_that_cannot_be_taken(self) -> None:
        """An event is not delivered because its report could not be taken; the next ones are."""
        self.producer.failures[b"large"] = KafkaError.MSG_SIZE_TOO_LARGE

        def broken(_: Any) -> Producer:
            raise RuntimeError("no more threads")

        self.patch(self.publisher._producers, "create", broken)
        (outcome,) = self.publish(make_request(events=[("click", b"large"), ("click", b"1")]))
        self.check_failed(outcome, 1, 2, "could not be sent alone")
        self.assertEqual({}, outcome.lasting)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.assertEqual(1, self.metrics.total("supervised_failures_total", ("kafka delivery",)))
        self.assertEqual([None], self.publish(make_request()))

    def test_groups_from_several_threads(self) -> None:
        """Groups that several threads publish at once each get their own outcomes."""
        self.producer.failures[b"bad"] = KafkaError._MSG_TIMED_OUT

        def run(n: int) -> list[bool]:
            requests = [
                make_request(events=[("click", b"bad" if (n + m) % 3 == 0 else b"good")] * 5)
                for m in range(30)
            ]
            return [outcome is None for outcome in self.publish(*requests)]

        with ThreadPoolExecutor(5) as pool:
            results = list(pool.map(run, range(5)))
        for n, result in enumerate(results):
            self.assertEqual(result, [(n + m) % 3 != 0 for m in range(30)])

    def test_delivered_and_undelivered_are_counted(self) -> None:
        """Events are counted by topic, group and type, as their reports say."""
        self.producer.failures[b"bad"] = KafkaError._MSG_TIMED_OUT
        events = [("click", b"1"), ("click", b"bad"), ("click", b"2"), ("view", b"bad")]
        self.publish(make_request(events=events, group="beta"))
        click = ("clickstream-click-log", "beta", "click")
        view = ("clickstream-view-log", "beta", "view")
        for name, labels, count in (
            ("kafka_messages_delivered_total", click, 2),
            ("kafka_messages_delivered_total", view, 0),
            ("kafka_messages_undelivered_total", click, 1),
            ("kafka_messages_undelivered_total", view, 1),
        ):
            self.assertEqual(self.metrics.total(name, labels), count, (name, labels))


class ReasonTests(KafkaTestCase):
    """Failures that users can mend are told apart."""

    def setUp(self) -> None:
        self.start()

    def check(
        self, code: int, at_once: bool, reason: str, counter: str | None, lasting: bool = False
    ) -> None:
        chosen = self.producer.refusals if at_once else self.producer.failures
        chosen[b"bad"] = code
        (outcome,) = self.publish(make_request(events=[("click", b"bad")], group="beta"))
        del chosen[b"bad"]
        self.check_failed(outcome, 1, 1, reason)
        self.assertEqual({"click": 1} if lasting else {}, outcome.lasting)
        for name in ("kafka_unknown_topic_failure_total", "kafka_message_too_large_total"):
            self.assertEqual(self.metrics.total(name), int(name == counter), name)
        self.metrics.counts.clear()

    def test_unknown_topic(self) -> None:
        """A topic that does not exist is named, and counted by itself."""
        for code in (
            KafkaError._UNKNOWN_TOPIC,
            KafkaError.UNKNOWN_TOPIC_OR_PART,
            KafkaError.TOPIC_EXCEPTION,
        ):
            for at_once in (True, False):
                self.check(
                    code,
                    at_once,
                    "topic clickstream-click-log does not exist",
                    "kafka_unknown_topic_failure_total",
                    lasting=True,
                )

    def test_labels_of_an_unknown_topic(self) -> None:
        """The counter of unknown topics has the labels that dashboards know, in their order."""
        self.producer.failures[b"bad"] = KafkaError.UNKNOWN_TOPIC_OR_PART
        self.publish(make_request(events=[("click", b"bad")] * 3, group="beta"))
        labels = ("clickstream-click-log", "click", "beta")
        self.assertEqual(self.metrics.total("kafka_unknown_topic_failure_total", labels), 3)

    def test_too_large(self) -> None:
        """An event that Kafka finds too large is told so, and counted by itself."""
        for code, at_once in (
            (KafkaError.MSG_SIZE_TOO_LARGE, True),
            (KafkaError.INVALID_MSG_SIZE, True),
            (KafkaError.INVALID_MSG_SIZE, False),
        ):
            self.check(code, at_once, "too large", "kafka_message_too_large_total", lasting=True)

    def test_batch_too_large(self) -> None:
        """Of a batch that the broker refused for its size, only what is too large alone fails."""
        too_large = KafkaError.MSG_SIZE_TOO_LARGE
        self.producer.failures = {b"small": too_large, b"large": too_large}
        self.publisher._producers.failing_alone = {b"large": too_large}
        outcomes = self.publish(
            make_request(events=[("click", b"small")]), make_request(events=[("click", b"large")])
        )
        self.assertIsNone(outcomes[0])
        self.check_failed(outcomes[1], 1, 1, "too large")
        self.assertEqual(self.metrics.total("kafka_message_too_large_total"), 1)
        self.assertEqual(self.metrics.total("kafka_messages_delivered_total"), 1)

    def test_batch_too_large_and_no_room_alone(self) -> None:
        """What cannot be sent alone for now may be delivered yet, and then is."""
        self.producer.failures = {b"small": KafkaError.MSG_SIZE_TOO_LARGE}
        self.assertEqual([None], self.publish(make_request(events=[("click", b"small")])))
        alone = self.publisher.created.get(timeout=WAIT)
        refusals: list[Exception] = [BufferError(), KafkaException(KafkaError(KafkaError._FATAL))]

        def refuse(*event: Any, **more: Any) -> None:
            raise refusals.pop()

        self.patch(alone, "produce", refuse)
        while refusals:
            (outcome,) = self.publish(make_request(events=[("click", b"small")]))
            self.check_failed(outcome, 1, 1, "could not be sent alone yet, retry")
            self.assertEqual({}, outcome.lasting)
        self.assertEqual(0, self.metrics.total("kafka_message_too_large_total"))
        self.patch(alone, "produce", FakeProducer.produce.__get__(alone))
        self.assertEqual([None], self.publish(make_request(events=[("click", b"small")])))

    def test_any_other(self) -> None:
        """Any other failure is told in Kafka's words, and may pass."""
        for code in (
            KafkaError._MSG_TIMED_OUT,
            KafkaError.TOPIC_AUTHORIZATION_FAILED,
            KafkaError.NOT_LEADER_FOR_PARTITION,
            KafkaError.NOT_ENOUGH_REPLICAS,
        ):
            self.check(code, False, KafkaError(code).str(), None)

    def test_for_ever_in_part(self) -> None:
        """What can never be delivered is told by type, where all that failed is so."""
        self.producer.refusals[b"large"] = KafkaError.MSG_SIZE_TOO_LARGE
        self.producer.failures[b"late"] = KafkaError._MSG_TIMED_OUT
        large, both = self.publish(
            make_request(events=[("click", b"large"), ("view", b"large"), ("click", b"1")]),
            make_request(events=[("click", b"large"), ("click", b"late")]),
        )
        self.assertEqual({"click": 1, "view": 1}, large.lasting)
        self.assertEqual({}, both.lasting)


class StragglerTests(KafkaTestCase):
    """Reports that come later than the rest of their group."""

    def setUp(self) -> None:
        self.patch(kafka, "PATIENCE", 0.05)
        self.start()

    def publish_with_straggler(self) -> Sequence[Any]:
        self.producer.held.add(b"slow")
        return self.publisher.publish(
            [
                make_request("a", [("click", b"1")]),
                make_request("b", [("click", b"2"), ("click", b"slow")]),
                make_request("c", [("click", b"3")]),
            ]
        )

    def test_others_are_answered_meanwhile(self) -> None:
        """Past PATIENCE a request without all its reports is a Future, and the others are not."""
        first, late, third = self.publish_with_straggler()
        self.assertEqual((first, third), (None, None))
        self.assertIsInstance(late, Future)
        self.assertFalse(late.done())
        self.producer.release()
        self.assertIsNone(late.result(WAIT))

    def test_late_failure(self) -> None:
        """A Future's outcome may be an error, with the events that were in time counted well."""
        _, late, _ = self.publish_with_straggler()
        self.producer.failures[b"slow"] = KafkaError._MSG_TIMED_OUT
        self.producer.release()
        self.check_failed(late.result(WAIT), 1, 2)
        labels = ("clickstream-click-log", "group", "click")
        self.assertEqual(self.metrics.total("kafka_messages_delivered_total", labels), 3)
        self.assertEqual(self.metrics.total("kafka_messages_undelivered_total", labels), 1)

    def test_next_group_does_not_wait_for_it(self) -> None:
        """A group after the straggler has its outcomes while that one still waits."""
        _, late, _ = self.publish_with_straggler()
        self.assertEqual(self.publisher.publish([make_request()]), [None])
        self.assertFalse(late.done())
