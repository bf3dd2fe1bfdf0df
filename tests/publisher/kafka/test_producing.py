"""Topics, keys, headers and order of what is produced, and a full queue."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from confluent_kafka import KafkaError, Producer

from raccoon.publisher.kafka import producers as kafka_producers
from raccoon.publisher.kafka import producing as kafka_producing
from raccoon.publisher.kafka import publisher as kafka
from tests.fakes import make_request
from tests.publisher.kafka.case import (
    KafkaTestCase,
    later,
)
from tests.publisher.watch import WAIT


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
        self.patch(kafka_producing, "_FULL_QUEUE_PAUSE", 0.0005)
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
        with self.assertLogs(kafka_producers.__name__, "WARNING") as logged:
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
