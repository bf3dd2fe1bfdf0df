"""Which partition events without keys go to."""

from __future__ import annotations

from collections import Counter

from confluent_kafka import KafkaError, KafkaException

from raccoon.publisher.kafka import publisher as kafka
from tests.fakes import make_request
from tests.publisher.kafka.case import (
    KafkaTestCase,
    later,
)
from tests.publisher.watch import WAIT


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
