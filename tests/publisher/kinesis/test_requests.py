"""What goes into a PutRecords, and its outcome."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future

from zope.interface.verify import verifyObject

from raccoon.errors import PublishError
from raccoon.interfaces import IOrderedPublisher, IPublisher
from raccoon.publisher.kinesis import publisher as kinesis
from tests.fakes import make_request
from tests.publisher.kinesis.case import (
    MIB,
    KinesisTestCase,
    request_of,
    settled,
)
from tests.publisher.watch import WAIT


class RequestTests(KinesisTestCase):
    """What goes into a PutRecords."""

    def test_interfaces(self) -> None:
        """It is a publisher; with a partition key, one that keeps order."""
        publisher = self.start()
        verifyObject(IPublisher, publisher)
        self.assertFalse(IOrderedPublisher.providedBy(publisher))
        verifyObject(IOrderedPublisher, self.start(key="type"))

    def test_delivered(self) -> None:
        """Events of several types are written to their streams, byte for byte, and counted."""
        self.api.streams["t"] = "ACTIVE"
        request = make_request(events=[("s", b"\x00\xff"), ("t", b""), ("s", b"2")], group="g")
        self.assertEqual(self.publish(self.start(), request), [None])
        stored = Counter((stream, data) for stream, data, _ in self.api.stored)
        self.assertEqual(stored, Counter([("s", b"\x00\xff"), ("t", b""), ("s", b"2")]))
        name = "kinesis_messages_delivered_total"
        self.assertEqual(self.metrics.total(name, ("s", "g", "s")), 2)
        self.assertEqual(self.metrics.total(name, ("t", "g", "t")), 1)

    def test_full_requests(self) -> None:
        """The events of many requests are written 500 at a time."""
        self.patch(kinesis, "_DELAY", 2.0)
        requests = [request_of(*(b"%d-%d" % (i, j) for j in range(100))) for i in range(12)]
        publisher = self.start()
        outcomes = publisher.publish(requests)
        publisher._outbox.hurry()
        self.assertEqual(settled(outcomes), [None] * 12)
        sizes = sorted(len(data) for _, data in self.api.requests)
        self.assertEqual(sizes, [200, 500, 500])
        self.assertEqual(len({data for _, data, _ in self.api.stored}), 1200)

    def test_requests_of_5_mib(self) -> None:
        """A request has 5 MiB at most, and as much of it as fits."""
        events = [bytes([i]) * 1_000_000 for i in range(12)]
        self.assertEqual(self.publish(self.start(), request_of(*events)), [None])
        sizes = sorted(len(data) for _, data in self.api.requests)
        self.assertEqual(sizes, [2, 5, 5])
        for _, data in self.api.requests:
            self.assertLessEqual(sum(map(len, data)), 5 * MIB)

    def test_the_key_counts(self) -> None:
        """The partition key is part of a record's size."""
        client = "k" * 250  # and with the group's name 256
        events = [b"x" * (MIB - 256)] * 5
        publisher = self.start(key="connection")
        self.assertEqual(self.publish(publisher, request_of(*events, client=client)), [None])
        self.assertEqual([len(data) for _, data in self.api.requests], [5])
        larger = [b"x" * (MIB - 255)] * 5
        self.assertEqual(self.publish(publisher, request_of(*larger, client=client)), [None])
        self.assertEqual([len(data) for _, data in self.api.requests], [5, 1, 1, 1, 1, 1])

    def test_a_large_event_goes_alone(self) -> None:
        """An event over 1 MiB, which a stream may be set to take, has a request of its own."""
        large = b"x" * (MIB + 1)
        self.assertEqual(self.publish(self.start(), request_of(b"1", large, b"2")), [None])
        self.assertIn(("s", [large]), self.api.requests)
        self.assertEqual(sum(len(data) for _, data in self.api.requests), 3)

    def test_several_streams_at_once(self) -> None:
        """A stream that is slow does not hold up another."""
        self.api.streams["t"] = "ACTIVE"
        publisher = self.start()
        self.api.gate.clear()
        outcomes = publisher.publish([request_of(b"1"), request_of(b"2", stream="t")])
        self.api.wait_for_requests(2)
        self.assertTrue(all(isinstance(outcome, Future) for outcome in outcomes))
        self.api.gate.set()
        self.assertEqual(settled(outcomes), [None, None])

    def test_an_empty_request(self) -> None:
        """A request without events is delivered."""
        self.assertEqual(self.publish(self.start(), make_request(events=[])), [None])
        self.assertEqual(self.publish(self.start()), [])


class OutcomeTests(KinesisTestCase):
    """Outcomes."""

    def test_the_error_is_a_publish_error(self) -> None:
        """It knows how many events failed."""
        self.patch(kinesis, "PATIENCE", WAIT)
        [outcome] = self.start().publish([request_of(b"1", b"2", stream="gone")])
        assert isinstance(outcome, PublishError)
        self.assertEqual((outcome.failed, outcome.total), (2, 2))
