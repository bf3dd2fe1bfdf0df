"""The Pub/Sub publisher on an API in memory."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

from google.api_core import exceptions as gcp
from google.auth.exceptions import DefaultCredentialsError
from twisted.trial.unittest import SynchronousTestCase

from raccoon.config import load
from raccoon.errors import PublishError, StartError
from raccoon.publisher import PublisherContext
from raccoon.publisher.pubsub import client as pubsub_client
from raccoon.publisher.pubsub import publisher as pubsub
from raccoon.publisher.pubsub.client import PubSubClient
from raccoon.publisher.pubsub.publisher import PubSubPublisher
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics, make_request

WAIT = 20  # seconds that no test should ever wait
TOPICS = "projects/project/topics/"
CLICK = TOPICS + "clickstream-click-log"
VIEW = TOPICS + "clickstream-view-log"
BAD = b"bad"
FAILURES = (
    "pubsub_unknown_topic_failure_total",
    "pubsub_permission_failure_total",
    "pubsub_unreachable_failure_total",
    "pubsub_topic_throughput_exceeded_total",
    "pubsub_topics_limit_exceeded_total",
)


class FakeApi:
    """Google's methods. Refuses a request with an event BAD, and what its attributes say."""

    def __init__(self) -> None:
        self.transport = self
        self.topics = {CLICK, VIEW}
        self.accepted: list[tuple[str, Any]] = []
        self.asked: list[str] = []
        self.made: list[Any] = []
        self.sizes: list[int] = []
        self.fail_publish: Callable[[Any], Exception | None] = lambda request: None
        self.fail_get: Exception | None = None
        self.fail_create: Exception | None = None
        self.entered: queue.Queue[Any] = queue.Queue()
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False
        self._lock = threading.Lock()

    def publish(self, *, request: Any, retry: None, timeout: float) -> Any:
        events = list(request.messages)
        self.entered.put([message.data for message in events])
        self.gate.wait(WAIT)
        self._check_open()
        with self._lock:
            self.sizes.append(len(events))
            if request.topic not in self.topics:
                raise gcp.NotFound("Resource not found")
            if error := self.fail_publish(request):
                raise error
            if any(message.data == BAD for message in events):
                raise gcp.InvalidArgument("a message is bad")
            self.accepted += [(request.topic, message) for message in events]
        return SimpleNamespace(message_ids=["id"] * len(events))

    def get_topic(self, *, topic: str, retry: None, timeout: float) -> None:
        self._check_open()
        if not topic.endswith("-probe-log"):
            self.asked.append(topic)
        if self.fail_get:
            raise self.fail_get
        if topic not in self.topics:
            raise gcp.NotFound("Resource not found")

    def create_topic(self, *, request: Any, retry: None, timeout: float) -> None:
        self._check_open()
        if self.fail_create:
            raise self.fail_create
        self.made.append(request)
        self.topics.add(request.name)

    def close(self) -> None:
        self.closed = True
        self.gate.set()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("Cannot invoke RPC on closed channel!")

    @property
    def data(self) -> list[bytes]:
        """What was accepted, in order."""
        return [message.data for _, message in self.accepted]


class PubSubTestCase(SynchronousTestCase):
    """A started publisher on an API in memory."""

    def setUp(self) -> None:
        self.api = FakeApi()

    def start(self, **options: str) -> None:
        """Start a publisher whose options are these, without the prefix; it is closed at the end.

        Batches wait for nothing unless told to, and retries come at once.
        """
        self.patch(pubsub_client, "_FIRST_PAUSE", 0)
        self.patch(PubSubClient, "_open", lambda _, stored: self.api)
        self.metrics = FakeMetrics()
        named = {
            name if name.startswith(("EVENT_", "PUBSUB_")) else f"PUBLISHER_PUBSUB_{name}": value
            for name, value in {
                "PUBLISH_DELAY_THRESHOLD_MS": "0",
                "PUBSUB_EMULATOR_HOST": "emulator.test:1",
                "PROJECT_ID": "project",
                **options,
            }.items()
        }
        context = PublisherContext(
            load({}, {"PUBLISHER_TYPE": "pubsub", **named}), self.metrics, Supervisor(self.metrics)
        )
        self.publisher = PubSubPublisher(context)
        self.publisher.start()
        self.addCleanup(self.publisher.close, 0)
        self.addCleanup(self.api.gate.set)

    def publish(self, *requests: CollectRequest) -> list[Any]:
        """The outcomes, those that come later included."""
        return self.wait(self.publisher.publish(requests))

    def publish_later(self, *requests: CollectRequest) -> Sequence[Any]:
        """The outcomes as they are at once."""
        self.patch(pubsub, "PATIENCE", 0)
        return self.publisher.publish(requests)

    def wait(self, outcomes: Sequence[Any]) -> list[Any]:
        return [
            outcome.result(WAIT) if isinstance(outcome, Future) else outcome for outcome in outcomes
        ]

    def check_failed(
        self, outcome: Any, failed: int, total: int, reason: str, counter: str = ""
    ) -> None:
        """An outcome is this PublishError, and its events were counted so and not otherwise."""
        self.assertIsInstance(outcome, PublishError)
        self.assertEqual((outcome.failed, outcome.total), (failed, total))
        self.assertIn(reason, str(outcome))
        for name in FAILURES:
            self.assertEqual(self.metrics.total(name), failed if name == counter else 0, name)


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
                outcome, 2, 2, "Pub/Sub does not answer", "pubsub_unreachable_failure_total"
            )
            self.assertGreater(len(self.api.sizes), 1)
            self.assertIn(("destination_reachable_current", 0.0, ()), self.metrics.gauges)
            self.api = FakeApi()

    def test_deadline(self) -> None:
        """Events whose time is over are not sent."""
        self.start(PUBLISH_TIMEOUT_MS="0")
        (outcome,) = self.publish(make_request())
        self.check_failed(
            outcome, 1, 1, "Pub/Sub does not answer", "pubsub_unreachable_failure_total"
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


class RoomTests(PubSubTestCase):
    """What is on its way is bounded."""

    def test_publish_waits_for_room(self) -> None:
        """A publish over the bound waits in its thread until there is room."""
        self.patch(pubsub, "_ROOM_EVENTS", 2)
        self.start()
        self.api.gate.clear()
        first = self.publish_later(make_request(events=[("click", b"1"), ("click", b"2")]))
        self.api.entered.get(timeout=WAIT)
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(self.publisher.publish, [make_request(events=[("click", b"3")])])
            self.api.gate.set()
            self.assertEqual(self.wait(second.result(WAIT)), [None])
        self.assertEqual(self.wait(first), [None])
        self.assertEqual(self.api.data, [b"1", b"2", b"3"])

    def test_no_room_until_the_deadline(self) -> None:
        """A request that found no room in time fails and says so."""
        self.patch(pubsub, "_ROOM_EVENTS", 1)
        self.start(PUBLISH_TIMEOUT_MS="50")
        self.api.gate.clear()
        self.addCleanup(self.api.gate.set)
        first, second = self.publish_later(make_request(), make_request())
        self.check_failed(second, 1, 1, "too slowly, retry")
        self.api.gate.set()
        self.wait([first])

    def test_room_is_given_back(self) -> None:
        """Events that fail, for whatever reason, take no room."""
        self.patch(pubsub, "_ROOM_EVENTS", 2)
        self.start()
        for events in (
            [("click", BAD), ("click", b"1")],
            [("click", b""), ("owl", b"1")],
            [("owl", b"1"), ("view", b"1")],
        ):
            self.publish(make_request(events=events))
        self.assertTrue(self.publisher._room.wait_until_empty(0))


class OrderTests(PubSubTestCase):
    """EVENT_PARTITION_KEY and EVENT_METADATA_ENABLED."""

    def test_key(self) -> None:
        """The partition key is the ordering key, at most 1,024 bytes of it."""
        self.start(EVENT_PARTITION_KEY="connection")
        self.publish(make_request(client="anna", group="web"), make_request(client="é" * 600))
        self.assertEqual(
            {64, len("web/anna")}, {len(message.ordering_key) for _, message in self.api.accepted}
        )
        self.assertIn("web/anna", {message.ordering_key for _, message in self.api.accepted})

    def test_one_key_a_request(self) -> None:
        """No batch mixes keys, which Pub/Sub does not take."""
        self.start(
            EVENT_PARTITION_KEY="connection",
            PUBLISH_DELAY_THRESHOLD_MS="3600000",
            PUBLISH_COUNT_THRESHOLD="5",
        )
        self.publish(*(make_request(client=f"{n % 4}") for n in range(20)))
        self.assertEqual(self.api.sizes, [5] * 4)

    def test_key_one_after_the_other(self) -> None:
        """A batch of a key is sent after the one before it is answered; other keys do not wait."""
        self.start(EVENT_PARTITION_KEY="connection")
        self.publish(make_request(client="c"))  # the topic is known
        self.api.entered.get(timeout=WAIT)
        self.api.gate.clear()
        outcomes = [
            *self.publish_later(make_request(events=[("click", b"a1")], client="a")),
            *self.publish_later(make_request(events=[("click", b"a2")], client="a")),
            *self.publish_later(make_request(events=[("click", b"a3")], client="a")),
            *self.publish_later(make_request(events=[("click", b"b1")], client="b")),
        ]
        self.assertEqual(
            [[b"a1"], [b"b1"]], sorted(self.api.entered.get(timeout=WAIT) for _ in range(2))
        )
        self.api.gate.set()
        self.assertEqual(self.wait(outcomes), [None] * 4)
        self.assertEqual(self.api.entered.get(timeout=WAIT), [b"a2", b"a3"])

    def test_order_of_a_key(self) -> None:
        """Events of a key arrive in order, retries and halves included."""
        self.start(EVENT_PARTITION_KEY="type", PUBLISH_COUNT_THRESHOLD="10")
        calls = iter(range(10_000))
        self.api.fail_publish = lambda request: (
            gcp.ServiceUnavailable("x") if next(calls) % 3 == 0 else None
        )
        payloads = [b"%03d" % n for n in range(300)]
        groups = [
            [make_request(events=[("click", payload)]) for payload in payloads[n : n + 30]]
            for n in range(0, 300, 30)
        ]
        groups[4].insert(7, make_request(events=[("click", BAD)]))
        for group in groups:
            self.publisher.expect(group)
        with ThreadPoolExecutor(10) as pool:
            done = list(pool.map(self.publisher.publish, reversed(groups)))
        outcomes = [self.wait(outcomes) for outcomes in done]
        self.assertEqual(sum(outcome is not None for group in outcomes for outcome in group), 1)
        self.assertEqual(self.api.data, payloads)

    def test_order_of_types_that_share_a_topic(self) -> None:
        """Events of a key keep their order in a topic, whatever their types."""
        self.start(
            EVENT_PARTITION_KEY="connection", EVENT_DISTRIBUTION_PUBLISHER_PATTERN="all-events"
        )
        self.api.topics.add(TOPICS + "all-events")
        types = ("a", "b", "b", "a", "c", "a", "a", "b")
        payloads = [b"%d" % n for n in range(len(types))]
        (outcome,) = self.publish(make_request(events=list(zip(types, payloads, strict=True))))
        self.assertIsNone(outcome)
        self.assertEqual(self.api.data, payloads)

    def test_order_goes_on_after_a_failure(self) -> None:
        """A failure fails its events, not those of the same key that come after."""
        self.start(EVENT_PARTITION_KEY="type")
        errors: list[Exception | None] = [gcp.PermissionDenied("x"), None, None]
        self.api.fail_publish = lambda request: errors.pop(0)
        outcomes = [self.publish(make_request())[0] for _ in range(3)]
        self.assertIsInstance(outcomes[0], PublishError)
        self.assertEqual(outcomes[1:], [None, None])

    def test_metadata(self) -> None:
        """Each event has its place in its request among its attributes."""
        self.start(EVENT_METADATA_ENABLED="true")
        events = [("click", b"a"), ("view", b"b"), ("click", b"c")]
        self.publish(make_request("guid-1", events, group="web", received_at=1.5))
        found = {message.data: dict(message.attributes) for _, message in self.api.accepted}
        for index, payload in enumerate((b"a", b"b", b"c")):
            self.assertEqual(
                {
                    "req_guid": "guid-1",
                    "event_index": str(index),
                    "conn_group": "web",
                    "received_at": "1500",
                },
                found[payload],
            )

    def test_empty_event_with_metadata(self) -> None:
        """An event without bytes is taken when it has attributes."""
        self.start(EVENT_METADATA_ENABLED="true")
        self.assertEqual(self.publish(make_request(events=[("click", b"")])), [None])
        self.assertEqual(self.api.data, [b""])


class CloseTests(PubSubTestCase):
    """close(timeout)."""

    def test_sends_what_waits(self) -> None:
        """Batches that are not yet due are sent; nothing is undelivered then."""
        self.start(PUBLISH_DELAY_THRESHOLD_MS="3600000")
        outcomes = self.publish_later(make_request(events=[("click", b"1")] * 3))
        self.assertEqual(self.publisher.close(WAIT), 0)
        self.assertEqual(self.wait(outcomes), [None])
        self.assertEqual(self.api.data, [b"1"] * 3)

    def close_with(self, *requests: CollectRequest, **options: str) -> tuple[int, list[Any]]:
        """Close while nothing is answered; the count and the outcomes."""
        self.start(**options)
        self.publish(make_request())
        self.api.entered.get(timeout=WAIT)
        self.api.gate.clear()
        outcomes = self.publish_later(*requests)
        self.api.entered.get(timeout=WAIT)
        left = self.publisher.close(0)
        return left, self.wait(outcomes)

    def test_counts_what_is_left(self) -> None:
        """What is not answered in time is undelivered, to the event, and its requests say why."""
        left, outcomes = self.close_with(
            make_request(events=[("click", b"1")] * 30),
            make_request(events=[("click", b"1")] * 5 + [("view", b"1")] * 2),
            PUBLISH_COUNT_THRESHOLD="2",
        )
        self.assertEqual(left, 37)
        for outcome in outcomes:
            self.assertEqual(outcome.failed, outcome.total)
            self.assertIn("the server is shutting down", str(outcome))
        self.assertEqual(self.metrics.total("pubsub_messages_undelivered_total"), 37)

    def test_counts_what_waits_for_its_turn(self) -> None:
        """Batches that wait behind another of their key are counted too."""
        left, outcomes = self.close_with(
            *(make_request(events=[("click", b"1")]) for _ in range(2000)),
            EVENT_PARTITION_KEY="type",
            PUBLISH_COUNT_THRESHOLD="1",
        )
        self.assertEqual(left, 2000)
        self.assertEqual({type(outcome) for outcome in outcomes}, {PublishError})

    def test_failed_before(self) -> None:
        """What failed otherwise is not counted as left."""
        self.start()
        self.publish(make_request(events=[("click", BAD)]))
        self.assertEqual(self.publisher.close(WAIT), 0)

    def test_publish_after_close(self) -> None:
        """What comes after is undelivered."""
        self.start()
        self.publisher.close(0)
        (outcome,) = self.publish(make_request())
        self.check_failed(outcome, 1, 1, "the server is shutting down")

    def test_never_started(self) -> None:
        """A publisher that was not started closes, too."""
        context = PublisherContext(load({}, {}), FakeMetrics(), Supervisor(FakeMetrics()))
        self.assertEqual(PubSubPublisher(context).close(WAIT), 0)

    def test_no_thread_is_left(self) -> None:
        """Every thread ends."""
        self.start()
        self.publish(make_request())
        self.publisher.close(WAIT)
        names = [t.name for t in threading.enumerate() if t.name.startswith("pubsub-")]
        self.assertEqual([name for name in names if name != "pubsub-probe"], [])


class CredentialsTests(PubSubTestCase):
    """Files and the machine's own."""

    def stored(self, content: object) -> str:
        path = str(self.mktemp())
        with open(path, "w", encoding="utf-8") as file:
            file.write(content if isinstance(content, str) else json.dumps(content))
        return path

    def client(self, **environment: str) -> PubSubClient:
        settings = load({}, environment).publisher.pubsub
        return PubSubClient(settings, "Pub/Sub", FakeMetrics())

    def refusal(self, **environment: str) -> str:
        with self.assertRaises(StartError) as caught:
            self.client(**environment).start()
        return str(caught.exception)

    def test_file_that_cannot_be_used(self) -> None:
        """A missing or malformed file stops the start with the option, the file and why."""
        service = {"type": "service_account", "client_email": "x", "token_uri": "x"}
        for content, reason in (
            ("{", "not JSON"),
            ("[]", "it has no type"),
            ({"project": 1}, "it has no type"),
            (service, "private_key"),
            ({**service, "private_key": "x"}, ""),
            ({"type": "authorized_user"}, "refresh_token"),
        ):
            path = self.stored(content)
            said = self.refusal(PUBLISHER_PUBSUB_CREDENTIALS=path)
            self.assertTrue(said.startswith(f"PUBLISHER_PUBSUB_CREDENTIALS: {path}: "), said)
            self.assertIn(reason, said)
            self.assertNotIn("\n", said)

    def test_missing_file(self) -> None:
        """A file that is not there is named by the option that named it."""
        self.assertEqual(
            "GOOGLE_APPLICATION_CREDENTIALS: /no/file: No such file or directory",
            self.refusal(GOOGLE_APPLICATION_CREDENTIALS="/no/file"),
        )

    def test_own_option_goes_first(self) -> None:
        """Raccoon's own option goes before that of Google's clients."""
        self.assertIn(
            "PUBLISHER_PUBSUB_CREDENTIALS: /own",
            self.refusal(
                PUBLISHER_PUBSUB_CREDENTIALS="/own", GOOGLE_APPLICATION_CREDENTIALS="/other"
            ),
        )

    def test_emulator_needs_none(self) -> None:
        """With an emulator no file is read."""
        client = self.client(
            PUBSUB_EMULATOR_HOST="127.0.0.1:1", PUBLISHER_PUBSUB_CREDENTIALS="/no/file"
        )
        client.start()
        client.close()

    def test_file_that_can_be_used(self) -> None:
        """A user's credentials are taken as they are, without a network."""
        user = {
            "type": "authorized_user",
            "client_id": "id",
            "client_secret": "hush",
            "refresh_token": "hush",
        }
        client = self.client(PUBLISHER_PUBSUB_CREDENTIALS=self.stored(user))
        client.start()
        client.close()

    def test_ambient_are_waited_for_elsewhere(self) -> None:
        """The start does not wait for the machine's credentials; events wait until there are."""
        asked, gate = threading.Event(), threading.Event()
        self.addCleanup(gate.set)
        self.patch(pubsub_client, "_CREDENTIALS_EVERY", 0)
        self.metrics = FakeMetrics()
        tries: list[object] = []

        def open_slowly(client: PubSubClient, stored: object) -> FakeApi:
            asked.set()
            gate.wait(WAIT)
            tries.append(stored)
            if len(tries) == 1:
                raise DefaultCredentialsError("none here")
            return self.api

        self.patch(PubSubClient, "_open", open_slowly)
        context = PublisherContext(
            load({}, {"PUBLISHER_PUBSUB_PROJECT_ID": "project"}),
            self.metrics,
            Supervisor(self.metrics),
        )
        self.publisher = PubSubPublisher(context)
        self.publisher.start()
        self.addCleanup(self.publisher.close, 0)
        self.assertTrue(asked.wait(WAIT))
        outcomes = self.publish_later(make_request())
        self.assertIsInstance(outcomes[0], Future)
        gate.set()
        self.assertEqual(self.wait(outcomes), [None])
        self.assertEqual(tries, [None, None])

    def test_no_credentials(self) -> None:
        """A machine without credentials shows as unreachable, and says why in the log."""
        self.patch(pubsub_client, "_CREDENTIALS_EVERY", WAIT)
        gauged = threading.Event()

        def fail(client: PubSubClient, stored: object) -> None:
            raise DefaultCredentialsError("none here")

        self.patch(PubSubClient, "_open", fail)
        client = self.client()
        self.patch(client._metrics, "gauge", lambda *gauge: gauged.set())
        with self.assertLogs(pubsub_client.__name__, "ERROR") as logged:
            client.start()
            self.assertTrue(gauged.wait(WAIT))
            deadline = time.monotonic() + WAIT
            while not logged.output and time.monotonic() < deadline:
                client._closed.wait(0.001)
        client.close()
        self.assertIs(client.answers, False)
        self.assertIn("does not answer; trying on: no credentials: none here", logged.output[0])
