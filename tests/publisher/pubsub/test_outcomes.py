"""One outcome for each request to Pub/Sub, in order, and why events failed."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from google.api_core import exceptions as gcp

from raccoon.publisher.pubsub import client as pubsub_client
from tests.fakes import make_request
from tests.publisher.pubsub.case import PubSubTestCase
from tests.publisher.pubsub.fakes import BAD, CLICK, VIEW, FakeApi


class OutcomeTests(PubSubTestCase):
    """One outcome for each request, in order."""

    def test_events_arrive(self) -> None:
        """Each event's bytes are the data of a message to the topic of its type, and no more."""
        self.start()
        request = make_request(events=[("click", b"\x00\xff"), ("view", b"1"), ("click", b"2")])
        self.assertEqual(self.publish(request), [None])
        self.assertEqual(
            sorted((topic, message.data) for topic, message in self.api.accepted),
            [(CLICK, b"\x00\xff"), (CLICK, b"2"), (VIEW, b"1")],
        )
        for _, message in self.api.accepted:
            self.assertEqual(({}, ""), (dict(message.attributes), message.ordering_key))

    def test_batches(self) -> None:
        """Requests of a group share batches, each of at most so many events."""
        self.start(PUBLISH_COUNT_THRESHOLD="40", PUBLISH_DELAY_THRESHOLD_MS="10")
        self.publish(*(make_request(events=[("click", b"1")] * 10) for _ in range(10)))
        self.assertEqual(sorted(self.api.sizes), [20, 40, 40])

    def test_batches_by_bytes(self) -> None:
        """A batch has at most so many bytes."""
        self.start(PUBLISH_BYTE_THRESHOLD="1000")
        self.publish(make_request(events=[("click", b"x" * 300)] * 6))
        self.assertEqual(self.api.sizes, [2, 2, 2])

    def test_one_bad_event_fails_its_request_only(self) -> None:
        """A batch that is refused for one event is sent again without it."""
        self.start(PUBLISH_COUNT_THRESHOLD="100", PUBLISH_DELAY_THRESHOLD_MS="10")
        before, mixed, after = self.publish(
            make_request(events=[("click", b"%d" % n) for n in range(10)]),
            make_request(events=[("click", b"a"), ("click", BAD), ("view", b"b")]),
            make_request(events=[("click", b"%d" % n) for n in range(10, 20)]),
        )
        self.assertEqual((before, after), (None, None))
        self.check_failed(mixed, 1, 3, "1 of 3 events failed: topic clickstream-click-log")
        self.assertIn("a message is bad", str(mixed))
        self.assertEqual({"click": 1}, mixed.lasting)
        self.assertEqual(
            sorted(self.api.data), sorted([b"%d" % n for n in range(20)] + [b"a", b"b"])
        )

    def test_no_events(self) -> None:
        """A request without events is delivered."""
        self.start()
        self.assertEqual(self.publish(make_request(events=[])), [None])
        self.assertEqual(self.publish(), [])

    def test_empty_event(self) -> None:
        """An event without bytes, which Pub/Sub does not take, fails its request only."""
        self.start()
        empty, other = self.publish(
            make_request(events=[("click", b""), ("click", b"1")]), make_request()
        )
        self.assertIsNone(other)
        self.check_failed(empty, 1, 2, "no empty event")
        self.assertEqual({"click": 1}, empty.lasting)
        self.assertEqual(sorted(self.api.data), [b"1", b"{}"])

    def test_event_too_large(self) -> None:
        """An event above what a request may hold fails alone, without being sent."""
        self.start()
        self.patch(pubsub_client, "REQUEST_BYTES", 1000)
        large, other = self.publish(
            make_request(events=[("click", b"x" * 1000), ("click", b"1")]), make_request()
        )
        self.assertIsNone(other)
        self.check_failed(large, 1, 2, "too large for Pub/Sub (1000 bytes a request)")
        self.assertEqual({"click": 1}, large.lasting)
        self.assertEqual(sorted(self.api.data), [b"1", b"{}"])

    def test_fewer_taken(self) -> None:
        """An answer for fewer events than were sent is a failure."""
        self.start()
        self.patch(self.api, "publish", lambda **call: SimpleNamespace(message_ids=["id"]))
        (outcome,) = self.publish(make_request(events=[("click", b"1")] * 2))
        self.check_failed(outcome, 2, 2, "1 of 2 events taken")

    def test_client_that_raises(self) -> None:
        """Whatever the client raises is the outcome of the events that it was called with."""
        self.start()
        self.api.fail_publish = lambda request: KeyError("odd") if request.topic == VIEW else None
        view, click = self.publish(make_request(events=[("view", b"1")]), make_request())
        self.assertIsNone(click)
        self.check_failed(view, 1, 1, "odd")
        self.assertEqual(1, len(self.flushLoggedErrors(KeyError)))

    def test_slow_request_answers_later(self) -> None:
        """Who is not answered in time has a Future, which fires with the outcome."""
        self.start()
        self.api.gate.clear()
        outcomes = self.publish_later(make_request())
        self.assertIsInstance(outcomes[0], Future)
        self.api.gate.set()
        self.assertEqual(self.wait(outcomes), [None])

    def test_groups_from_several_threads(self) -> None:
        """Groups that several threads publish at once each get their own outcomes."""
        self.start(PUBLISH_DELAY_THRESHOLD_MS="1")

        def run(n: int) -> list[bool]:
            requests = [
                make_request(events=[("click", b"good")] * 4 + [("click", BAD)] * (m == n))
                for m in range(10)
            ]
            return [outcome is None for outcome in self.publish(*requests)]

        with ThreadPoolExecutor(5) as pool:
            results = list(pool.map(run, range(5)))
        for n, result in enumerate(results):
            self.assertEqual(result, [m != n for m in range(10)])
        self.assertEqual(self.api.data, [b"good"] * 200)

    def test_delivered_and_undelivered_are_counted(self) -> None:
        """Events are counted by topic, group and type, as they fared."""
        self.start()
        events = [("click", b"1"), ("click", BAD), ("click", b"2"), ("view", BAD)]
        self.publish(make_request(events=events, group="beta"))
        click = ("clickstream-click-log", "beta", "click")
        view = ("clickstream-view-log", "beta", "view")
        for name, labels, count in (
            ("pubsub_messages_delivered_total", click, 2),
            ("pubsub_messages_delivered_total", view, 0),
            ("pubsub_messages_undelivered_total", click, 1),
            ("pubsub_messages_undelivered_total", view, 1),
        ):
            self.assertEqual(self.metrics.total(name, labels), count, (name, labels))


class ReasonTests(PubSubTestCase):
    """Failures that users can mend are told apart."""

    def refuse(self, error: Exception, **options: str) -> Any:
        self.start(PUBLISH_TIMEOUT_MS="100", **options)
        self.patch(pubsub_client, "_LONGEST_PAUSE", 0)
        self.api.fail_publish = lambda request: error
        (outcome,) = self.publish(make_request(events=[("click", b"1")] * 2))
        return outcome

    def test_not_allowed(self) -> None:
        """What the credentials do not allow is said at once, and counted by itself."""
        for error in (gcp.PermissionDenied("no right"), gcp.Unauthenticated("no right")):
            outcome = self.refuse(error)
            self.check_failed(
                outcome, 2, 2, "not allowed: no right", "pubsub_permission_failure_total"
            )
            self.assertEqual(len(self.api.sizes), 1)
            self.api = FakeApi()

    def test_quota(self) -> None:
        """A quota is waited for until the deadline, and then named."""
        outcome = self.refuse(gcp.ResourceExhausted("slow down"))
        self.check_failed(
            outcome, 2, 2, "quota exceeded: slow down", "pubsub_topic_throughput_exceeded_total"
        )
        self.assertGreater(len(self.api.sizes), 1)
        self.assertTrue(self.publisher.reachable)

    def test_no_answer(self) -> None:
        """Without an answer until the deadline it is unreachable, and that shows."""
        for error in (gcp.ServiceUnavailable("down"), gcp.DeadlineExceeded("down")):
            outcome = self.refuse(error)
            self.check_failed(
                outcome, 2, 2, "Pub/Sub is unreachable", "pubsub_unreachable_failure_total"
            )
            self.assertGreater(len(self.api.sizes), 1)
            self.assertIn(("destination_reachable_current", 0.0, ()), self.metrics.gauges)
            self.api = FakeApi()

    def test_deadline(self) -> None:
        """Events whose time is over are not sent."""
        self.start(PUBLISH_TIMEOUT_MS="0")
        (outcome,) = self.publish(make_request())
        self.check_failed(
            outcome, 1, 1, "Pub/Sub is unreachable", "pubsub_unreachable_failure_total"
        )
        self.assertEqual(self.api.sizes, [])

    def test_passing_errors(self) -> None:
        """What may pass is tried again, and does not show when it does."""
        self.start()
        errors: list[Exception | None] = [
            gcp.ServiceUnavailable("down"),
            gcp.Aborted("x"),
            gcp.InternalServerError("x"),
            gcp.Unknown("x"),
            gcp.ResourceExhausted("x"),
            None,
        ]
        self.api.fail_publish = lambda request: errors.pop(0)
        self.assertEqual(self.publish(make_request()), [None])
        self.assertEqual(errors, [])
        self.assertNotIn(("destination_reachable_current", 0.0, ()), self.metrics.gauges)

    def test_reachable_again(self) -> None:
        """The first answer after an outage shows that it is over."""
        self.start()
        errors: list[Exception | None] = [gcp.ServiceUnavailable("down")] * 3 + [None]
        self.api.fail_publish = lambda request: errors.pop(0)
        self.assertEqual(self.publish(make_request()), [None])
        self.assertTrue(self.publisher.reachable)
        self.assertEqual(self.metrics.gauges[-1], ("destination_reachable_current", 1.0, ()))
