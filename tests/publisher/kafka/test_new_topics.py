"""Topics that have not taken an event yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from raccoon.errors import PublishError
from raccoon.interfaces import IRejectingPublisher
from raccoon.publisher.kafka import publisher as kafka
from raccoon.publisher.kafka.trials import Trials
from tests.fakes import make_request
from tests.publisher.kafka.case import (
    KafkaTestCase,
    later,
)
from tests.publisher.watch import WAIT


class NewTopicTests(KafkaTestCase):
    """Topics that have not taken an event yet, of which two are tried at once."""

    def set_trials(self, trials: Trials) -> None:
        for part in (self.publisher, self.publisher._producing, self.publisher._accounts):
            self.patch(part, "_trials", trials)

    def check(self, metadata: bool) -> None:
        self.patch(kafka, "PATIENCE", 0.05)
        self.start(metadata=metadata)
        self.set_trials(Trials(lambda: None, most_tried=2))
        self.producer.held.add(b"held")
        held = make_request("a", [("one", b"held"), ("two", b"held")])
        late, mixed = self.publisher.publish(
            [held, make_request("b", [("one", b"1"), ("three", b"3"), ("four", b"4")])]
        )
        self.assertFalse(later(late).done())
        self.check_failed(mixed, 3, 3, "too many new event types at once, retry")
        assert isinstance(mixed, PublishError)
        self.assertEqual({}, mixed.lasting)
        self.assertEqual({b"held"}, {value for _, value in self.producer.accepted})
        labels = ("clickstream-three-log", "group", "three")
        self.assertEqual(self.metrics.total("kafka_messages_undelivered_total", labels), 1)
        self.producer.release()
        self.assertIsNone(later(late).result(WAIT))
        new = [(f"new-{number}", b"n") for number in range(10)]
        for event in new:
            self.assertEqual([None], self.publish(make_request("c", [event])))
        self.assertEqual([None], self.publish(make_request("d", new)))

    def test_without_metadata(self) -> None:
        """A request with events of more than may be tried is refused for now, as a whole."""
        self.check(metadata=False)

    def test_with_metadata(self) -> None:
        """So they are where events are handed over one by one."""
        self.check(metadata=True)

    def test_topic_that_is_gone(self) -> None:
        """A topic that had passed and does not exist any more is tried like a new one."""
        self.start()
        self.assertEqual([None], self.publish(make_request("a", [("gone", b"1")])))
        self.producer.failures[b"2"] = KafkaError.UNKNOWN_TOPIC_OR_PART
        (outcome,) = self.publish(make_request("b", [("gone", b"2")]))
        self.check_failed(outcome, 1, 1)
        self.assertEqual(set(), self.publisher._trials.passed)

    def test_rejected_beforehand(self) -> None:
        """Types of a missing topic are told for five seconds, then it is found out again."""
        clock = Clock()
        for metadata in (False, True):
            self.start(metadata=metadata)
            publisher = self.publisher
            verifyObject(IRejectingPublisher, publisher)
            self.patch(publisher._accounts.rejections, "_clock", clock.seconds)
            self.set_trials(Trials(lambda: None, seconds=clock.seconds))
            self.producer.failures[b"2"] = KafkaError.UNKNOWN_TOPIC_OR_PART
            (outcome,) = self.publish(make_request("a", [("there", b"1"), ("gone", b"2")]))
            self.check_failed(outcome, 1, 2)
            reason = "topic clickstream-gone-log does not exist"
            self.assertEqual(reason, publisher.rejection("gone"))
            self.assertIsNone(publisher.rejection("there"))
            clock.advance(5)
            self.assertIsNone(publisher.rejection("gone"))
            self.publish(make_request("b", [("gone", b"2")]))
            self.assertEqual(reason, publisher.rejection("gone"))
            clock.advance(1)
            self.assertEqual([None], self.publish(make_request("c", [("gone", b"3")])))
            self.assertIsNone(publisher.rejection("gone"))

    def check_asked_once(self, topic: str) -> None:
        """Of a group for a topic that does not exist, one request finds out for all."""
        tried: list[str] = []

        def refuse(topic: str, *_: Any, **__: Any) -> None:
            tried.append(topic)
            raise KafkaException(KafkaError(KafkaError._UNKNOWN_TOPIC))

        self.patch(self.producer, "produce", refuse)
        requests = [make_request(events=[(topic, b"1")] * 3) for _ in range(50)]
        for outcome in self.publish(*requests):
            self.check_failed(outcome, 3, 3, "does not exist")
        self.assertLessEqual(len(tried), 2, tried)

    def test_group_for_a_topic_that_does_not_exist(self) -> None:
        """It costs no more than one request for it: librdkafka never frees some of its errors."""
        for metadata in (False, True):
            self.start(metadata=metadata)
            self.check_asked_once("new")

    def test_group_for_a_topic_that_is_gone(self) -> None:
        """So it is where the topic had taken events before."""
        for metadata in (False, True):
            self.start(metadata=metadata)
            self.assertEqual([None], self.publish(make_request("a", [("gone", b"1")])))
            self.check_asked_once("gone")

    def check_impossible(self, refusal: Callable[[], Exception], metadata: bool = False) -> None:
        self.start(metadata=metadata)
        produce = self.producer.produce

        def refuse(topic: str, *args: Any, **more: Any) -> None:
            if "bad" in topic:
                raise refusal()
            produce(topic, *args, **more)

        self.patch(self.producer, "produce", refuse)
        bad = make_request("a", [("bad", b"1"), ("bad", b"2"), ("good", b"3")])
        failed, good = self.publish(bad, make_request("b", [("good", b"4")]))
        self.assertIsNone(good)
        self.check_failed(failed, 2, 3, "does not exist")
        self.assertEqual({"bad": 2}, failed.lasting)

    def test_name_with_a_zero_byte(self) -> None:
        """A name that librdkafka cannot take is one of no topic, and harms no other request."""
        self.check_impossible(lambda: ValueError("embedded null character"))

    def test_name_with_a_zero_byte_and_metadata(self) -> None:
        """So it is where events are handed over one by one."""
        self.check_impossible(lambda: ValueError("embedded null character"), metadata=True)

    def test_name_that_is_too_long(self) -> None:
        """So is a name that is longer than librdkafka takes."""
        self.check_impossible(lambda: KafkaException(KafkaError(KafkaError._INVALID_ARG)))

    def test_many_were_missing(self) -> None:
        """When many topics were missing the cluster is asked which there are."""
        for reachable in (True, False):
            self.start(reachable=reachable)
            self.set_trials(Trials(self.publisher._producers.list_topics, most_missed=1))
            self.producer.topics.add("clickstream-there-log")
            self.producer.failures[b"2"] = KafkaError.UNKNOWN_TOPIC_OR_PART
            (outcome,) = self.publish(make_request("a", [("gone", b"2")]))
            self.check_failed(outcome, 1, 1)
            request = make_request("b", [("there", b"1"), ("other", b"1")])
            (outcome,) = self.publish(request)
            if reachable:
                self.check_failed(outcome, 1, 2, "topic clickstream-other-log does not exist")
                self.assertEqual({"other": 1}, outcome.lasting)
            else:
                self.check_failed(outcome, 2, 2, "too many new event types at once, retry")

    def check_missing(self, metadata: bool) -> None:
        self.start(metadata=metadata)
        clock = Clock()
        trials = Trials(lambda: None, missing_seconds=10, seconds=clock.seconds)
        self.set_trials(trials)
        asked = 0
        produce = self.producer.produce

        def missing(topic: str, *args: Any, **more: Any) -> None:
            nonlocal asked
            if "missing" in topic:
                asked += 1
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
            produce(topic, *args, **more)

        self.patch(self.producer, "produce", missing)
        events = [("there", b"1"), *[("missing", b"2")] * 5, ("there", b"3")]
        for seconds in (0, 5, 5, 9):
            clock.advance(seconds)
            (outcome,) = self.publish(make_request("a", events))
            self.check_failed(outcome, 5, 7, "topic clickstream-missing-log does not exist")
            self.assertEqual({"missing": 5}, outcome.lasting)
        # For each of the two requests that tried it: once, and once more in the careful way.
        self.assertEqual(2 if metadata else 4, asked)
        there = [topic for topic, _ in self.producer.accepted]
        self.assertEqual(["clickstream-there-log"] * 8, there)
        labels = ("clickstream-missing-log", "missing", "group")
        self.assertEqual(20, self.metrics.total("kafka_unknown_topic_failure_total", labels))

    def test_missing_topic(self) -> None:
        """librdkafka is not asked for each event of a topic that does not exist."""
        self.check_missing(metadata=False)

    def test_missing_topic_with_metadata(self) -> None:
        """Nor where events are handed over one by one."""
        self.check_missing(metadata=True)
