"""EVENT_PARTITION_KEY and EVENT_METADATA_ENABLED with Pub/Sub."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from google.api_core import exceptions as gcp

from raccoon.errors import PublishError
from tests.fakes import make_request
from tests.publisher.pubsub.case import PubSubTestCase
from tests.publisher.pubsub.fakes import BAD, TOPICS
from tests.publisher.watch import WAIT


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
