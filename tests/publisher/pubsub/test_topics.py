"""Topics that are not there."""

from __future__ import annotations

import threading

from google.api_core import exceptions as gcp
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from raccoon.interfaces import IRejectingPublisher
from tests.fakes import make_request
from tests.publisher.pubsub.case import PubSubTestCase
from tests.publisher.pubsub.fakes import BAD, CLICK, TOPICS
from tests.publisher.watch import WAIT


class TopicTests(PubSubTestCase):
    """Topics that are not there."""

    def test_asked_once(self) -> None:
        """A topic is asked for before the first event only."""
        self.start()
        for _ in range(3):
            self.publish(make_request())
        self.assertEqual(self.api.asked, [CLICK])

    def test_unknown(self) -> None:
        """Without auto-create the events of a missing topic fail, and no others."""
        self.start()
        owl, mixed, click = self.publish(
            make_request(events=[("owl", b"1")] * 3),
            make_request(events=[("owl", b"1"), ("click", b"1")]),
            make_request(),
        )
        self.assertIsNone(click)
        self.assertIn("topic clickstream-owl-log does not exist: Resource not found", str(owl))
        self.assertEqual((mixed.failed, mixed.total), (1, 2))
        self.assertEqual(({"owl": 3}, {"owl": 1}), (owl.lasting, mixed.lasting))
        labels = ("clickstream-owl-log", "group", "owl")
        self.assertEqual(self.metrics.total("pubsub_unknown_topic_failure_total", labels), 4)
        self.assertEqual(self.metrics.total("pubsub_unknown_topic_failure_total"), 4)
        self.assertEqual(self.api.made, [])

    def test_rejected_beforehand(self) -> None:
        """Types of a missing topic are told for five seconds, then it is asked for again."""
        self.start()
        verifyObject(IRejectingPublisher, self.publisher)
        clock = Clock()
        self.patch(self.publisher._accounts.rejections, "_clock", clock.seconds)
        self.patch(self.publisher._topics, "_seconds", clock.seconds)
        self.publish(make_request(events=[("owl", b"1"), ("click", b"1")]))
        reason = "topic clickstream-owl-log does not exist: Resource not found"
        self.assertEqual(reason, self.publisher.rejection("owl"))
        self.assertIsNone(self.publisher.rejection("click"))
        clock.advance(5)
        self.assertIsNone(self.publisher.rejection("owl"))
        self.api.topics.add(TOPICS + "clickstream-owl-log")
        self.assertEqual([None], self.publish(make_request(events=[("owl", b"1")])))
        self.assertIsNone(self.publisher.rejection("owl"))

    def test_not_rejected_beforehand(self) -> None:
        """What may be delivered yet is no reason to reject others, nor is one bad event."""
        self.start(PUBLISH_TIMEOUT_MS="0")
        self.publish(make_request())
        self.assertIsNone(self.publisher.rejection("click"))
        self.start()
        self.publish(make_request(events=[("click", BAD), ("click", b"")]))
        self.assertIsNone(self.publisher.rejection("click"))

    def test_name_that_cannot_be(self) -> None:
        """A name that Pub/Sub does not take is a topic that does not exist."""
        self.start()
        self.api.fail_get = gcp.InvalidArgument("invalid name")
        (outcome,) = self.publish(make_request())
        self.check_failed(
            outcome,
            1,
            1,
            "clickstream-click-log does not exist: invalid name",
            "pubsub_unknown_topic_failure_total",
        )

    def test_deleted(self) -> None:
        """A topic that was deleted is forgotten: it is asked for again."""
        self.start()
        self.publish(make_request())
        self.api.topics.discard(CLICK)
        (outcome,) = self.publish(make_request())
        self.check_failed(outcome, 1, 1, "does not exist", "pubsub_unknown_topic_failure_total")
        self.api.topics.add(CLICK)
        self.assertEqual(self.publish(make_request()), [None])
        self.assertEqual(self.api.asked, [CLICK, CLICK])

    def test_made(self) -> None:
        """With auto-create a missing topic is made, once, with its retention."""
        self.start(TOPIC_AUTOCREATE="true", TOPIC_RETENTION_MS="600000")
        self.assertEqual(self.publish(*(make_request(events=[("owl", b"1")]),) * 5), [None] * 5)
        (topic,) = self.api.made
        self.assertEqual(topic.name, TOPICS + "clickstream-owl-log")
        self.assertEqual(topic.message_retention_duration.total_seconds(), 600)

    def test_made_without_retention(self) -> None:
        """Retention is left to Pub/Sub unless it is set."""
        self.start(TOPIC_AUTOCREATE="true")
        self.publish(make_request(events=[("owl", b"1")]))
        self.assertNotIn("message_retention_duration", self.api.made[0])

    def test_deleted_and_made_again(self) -> None:
        """With auto-create no event is lost to a topic that was deleted."""
        self.start(TOPIC_AUTOCREATE="true")
        self.publish(make_request())
        self.api.topics.discard(CLICK)
        self.assertEqual(self.publish(make_request()), [None])
        self.assertEqual([topic.name for topic in self.api.made], [CLICK])

    def test_made_by_another(self) -> None:
        """A topic that another made at the same time will do."""
        self.start(TOPIC_AUTOCREATE="true")
        self.api.topics.discard(CLICK)
        self.api.fail_create = gcp.AlreadyExists("made")
        publisher = self.publisher
        check_topic = publisher._client.check_topic

        def make_after(path: str, deadline: float) -> None:
            try:
                check_topic(path, deadline)
            finally:
                self.api.topics.add(path)

        self.patch(publisher._client, "check_topic", make_after)
        self.assertEqual(self.publish(make_request()), [None])

    def test_cannot_be_made(self) -> None:
        """Topics over a quota, and topics that one may not make, are told apart."""
        for error, reason, counter in (
            (gcp.ResourceExhausted("x"), "quota exceeded", "pubsub_topics_limit_exceeded_total"),
            (gcp.PermissionDenied("x"), "not allowed", "pubsub_permission_failure_total"),
        ):
            self.start(TOPIC_AUTOCREATE="true")
            self.api.fail_create = error
            (outcome,) = self.publish(make_request(events=[("owl", b"1")]))
            self.check_failed(outcome, 1, 1, reason, counter)

    def test_may_not_ask(self) -> None:
        """An account that may publish need not be allowed to ask for topics."""
        self.start()
        for error in (gcp.PermissionDenied("x"), gcp.ResourceExhausted("x")):
            self.api.fail_get = error
            self.publisher._topics.forget(CLICK)
            self.assertEqual(self.publish(make_request()), [None])

    def test_one_that_is_asked_for_delays_no_other(self) -> None:
        """Events of a known topic arrive while another is asked for."""
        self.start()
        self.publish(make_request())
        asked, gate = threading.Event(), threading.Event()
        self.addCleanup(gate.set)

        def check_topic(path: str, deadline: float) -> None:
            asked.set()
            gate.wait(WAIT)

        self.patch(self.publisher._client, "check_topic", check_topic)
        view, click = self.publish_later(make_request(events=[("view", b"1")]), make_request())
        self.assertTrue(asked.wait(WAIT))
        self.assertEqual(self.wait([click]), [None])
        self.assertFalse(view.done())
        gate.set()
        self.assertEqual(self.wait([view]), [None])
