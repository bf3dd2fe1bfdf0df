"""What is in flight to Kinesis: when it is unreachable, how much, and what is left of it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from botocore.exceptions import EndpointConnectionError

from raccoon.publisher.kinesis import publisher as kinesis
from raccoon.publisher.kinesis.publisher import KinesisPublisher
from tests.publisher.kinesis.case import (
    KinesisTestCase,
    make_context,
    request_of,
    settled,
)
from tests.publisher.kinesis.fakes import refusal
from tests.publisher.watch import WAIT


class ReachabilityTests(KinesisTestCase):
    """Kinesis gone and back."""

    def test_gone_and_back(self) -> None:
        """While Kinesis is unreachable it says so; events are delivered when it is back."""
        absent = EndpointConnectionError(endpoint_url="http://kinesis.test")
        self.api.raising = [absent] * 5
        publisher = self.start()
        gauge = "destination_reachable_current"
        self.assertEqual(self.metrics.gauged.get(timeout=WAIT), (gauge, 0.0))
        self.assertFalse(publisher.reachable)
        self.assertEqual(self.publish(publisher, request_of(b"1")), [None])
        self.assertEqual(self.metrics.gauged.get(timeout=WAIT), (gauge, 1.0))
        self.assertTrue(publisher.reachable)

    def test_a_refusal_is_an_answer(self) -> None:
        """Without any stream, and without being allowed to ask, it is known to answer."""
        self.api.raising = [refusal("AccessDeniedException")]
        self.start()
        self.assertEqual(
            self.metrics.gauged.get(timeout=WAIT), ("destination_reachable_current", 1.0)
        )

    def test_never_back(self) -> None:
        """At the deadline events fail in those words."""
        self.publish(publisher := self.start(publish_timeout_ms=200), request_of(b"0"))
        self.patch(kinesis, "full_jitter", lambda attempts: 0.02)
        self.api.raising = [EndpointConnectionError(endpoint_url="http://kinesis.test")] * 10_000
        self.assertEqual(
            self.publish(publisher, request_of(b"1")),
            ["1 of 1 events failed: Kinesis is unreachable"],
        )


class InFlightTests(KinesisTestCase):
    """Bounded memory."""

    def test_waits_for_room(self) -> None:
        """Who publishes more than there is room for waits, and goes on when there is room."""
        self.patch(kinesis, "_IN_FLIGHT_EVENTS", 10)
        publisher = self.start()
        self.api.gate.clear()
        first = publisher.publish([request_of(*[b"1"] * 10)])
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(publisher.publish, [request_of(b"2")])
            self.assertRaises(TimeoutError, second.result, 0.05)
            self.assertEqual(len(self.api.requests), 1)
            self.api.gate.set()
            self.assertEqual(settled(second.result(WAIT)), [None])
        self.assertEqual(settled(first), [None])

    def test_no_room_until_the_deadline(self) -> None:
        """Where no room comes, the events fail with words that ask for a retry."""
        self.patch(kinesis, "_IN_FLIGHT_EVENTS", 10)
        publisher = self.start(publish_timeout_ms=100)
        self.api.gate.clear()
        publisher.publish([request_of(*[b"1"] * 10)])
        self.assertEqual(
            self.publish(publisher, request_of(b"2")),
            ["1 of 1 events failed: Kinesis takes events too slowly, retry"],
        )


class CloseTests(KinesisTestCase):
    """The end."""

    def test_nothing_is_left(self) -> None:
        """What waits for company is sent at once, and nothing is left."""
        self.patch(kinesis, "_DELAY", 1000.0)
        publisher = self.start()
        outcomes = publisher.publish([request_of(b"1")])
        self.assertEqual(publisher.close(WAIT), 0)
        self.assertEqual(settled(outcomes), [None])
        self.assertTrue(self.api.closed)

    def test_counts_exactly_what_is_left(self) -> None:
        """What is under way, waits, or has no room when the time is up is given up and counted."""
        self.patch(kinesis, "_IN_FLIGHT_EVENTS", 2000)
        self.patch(kinesis, "_LAST_CALLS", 0.1)
        publisher = self.start(key="type")
        self.publish(publisher, request_of(b"before"))
        self.api.gate.clear()
        outcomes = publisher.publish([request_of(*[b"%d" % i] * 3) for i in range(600)])
        self.api.wait_for_requests(2)
        with ThreadPoolExecutor(1) as pool:
            no_room = pool.submit(publisher.publish, [request_of(*[b"x"] * 300)])
            left = publisher.close(0.01)
            outcomes += no_room.result(WAIT)
        self.assertEqual(left, 600 * 3 + 300)
        reason = "3 of 3 events failed: the server is shutting down"
        self.assertEqual(settled(outcomes)[:600], [reason] * 600)
        self.api.gate.set()
        self.assertEqual(self.counted(), {"messages_delivered": 1, "messages_undelivered": left})

    def test_what_comes_too_late_changes_nothing(self) -> None:
        """An answer after the events were given up is not counted as delivered."""
        self.patch(kinesis, "_LAST_CALLS", 0.0)
        publisher = self.start()
        self.api.gate.clear()
        outcomes = publisher.publish([request_of(b"1")])
        self.api.wait_for_requests(1)
        self.assertEqual(publisher.close(0), 1)
        self.api.gate.set()
        publisher._senders.join(time.monotonic() + WAIT)
        self.assertEqual(settled(outcomes), ["1 of 1 events failed: the server is shutting down"])
        self.assertEqual(self.counted(), {"messages_undelivered": 1})

    def test_waits_for_a_stream_in_the_making(self) -> None:
        """Events whose stream is not there yet are given up and counted as well."""
        self.api.streams["s"] = "CREATING"
        publisher = self.start()
        outcomes = publisher.publish([request_of(b"1", b"2")])
        self.assertEqual(publisher.close(0), 2)
        self.assertEqual(settled(outcomes), ["2 of 2 events failed: the server is shutting down"])

    def test_failures_before_are_not_left(self) -> None:
        """Events that failed before are answered: they are not left."""
        publisher = self.start()
        self.publish(publisher, request_of(b"1", stream="gone"))
        self.assertEqual(publisher.close(WAIT), 0)

    def test_no_thread_is_left(self) -> None:
        """Every thread ends."""
        before = set(threading.enumerate())
        publisher = self.start()
        self.publish(publisher, request_of(b"1"))
        self.assertGreater(len(threading.enumerate()), len(before))
        publisher.close(WAIT)
        self.assertEqual(set(threading.enumerate()) - before, set())

    def test_never_started(self) -> None:
        """One that was not started has nothing to close."""
        publisher = KinesisPublisher(make_context(self.metrics))
        self.assertEqual(publisher.close(1), 0)
