"""The Kafka publisher on a producer in memory; its options on the real one, without a broker."""

from __future__ import annotations

import gc
import queue
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import MappingProxyType
from typing import Any, cast

import attrs
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from raccoon.config import KafkaSettings, Settings
from raccoon.errors import PublishError, StartError
from raccoon.interfaces import Outcome
from raccoon.publisher import PublisherContext
from raccoon.publisher.base.delivery import Delivery, Group
from raccoon.publisher.kafka import publisher as kafka
from raccoon.publisher.kafka.delivery import KafkaDelivery, KafkaGroup
from raccoon.publisher.kafka.partitions import Partitions
from raccoon.publisher.kafka.publisher import KafkaPublisher
from raccoon.publisher.kafka.trials import Trials
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor
from tests.edge_fakes import FakeProducer
from tests.fakes import FakeMetrics, make_request
from tests.integration.waiting import wait_until

WAIT = 20  # seconds that no test should ever wait
SERVERS = {"bootstrap.servers": "broker.test:9092"}


class GaugeWatch(FakeMetrics):
    """Lets a test wait for a gauge that another thread sets."""

    def __init__(self) -> None:
        super().__init__()
        self.gauged: queue.Queue[tuple[str, float]] = queue.Queue()

    def gauge(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        super().gauge(name, value, labels)
        self.gauged.put((name, value))


class PublisherInMemory(KafkaPublisher):
    """A KafkaPublisher on FakeProducers; each one that it creates is put into `created`."""

    def __init__(self, context: PublisherContext, capacity: int, reachable: bool) -> None:
        super().__init__(context)
        self._capacity = capacity
        self._reachable = reachable
        self.created: queue.Queue[FakeProducer] = queue.Queue()
        self.alone: dict[bytes, int] = {}

    def _create(self, besides: Mapping[str, Any] = MappingProxyType({})) -> Producer:
        on_error = partial(self._on_error, kafka._ALONE if besides else kafka._MAIN)
        producer = FakeProducer(on_error, self._capacity)
        producer.reachable = self._reachable
        if besides:
            producer.failures = self.alone
        self.created.put(producer)
        return cast("Producer", producer)


def make_context(
    metrics: FakeMetrics,
    client: dict[str, str],
    pattern: str = "clickstream-%s-log",
    key: str = "none",
    metadata: bool = False,
    ack: int = 1,
) -> PublisherContext:
    """The context of a publisher with these librdkafka options."""
    settings = Settings()
    event = attrs.evolve(
        settings.event,
        ack=ack,
        distribution_publisher_pattern=pattern,
        partition_key=key,
        metadata_enabled=metadata,
    )
    return PublisherContext(
        attrs.evolve(
            settings,
            event=event,
            publisher=attrs.evolve(settings.publisher, kafka=KafkaSettings(client=client)),
        ),
        metrics,
        Supervisor(metrics),
    )


def later(outcome: Outcome) -> Future[PublishError | None]:
    """An outcome that was not there yet."""
    assert isinstance(outcome, Future)
    return outcome


class KafkaTestCase(SynchronousTestCase):
    """A started publisher on a producer in memory."""

    def start(
        self,
        client: dict[str, str] | None = None,
        pattern: str = "clickstream-%s-log",
        capacity: int = 100_000,
        reachable: bool = True,
        key: str = "none",
        metadata: bool = False,
    ) -> None:
        """Start a publisher; it is closed when the test ends."""
        self.metrics = GaugeWatch()
        options = {**SERVERS, **(client or {})}
        context = make_context(self.metrics, options, pattern, key, metadata)
        self.publisher = PublisherInMemory(context, capacity, reachable)
        self.publisher.start()
        self.addCleanup(self.publisher.close, 0)
        self.producer = self.publisher.created.get(timeout=WAIT)

    def learn(self, *event_types: str) -> None:
        """Have the partitions of some types' topics known, where they are to be chosen."""
        if self.publisher._partitions is None:
            return
        partitions = self.publisher._partitions = Partitions(first_seconds=0)
        self.publish(make_request(events=[(event_type, b"first") for event_type in event_types]))
        wait_until(lambda: not partitions._due, "an answer")
        self.producer.asked.clear()

    def publish(self, *requests: CollectRequest) -> list[Any]:
        """The outcomes, those that come later included."""
        return [
            outcome.result(WAIT) if isinstance(outcome, Future) else outcome
            for outcome in self.publisher.publish(requests)
        ]

    def check_failed(self, outcome: Any, failed: int, total: int, reason: str = "") -> None:
        """An outcome is this PublishError."""
        self.assertIsInstance(outcome, PublishError)
        self.assertEqual((outcome.failed, outcome.total), (failed, total))
        self.assertIn(reason, str(outcome))


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

        said: list[str] = []
        # Who keeps the exception keeps the frame that has the report.
        self.patch(kafka._log, "exception", said.append)
        self.patch(self.publisher, "_create", broken)
        (outcome,) = self.publish(make_request(events=[("click", b"large"), ("click", b"1")]))
        self.check_failed(outcome, 1, 2)
        self.assertEqual(1, len(said))
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


class PartitionTests(KafkaTestCase):
    """Where events without keys go."""

    def publish_many(self, groups: int, **client: str) -> list[int]:
        """Groups of two requests; gives the partitions that were asked for, by event."""
        self.start(client)
        self.learn("click")
        for number in range(groups):
            self.publish(*[make_request(events=[("click", b"%d" % number)] * 2) for _ in range(2)])
        return self.producer.asked

    def test_spread(self) -> None:
        """The groups go to each of the partitions in turn, and each to one."""
        asked = self.publish_many(100)
        groups = [asked[start : start + 4] for start in range(0, len(asked), 4)]
        self.assertTrue(all(len(set(group)) == 1 for group in groups))
        counts = Counter(group[0] for group in groups)
        self.assertEqual({0, 1, 2}, set(counts))
        self.assertLessEqual(max(counts.values()) - min(counts.values()), 1)

    def test_parallel(self) -> None:
        """As many groups go at once as there are partitions, but not fewer than some."""
        for partitions, parallel in ((1, 3), (7, 7)):
            self.start()
            self.producer.partitions = partitions
            self.learn("click")
            self.assertEqual(parallel, self.publisher.parallel)

    def test_with_metadata(self) -> None:
        """Events with headers are spread likewise."""
        self.start(metadata=True)
        self.learn("click", "view")
        for _ in range(30):
            self.publish(make_request(events=[("click", b"1"), ("view", b"2")]))
        self.assertEqual([(n // 2) % 3 for n in range(60)], self.producer.asked)

    def test_without_a_leader(self) -> None:
        """A partition that takes no events now is not chosen."""
        self.start()
        self.producer.leaderless = {1}
        self.learn("click")
        for _ in range(10):
            self.publish(make_request())
        self.assertEqual({0, 2}, set(self.producer.asked))

    def test_no_answer(self) -> None:
        """While the cluster does not say what there is, the choice is librdkafka's."""
        self.start()
        self.assertEqual([None], self.publish(make_request()))
        for error in (KafkaException(KafkaError(KafkaError._TIMED_OUT)), ValueError("a name")):
            self.producer.refuses_to_list = error
            self.learn("view")
            self.publish(make_request(events=[("view", b"1")]))
            self.assertEqual([-1], self.producer.asked)
        self.producer.refuses_to_list = None
        self.learn("view")
        self.publish(make_request(events=[("view", b"1")]))
        self.assertNotIn(-1, self.producer.asked)

    def test_more_than_a_batch(self) -> None:
        """Of a group that makes up several batches each goes to a partition of its own."""
        self.publish_many(9)
        requests = [make_request(events=[("click", b"x" * 250_000)] * 2) for _ in range(6)]
        self.publish(*requests)
        asked = self.producer.asked[-12:]
        self.assertEqual({0, 1, 2}, set(asked))
        self.assertEqual(asked, [place for place in asked[::4] for _ in range(4)])

    def test_one_that_is_slow(self) -> None:
        """A partition that does not answer has no more groups than the others have at once."""
        self.patch(kafka, "PATIENCE", 0.01)
        self.publish_many(9)
        self.producer.held.add(b"slow")
        (outcome,) = self.publisher.publish([make_request(events=[("click", b"slow")])])
        slow = self.producer.asked[-1]
        for _ in range(20):
            self.publish(make_request(events=[("click", b"quick")]))
        self.assertNotIn(slow, self.producer.asked[-20:])
        self.producer.release()
        self.assertIsNone(later(outcome).result(WAIT))
        for _ in range(20):
            self.publish(make_request(events=[("click", b"quick")]))
        self.assertIn(slow, self.producer.asked[-20:])

    def test_left_to_librdkafka(self) -> None:
        """Keys, and options that have a say in it, leave the choice to librdkafka."""
        for client in (
            {"partitioner": "murmur2"},
            {"sticky.partitioning.linger.ms": "100"},
            {"enable.idempotence": "false"},
        ):
            self.assertEqual({-1}, set(self.publish_many(5, **client)), client)
            self.assertGreater(self.publisher.parallel, 1000)
        self.start(key="connection")
        self.publish(make_request())
        self.assertEqual({-1}, set(self.producer.asked))

    def test_fewer_partitions_than_before(self) -> None:
        """Events for a partition that is gone go to another, and none fails."""
        self.publish_many(9)
        self.producer.partitions = 1
        for _ in range(5):
            self.assertEqual([None], self.publish(make_request(events=[("click", b"1")] * 3)))

    def test_partition_that_is_gone_later(self) -> None:
        """Events that waited for it fail, and not for good; their topic is learnt anew."""
        asked = self.publish_many(9)
        self.assertNotEqual(-1, asked[-1])
        self.producer.failures[b"bad"] = KafkaError._UNKNOWN_PARTITION
        (outcome,) = self.publish(make_request(events=[("click", b"bad")]))
        self.check_failed(outcome, 1, 1)
        self.assertEqual({}, outcome.lasting)
        assert self.publisher._partitions is not None
        self.assertNotIn("clickstream-click-log", self.publisher._partitions._topics)


class KeyTests(KafkaTestCase):
    """EVENT_PARTITION_KEY."""

    def test_off(self) -> None:
        """Without a key none is produced."""
        self.start()
        self.publish(make_request())
        self.assertEqual(self.producer.keys, {})

    def test_keys(self) -> None:
        """Each event is produced with the key that was chosen."""
        events = [("click", b"1"), ("view", b"2")]
        for choice, keys in (
            ("connection", {b"1": "beta/anna", b"2": "beta/anna"}),
            ("type", {b"1": "click", b"2": "view"}),
            ("request", {b"1": "guid-1", b"2": "guid-1"}),
        ):
            self.start(key=choice)
            self.publish(make_request("guid-1", events, client="anna", group="beta"))
            self.assertEqual(self.producer.keys, keys)
            self.assertEqual(self.producer.headers, {})

    def test_order_across_types(self) -> None:
        """Events of several types that go to one topic keep their order."""
        self.start(pattern="all", key="connection")
        events = [("click" if n % 3 else "view", b"%d" % n) for n in range(60)]
        self.publish(make_request(events=events[:30]), make_request(events=events[30:]))
        self.assertEqual([value for _, value in self.producer.accepted], [v for _, v in events])

    def test_order_while_the_queue_is_full(self) -> None:
        """With no room for all of them no event gets past another."""
        for pattern in ("%s", "all"):
            self.start(pattern=pattern, capacity=2, key="connection")
            payloads = [b"%d" % n for n in range(40)]
            events = [("click", payload) for payload in payloads]
            self.assertEqual(self.publish(make_request(events=events)), [None])
            self.assertGreater(self.producer.full_times, 0)
            self.assertEqual([value for _, value in self.producer.accepted], payloads)
            self.assertEqual(set(self.producer.keys.values()), {"group/client"})

    def test_real_queue(self) -> None:
        """librdkafka says what does not fit, and reports on the rest to its fifth argument."""
        options = {"bootstrap.servers": "broker.invalid:9092", "log_level": 0}
        producer = Producer({**options, "queue.buffering.max.kbytes": 1})
        reported: list[KafkaError | None] = []
        for size in (300, 300):
            producer.produce(
                "click", bytes(size), None, -1, lambda error, _: reported.append(error)
            )
        with self.assertRaises(BufferError):
            producer.produce("click", bytes(600), None, -1, lambda error, _: reported.append(error))
        producer.purge()
        producer.flush(1)
        codes = [error.code() for error in reported if error is not None]
        self.assertEqual(codes, [KafkaError._PURGE_QUEUE] * 2)

    def test_order_of_groups(self) -> None:
        """Groups are produced in the order in which they were expected, whatever their threads."""
        self.start(key="connection")
        groups = [[make_request(events=[("click", b"%d" % n)] * 3)] for n in range(8)]
        for group in groups:
            self.publisher.expect(group)
        with ThreadPoolExecutor(len(groups)) as pool:
            list(pool.map(self.publisher.publish, reversed(groups)))
        self.assertEqual(
            [value for _, value in self.producer.accepted],
            [b"%d" % n for n in range(8) for _ in range(3)],
        )

    def test_close_ends_those_that_wait_for_their_turn(self) -> None:
        """A group that waits for another to be handed over ends when the publisher is closed."""
        self.patch(kafka, "PATIENCE", 0.05)
        self.start(capacity=1, key="connection")
        self.producer.held.add(b"stuck")
        groups = [[make_request(events=[("click", b"stuck")] * 2)] for _ in range(3)]
        with ThreadPoolExecutor(3) as pool:
            publishing = [pool.submit(self.publisher.publish, group) for group in groups]
            self.assertEqual(self.publisher.close(0.01), 6)
            for future in publishing:
                (outcome,) = future.result(WAIT)
                if isinstance(outcome, Future):
                    outcome = outcome.result(WAIT)
                self.check_failed(outcome, 2, 2, "shutting down")

    def test_refused_at_once(self) -> None:
        """An event that the producer does not take fails alone."""
        self.start(key="connection")
        self.producer.refusals[b"bad"] = KafkaError.MSG_SIZE_TOO_LARGE
        events = [("click", b"1"), ("click", b"bad"), ("click", b"2")]
        (outcome,) = self.publish(make_request(events=events))
        self.check_failed(outcome, 1, 3, "too large")
        self.assertEqual([value for _, value in self.producer.accepted], [b"1", b"2"])

    def test_gives_up_in_the_end(self) -> None:
        """A queue that stays full fails what does not fit, in the time that Kafka gives it."""
        self.patch(kafka, "PATIENCE", 0.05)
        self.start({"delivery.timeout.ms": "30"}, "all", capacity=1, key="connection")
        self.producer.held.add(b"1")
        outcomes = self.publisher.publish([make_request(events=[("click", b"1"), ("click", b"2")])])
        self.producer.release()
        outcome = later(outcomes[0]).result(WAIT)
        self.check_failed(outcome, 1, 2, KafkaError(KafkaError._QUEUE_FULL).str())

    def test_batch_too_large(self) -> None:
        """What is sent again keeps its key; that its order is not kept is logged."""
        self.start(key="connection", metadata=True)
        self.producer.failures = {b"small": KafkaError.MSG_SIZE_TOO_LARGE}
        with self.assertLogs(kafka.__name__, "WARNING") as logged:
            request = make_request("guid-1", [("click", b"small")], client="anna")
            self.assertEqual(self.publish(request), [None])
        self.assertIn("PUBLISHER_KAFKA_CLIENT_BATCH_SIZE", logged.output[0])
        alone = self.publisher.created.get(timeout=WAIT)
        self.assertEqual(alone.keys, {b"small": "group/anna"})
        self.assertEqual(alone.headers[b"small"]["req_guid"], "guid-1")


class MetadataTests(KafkaTestCase):
    """EVENT_METADATA_ENABLED."""

    def test_headers(self) -> None:
        """Each event is produced with its metadata as headers, and without a key."""
        self.start(metadata=True)
        events = [("click", b"1"), ("view", b"2"), ("click", b"3")]
        self.publish(make_request("guid-1", events, group="beta", received_at=1.5))
        self.assertEqual(
            self.producer.headers,
            {
                payload: {
                    "req_guid": "guid-1",
                    "event_index": index,
                    "conn_group": "beta",
                    "received_at": "1500",
                }
                for payload, index in ((b"1", "0"), (b"2", "1"), (b"3", "2"))
            },
        )
        self.assertEqual(self.producer.keys, {})


class RoutingTests(KafkaTestCase):
    """EVENT_DISTRIBUTION_PUBLISHER_PATTERN."""

    def check(self, pattern: str, topics: set[str]) -> None:
        self.start(pattern=pattern)
        self.publish(make_request(events=[("click", b"1"), ("view", b"2")]))
        self.assertEqual({topic for topic, _ in self.producer.accepted}, topics)

    def test_first_placeholder_is_replaced(self) -> None:
        """Only the first %s is replaced."""
        self.check("a-%s-%s", {"a-click-%s", "a-view-%s"})

    def test_no_placeholder(self) -> None:
        """A pattern without %s sends everything to one topic."""
        self.check("events", {"events"})


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
        self.publisher.alone = {b"large": too_large}
        outcomes = self.publish(
            make_request(events=[("click", b"small")]), make_request(events=[("click", b"large")])
        )
        self.assertIsNone(outcomes[0])
        self.check_failed(outcomes[1], 1, 1, "too large")
        self.assertEqual(self.metrics.total("kafka_message_too_large_total"), 1)
        self.assertEqual(self.metrics.total("kafka_messages_delivered_total"), 1)

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


class NewTopicTests(KafkaTestCase):
    """Topics that have not taken an event yet, of which two are tried at once."""

    def check(self, metadata: bool) -> None:
        self.patch(kafka, "PATIENCE", 0.05)
        self.start(metadata=metadata)
        self.patch(self.publisher, "_trials", Trials(lambda: None, most_tried=2))
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
            self.patch(
                self.publisher, "_trials", Trials(self.publisher._list_topics, most_missed=1)
            )
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
        self.patch(self.publisher, "_trials", trials)
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


class QueueFullTests(KafkaTestCase):
    """The producer's own queue."""

    def test_waits_and_goes_on(self) -> None:
        """While the queue is full `publish` waits, and each event is produced once."""
        self.start(capacity=3)
        payloads = [b"%d" % n for n in range(20)]
        outcomes = self.publish(
            make_request(events=[("click", payload) for payload in payloads[:15]]),
            make_request(events=[("click", payload) for payload in payloads[15:]]),
        )
        self.assertEqual(outcomes, [None, None])
        self.assertGreater(self.producer.full_times, 0)
        self.assertEqual(sorted(v for _, v in self.producer.accepted), sorted(payloads))
        labels = ("clickstream-click-log", "group", "click")
        self.assertEqual(self.metrics.total("kafka_messages_delivered_total", labels), 20)

    def test_refused_among_those_that_wait(self) -> None:
        """An event that is refused for another cause does not wait with the others."""
        self.start(capacity=1)
        self.producer.refusals[b"bad"] = KafkaError.MSG_SIZE_TOO_LARGE
        events = [("click", b"1"), ("click", b"bad"), ("click", b"2"), ("click", b"3")]
        (outcome,) = self.publish(make_request(events=events))
        self.check_failed(outcome, 1, 4, "too large")
        self.assertEqual([value for _, value in self.producer.accepted], [b"1", b"2", b"3"])

    def test_gives_up_in_the_end(self) -> None:
        """Past the time after which Kafka gives a message up, so does the wait."""
        self.patch(kafka, "PATIENCE", 0.05)
        self.start({"delivery.timeout.ms": "30"}, capacity=1)
        self.producer.held.add(b"1")
        outcomes = self.publisher.publish([make_request(events=[("click", b"1"), ("click", b"2")])])
        self.producer.release()
        outcome = later(outcomes[0]).result(WAIT)
        self.check_failed(outcome, 1, 2, KafkaError(KafkaError._QUEUE_FULL).str())


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


class TogetherTests(KafkaTestCase):
    """Requests of a group, which are counted together where they were delivered."""

    def setUp(self) -> None:
        self.patch(kafka, "PATIENCE", 0.05)
        self.start()
        self.learn("click", "view")

    def test_failures(self) -> None:
        """Each failure is that of its request."""
        self.producer.failures[b"bad"] = KafkaError._MSG_TIMED_OUT
        self.producer.refusals[b"worse"] = KafkaError._UNKNOWN_TOPIC
        good, bad, worse, nothing, both = self.publish(
            make_request(events=[("click", b"1"), ("view", b"2")]),
            make_request(events=[("view", b"bad"), ("click", b"3"), ("click", b"bad")]),
            make_request(events=[("click", b"worse"), ("click", b"4")]),
            make_request(events=[("view", b"worse")]),
            make_request(events=[("view", b"bad"), ("click", b"worse")]),
        )
        self.assertIsNone(good)
        for outcome, failed, total in ((bad, 2, 3), (worse, 2, 2), (nothing, 1, 1), (both, 2, 2)):
            self.check_failed(outcome, failed, total)
        self.check_counted(delivered=3, undelivered=4)

    def check_counted(self, delivered: int, undelivered: int) -> None:
        """So many clicks were, those of `learn` included."""
        self.assertEqual(
            (delivered, undelivered), (self.clicks("delivered"), self.clicks("undelivered"))
        )

    def clicks(self, became: str) -> float:
        """How many clicks of which this became were counted."""
        labels = ("clickstream-click-log", "group", "click")
        return self.metrics.total(f"kafka_messages_{became}_total", labels)

    def test_one_that_is_late(self) -> None:
        """Nobody waits for it past PATIENCE, and no count does; what comes later has its own."""
        self.producer.held |= {b"slow", b"slower"}
        outcomes = self.publisher.publish(
            [
                make_request(str(number), [("click", payload)])
                for number, payload in enumerate([b"1", b"slow", b"2", b"slower", b"3"])
            ]
        )
        self.assertEqual([None] * 3, outcomes[::2])
        self.check_counted(delivered=4, undelivered=0)
        slow, slower = map(later, outcomes[1::2])
        self.producer.release(still={b"slower"})
        self.assertIsNone(slow.result(WAIT))
        self.check_counted(delivered=5, undelivered=0)
        self.assertFalse(slower.done())
        self.producer.failures[b"slower"] = KafkaError._MSG_TIMED_OUT
        self.producer.release()
        self.check_failed(slower.result(WAIT), 1, 1)
        self.check_counted(delivered=5, undelivered=1)

    def test_all_that_are_late(self) -> None:
        """A group of which nothing came in time is told when it comes."""
        self.producer.held.add(b"slow")
        outcomes = self.publisher.publish([make_request(events=[("click", b"slow")])] * 3)
        self.producer.release()
        self.assertEqual([None] * 3, [later(outcome).result(WAIT) for outcome in outcomes])
        self.check_counted(delivered=4, undelivered=0)

    def test_last_that_end_meanwhile(self) -> None:
        """Who counts others counts those, too, that are all that are left then."""
        group = KafkaGroup(101, self.publisher, None, 1000)
        first, *more = [KafkaDelivery(group, make_request()) for _ in range(101)]
        count = self.publisher.count

        def meanwhile(requests: Sequence[CollectRequest]) -> None:
            self.patch(self.publisher, "count", count)
            group.ended(first)
            count(requests)

        self.patch(self.publisher, "count", meanwhile)
        for delivery in more:
            self.assertFalse(group.done.is_set())
            group.ended(delivery)
        self.assertTrue(group.done.is_set())

    def test_partitions_are_free_again(self) -> None:
        """A group ends once, also where that is just when nobody waits any longer."""
        partitions = self.publisher._partitions
        assert partitions is not None
        topic = "clickstream-click-log"
        group = KafkaGroup(1, self.publisher, partitions, 1000)
        chosen = group.partition(topic, 10)
        for _ in range(3):  # others, one of them likewise
            partitions.choose(topic)
        delivery = KafkaDelivery(group, make_request())
        wait = group.done.wait

        def too_short(timeout: float) -> bool:
            self.patch(group.done, "wait", wait)
            group.ended(delivery)
            return False

        self.patch(group.done, "wait", too_short)
        self.assertEqual([None], group.results([delivery], 0))
        self.assertEqual(1, partitions._topics[topic].on_way[chosen])

    def test_success_before_an_outage(self) -> None:
        """What Kafka took before it went away does not say that it is there when it is counted."""
        self.patch(kafka, "PATIENCE", WAIT)
        ended, one_ended = KafkaGroup.ended, threading.Event()

        def then_tell(group: KafkaGroup, delivery: KafkaDelivery) -> None:
            ended(group, delivery)
            one_ended.set()

        self.patch(KafkaGroup, "ended", then_tell)
        self.producer.held.add(b"slow")
        self.producer.failures[b"slow"] = KafkaError._MSG_TIMED_OUT
        requests = [make_request(events=[("click", payload)]) for payload in (b"1", b"slow")]
        with ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(self.publish, *requests)
            self.assertTrue(one_ended.wait(WAIT))
            self.producer.reachable = False
            self.publisher._on_error(kafka._MAIN, KafkaError(KafkaError._ALL_BROKERS_DOWN))
            self.producer.release()
            good, bad = publishing.result(WAIT)
        self.assertIsNone(good)
        self.check_failed(bad, 1, 1)
        self.assertFalse(self.publisher.reachable)

    def test_error_while_handing_over(self) -> None:
        """What was handed over before is accounted for, all else failed, and nothing waits."""
        produce = self.producer.produce

        def broken(topic: str, payload: bytes, *more: Any, **named: Any) -> None:
            if payload == b"broken":
                raise TypeError("no such thing")
            produce(topic, payload, *more, **named)

        self.patch(self.producer, "produce", broken)
        self.producer.refusals[b"bad"] = KafkaError._UNKNOWN_TOPIC
        requests = [
            make_request(events=[("click", b"1")]),
            make_request(events=[("new", b"2")]),
            make_request(events=[("bad", b"bad"), ("click", b"3"), ("click", b"broken")]),
            make_request(events=[("click", b"4")]),
        ]
        self.assertRaises(TypeError, self.publisher.publish, requests)
        trials, partitions = self.publisher._trials, self.publisher._partitions
        assert partitions is not None
        wait_until(lambda: "clickstream-new-log" in trials.passed, "the end of the trial")
        on_way = partitions._topics["clickstream-click-log"].on_way
        wait_until(lambda: not any(on_way.values()), "the end of the group")
        gc.collect()  # whoever keeps the exception keeps what was interrupted
        self.assertEqual((2, 3), (self.clicks("delivered"), self.clicks("undelivered")))
        labels = ("clickstream-bad-log", "group", "bad")
        self.assertEqual(0, self.metrics.total("kafka_messages_delivered_total", labels))

    def test_answer_that_cannot_be_told(self) -> None:
        """What was delivered was delivered, whether or not it could be told that Kafka answers."""

        def broken() -> None:
            raise ValueError("no such metric")

        self.patch(self.publisher, "answered", broken)
        with self.assertLogs("raccoon.publisher.kafka.delivery", "ERROR"):
            self.assertEqual([None] * 2, self.publish(make_request("a"), make_request("b")))

    def test_count_that_fails(self) -> None:
        """What was delivered was delivered, whether or not it could be counted."""

        def broken(_: Any) -> None:
            raise ValueError("no such metric")

        self.patch(self.publisher, "count", broken)
        with self.assertLogs("raccoon.publisher.kafka.delivery", "ERROR"):
            self.assertEqual([None] * 2, self.publish(make_request("a"), make_request("b")))

    def test_nothing_is_left_to_the_collector(self) -> None:
        """What was published is freed at once: a cycle would stay until it is looked for."""
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        requests = [make_request(events=[("click", b"1"), ("view", b"2")]) for _ in range(3)]
        self.assertEqual([None] * 3, self.publish(*requests))
        wait_until(
            lambda: not [one for one in gc.get_objects() if isinstance(one, Group | Delivery)],
            "the end of all",
        )


class CloseTests(KafkaTestCase):
    """The end of the publisher."""

    def setUp(self) -> None:
        self.patch(kafka, "PATIENCE", 0.05)
        self.start()

    def test_nothing_is_left(self) -> None:
        """With everything delivered nothing is left."""
        self.publish(make_request())
        self.assertEqual(self.publisher.close(0.1), 0)

    def test_what_flushes_in_time_is_delivered(self) -> None:
        """What is confirmed while the publisher flushes is delivered, and not counted as left."""
        self.producer.held.add(b"slow")
        (late,) = self.publisher.publish([make_request(events=[("click", b"slow")] * 5)])
        self.producer.flush = self.release_and_flush  # type: ignore[method-assign]
        self.assertEqual(self.publisher.close(0.1), 0)
        self.assertIsNone(later(late).result(WAIT))

    def release_and_flush(self, timeout: float) -> int:
        self.producer.release()
        return FakeProducer.flush(self.producer, timeout)

    def test_counts_exactly_what_is_left(self) -> None:
        """What is undelivered is counted to the event, and every request has its outcome."""
        self.producer.held.add(b"stuck")
        done, mixed, stuck = self.publisher.publish(
            [
                make_request("a", [("click", b"1")] * 4),
                make_request("b", [("click", b"2"), ("click", b"stuck"), ("click", b"stuck")]),
                make_request("c", [("click", b"stuck")] * 5),
            ]
        )
        self.assertEqual(self.publisher.close(0.01), 7)
        self.assertIsNone(done)
        self.check_failed(later(mixed).result(WAIT), 2, 3, "shutting down")
        self.check_failed(later(stuck).result(WAIT), 5, 5, "shutting down")
        labels = ("clickstream-click-log", "group", "click")
        self.assertEqual(self.metrics.total("kafka_messages_delivered_total", labels), 5)
        self.assertEqual(self.metrics.total("kafka_messages_undelivered_total", labels), 7)

    def test_failures_before_are_not_left(self) -> None:
        """Events that failed before the close were told so, and are not counted again."""
        self.producer.failures[b"bad"] = KafkaError._MSG_TIMED_OUT
        self.publish(make_request(events=[("click", b"bad")]))
        self.assertEqual(self.publisher.close(0.01), 0)

    def test_publish_after_close(self) -> None:
        """What is published after the close fails at once, and nothing of it is produced."""
        self.publisher.close(0.01)
        (outcome,) = self.publisher.publish([make_request(events=[("click", b"1")] * 2)])
        self.check_failed(outcome, 2, 2, "shutting down")
        self.assertEqual(self.producer.accepted, [])

    def test_close_ends_a_publish_that_waits_for_room(self) -> None:
        """A publish that waits for room in the queue ends when the publisher is closed."""
        self.start(capacity=1)
        self.producer.held.add(b"stuck")
        waits, closed = threading.Event(), threading.Event()
        produce = self.producer.produce

        def produce_again_after_the_close(*args: Any, **options: Any) -> None:
            if waits.is_set():
                closed.wait(0.5)
            try:
                produce(*args, **options)
            except BufferError:
                waits.set()
                raise

        self.producer.produce = produce_again_after_the_close  # type: ignore[method-assign]
        request = make_request(events=[("click", b"stuck")] * 3)
        with ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(self.publisher.publish, [request])
            self.assertTrue(waits.wait(WAIT))
            self.publisher.close(0.01)
            closed.set()
            (outcome,) = publishing.result(WAIT)
        if isinstance(outcome, Future):
            outcome = outcome.result(1)
        self.check_failed(outcome, 3, 3, "shutting down")

    def test_close_fails_the_rest_of_a_request(self) -> None:
        """After an event that the close failed no later one of its request is taken."""
        self.start(capacity=1)
        self.producer.held.add(b"1")
        produce = self.producer.produce

        def close_while_full(*args: Any, **options: Any) -> None:
            try:
                produce(*args, **options)
            except BufferError:
                self.publisher._closing.set()
                self.producer.release()
                self.producer.poll(0)  # there is room again
                raise

        self.producer.produce = close_while_full  # type: ignore[method-assign]
        events = [("click", b"%d" % n) for n in range(1, 4)]
        (outcome,) = self.publisher.publish([make_request(events=events)])
        self.check_failed(outcome, 2, 3, "shutting down")
        self.assertEqual(self.producer.accepted, [("clickstream-click-log", b"1")])

    def test_close_waits_for_what_is_handed_over(self) -> None:
        """What a thread is handing over at the moment of the close is counted and answered."""
        produce = self.producer.produce
        begun = threading.Event()

        def produce_while_closing(*args: Any, **options: Any) -> None:
            begun.set()
            self.publisher._closing.wait(WAIT)
            threading.Event().wait(0.05)  # the purge would come first, were it not to wait
            produce(*args, **options)

        self.producer.produce = produce_while_closing  # type: ignore[method-assign]
        self.producer.held.add(b"stuck")
        request = make_request(events=[("click", b"stuck")] * 3)
        with ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(self.publisher.publish, [request])
            self.assertTrue(begun.wait(WAIT))
            self.assertEqual(self.publisher.close(0.01), 3)
            (outcome,) = publishing.result(WAIT)
        if isinstance(outcome, Future):
            outcome = outcome.result(1)
        self.check_failed(outcome, 3, 3, "shutting down")


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
        with self.assertLogs(kafka.__name__, "WARNING"):
            second = self.break_down()
            outcomes: list[Any] = []
            while not second.accepted:  # the old one refuses what comes before it is replaced
                outcomes = self.publish(make_request(events=[("click", b"after")]))
        self.assertEqual(outcomes, [None])
        self.assertEqual(second.accepted, [("clickstream-click-log", b"after")])

    def lose_in_flight(self) -> Any:
        self.producer.held.add(b"stuck")
        (late,) = self.publisher.publish([make_request(events=[("click", b"stuck")] * 2)])
        with self.assertLogs(kafka.__name__, "WARNING"):
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
        with self.assertLogs(kafka.__name__, "ERROR"):
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
        with self.assertLogs(kafka.__name__, "ERROR") as logged:
            self.start(reachable=False)
            self.assertEqual(self.next_state(), 0)
        self.assertFalse(self.publisher.reachable)
        self.assertIn("broker.test:9092", logged.output[0])

    def test_why_they_do_not_answer(self) -> None:
        """What the client last met is told with it."""
        self.start()
        self.assertEqual(self.next_state(), 1)
        self.producer.reachable = False
        with self.assertLogs(kafka.__name__, "ERROR") as logged:
            self.producer.break_down(KafkaError(KafkaError._SSL, "certificate verify failed"))
            self.producer.break_down(KafkaError(KafkaError._ALL_BROKERS_DOWN))
            self.assertEqual(self.next_state(), 0)
        self.assertIn("certificate verify failed", logged.output[0])

    def test_brokers_that_go_and_come(self) -> None:
        """Brokers that go away and come back are announced each time."""
        self.start()
        self.assertEqual(self.next_state(), 1)
        self.producer.reachable = False
        with self.assertLogs(kafka.__name__, "ERROR"):
            self.producer.break_down(KafkaError(KafkaError._ALL_BROKERS_DOWN))
            self.assertEqual(self.next_state(), 0)
        self.assertEqual(self.publish(make_request()), [None])
        self.assertEqual(self.next_state(), 1)
        self.assertTrue(self.publisher.reachable)


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

        self.patch(kafka, "Producer", make)
        for client, worker, rest in (
            ({}, 0.001, 0.5),
            ({"linger_ms": "0"}, 0.001, 0),
            ({"linger_ms": "0.25"}, 0.001, 0.25),
            ({"linger_ms": "1.5"}, 0.001, 0.5),
            ({"linger_ms": "5"}, 0.0035, 0.5),
            ({"queue_buffering_max_ms": "100"}, 0.0035, 95.5),
        ):
            publisher = self.make(**client)
            publisher._create()
            options = made.pop()
            self.assertEqual(publisher.linger, worker, client)
            self.assertEqual(options["linger.ms"], rest, client)
            self.assertNotIn("queue.buffering.max.ms", options)
            self.assertEqual(publisher.enough_bytes, 65536)
            self.assertNotIn("batch.size", options)  # librdkafka's default
        publisher = self.make(batch_size="1000")
        publisher._create()
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
            self.assertEqual(publisher._client["linger.ms"], rest)

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
            producer = self.make(delivery_report_only_error=value)._create()
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
            with self.assertLogs(kafka.__name__, "WARNING") as logged:
                producer = self.make(**client)._create()
            self.assertIsInstance(producer, Producer)
            self.assertEqual(len(logged.output), 1)
            self.assertIn("idempotence is off", logged.output[0])
            self.assertIn("enable.idempotence", logged.output[0])

    def test_idempotence_by_default(self) -> None:
        """Without such options nothing is switched off."""
        with self.assertNoLogs(kafka.__name__, "WARNING"):
            self.make()._create()
            self.make(acks="all")._create()
            self.make(enable_idempotence="false", acks="1")._create()

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
            )._create()
            for _ in range(20):
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
