"""What Kinesis refuses."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import Future
from typing import Any

from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from raccoon.interfaces import IRejectingPublisher
from raccoon.publisher.kinesis import publisher as kinesis
from raccoon.publisher.kinesis.publisher import KinesisPublisher
from tests.fakes import make_request
from tests.publisher.kinesis.case import (
    MIB,
    THROTTLED,
    KinesisTestCase,
    request_of,
)
from tests.publisher.kinesis.fakes import refusal
from tests.publisher.watch import WAIT


class RefusalTests(KinesisTestCase):
    """What Kinesis refuses."""

    def setUp(self) -> None:
        super().setUp()
        # Nothing asks for the stream `probe`, so that `raising` is for the calls of the test.
        self.patch(KinesisPublisher, "_probe", lambda publisher: publisher._prober.wait(WAIT))

    def test_only_the_refused_ones_again(self) -> None:
        """Of a request refused in part, only the refused records are sent again."""
        self.api.refuse = {b"2": [THROTTLED, "InternalFailure"], b"4": ["InternalFailure"]}
        events = [b"%d" % i for i in range(6)]
        self.assertEqual(self.publish(self.start(), request_of(*events)), [None])
        self.assertEqual([data for _, data in self.api.requests], [events, [b"2", b"4"], [b"2"]])
        self.assertEqual(Counter(data for _, data, _ in self.api.stored), Counter(events))
        self.assertEqual(self.counted(), {"messages_delivered": 6, "records_sent_again": 3})

    def test_the_pause_grows_while_nothing_gets_through(self) -> None:
        """Each attempt without any success makes the next pause longer; a success starts anew."""
        self.api.refuse = {b"1": [THROTTLED] * 4}
        self.assertEqual(self.publish(self.start(), request_of(b"0", b"1")), [None])
        self.assertEqual(self.pauses, [0, 1, 2, 3])

    def test_throttled_until_the_deadline(self) -> None:
        """A record that is throttled until the deadline fails by that name, the others do not."""
        self.api.refuse = {b"1": [THROTTLED] * 100_000}
        self.patch(kinesis, "full_jitter", lambda attempts: 0.02)
        publisher = self.start(publish_timeout_ms=300)
        began = time.monotonic()
        outcomes = self.publish(publisher, request_of(b"0", b"1"), request_of(b"2"))
        self.assertLess(time.monotonic() - began, WAIT / 2)
        reason = f"1 of 2 events failed: stream s takes no more for now ({THROTTLED})"
        self.assertEqual(outcomes, [reason, None])
        counted = self.counted()
        self.assertGreater(counted.pop("records_sent_again"), 1)
        self.assertEqual(
            counted,
            {"messages_delivered": 2, "messages_undelivered": 1, "stream_throughput_exceeded": 1},
        )

    def test_missing_stream(self) -> None:
        """Events for a stream that does not exist fail by its name, the others do not."""
        request = make_request(events=[("s", b"1"), ("gone", b"2")])
        outcomes = self.publish(self.start(), request, request_of(b"3"))
        self.assertEqual(outcomes, ["1 of 2 events failed: stream gone does not exist", None])
        self.assertEqual(self.counted()["unknown_stream_failure"], 1)
        self.assertEqual(self.api.asked["gone"], 1)

    def test_not_a_name(self) -> None:
        """A stream whose name cannot be one is not asked for."""
        for name in ("a/b", "n" * 129):
            [outcome] = self.publish(self.start(), request_of(b"1", stream=name))
            self.assertIn(f"stream {name} does not exist: not a name", str(outcome))
        self.assertEqual(self.api.asked.total(), 0)
        self.assertEqual(self.counted()["unknown_stream_failure"], 2)

    def test_rejected_beforehand(self) -> None:
        """Types of a missing stream are told for five seconds, then it is asked for again."""
        publisher = self.start()
        verifyObject(IRejectingPublisher, publisher)
        clock = Clock()
        self.patch(publisher._accounts.rejections, "_clock", clock.seconds)
        self.patch(publisher._streams, "_seconds", clock.seconds)
        self.publish(publisher, make_request(events=[("s", b"1"), ("gone", b"2"), ("a/b", b"3")]))
        reasons = [publisher.rejection(each) for each in ("s", "gone", "a/b")]
        expected = ["stream gone does not exist", "stream a/b does not exist: not a name"]
        self.assertEqual([None, *expected], reasons)
        clock.advance(5)
        self.assertIsNone(publisher.rejection("gone"))
        self.api.streams["gone"] = "ACTIVE"
        self.assertEqual([None], self.publish(publisher, request_of(b"2", stream="gone")))
        self.assertIsNone(publisher.rejection("gone"))

    def test_not_rejected_beforehand(self) -> None:
        """What may be delivered yet is no reason to reject others, nor is one bad event."""
        self.api.streams["s"] = "DELETING"
        publisher = self.start()
        self.publish(publisher, request_of(b"1"))
        self.assertIsNone(publisher.rejection("s"))
        self.api.streams["s"] = "ACTIVE"
        publisher = self.start()
        self.publish(publisher, request_of(b"x" * (10 * MIB)))
        self.assertIsNone(publisher.rejection("s"))

    def test_deleted_stream(self) -> None:
        """A stream that is deleted later is forgotten, and there again when it is made again."""
        publisher = self.start()
        self.assertEqual(self.publish(publisher, request_of(b"1")), [None])
        del self.api.streams["s"]
        self.assertEqual(
            self.publish(publisher, request_of(b"2")),
            ["1 of 1 events failed: stream s does not exist"],
        )
        self.api.streams["s"] = "ACTIVE"
        self.assertEqual(self.publish(publisher, request_of(b"3")), [None])

    def test_autocreate(self) -> None:
        """Asked to, a missing stream is made, and its events wait until it is active."""
        self.api.made = ["CREATING", "ACTIVE"]
        publisher = self.start(stream_autocreate=True, stream_probe_interval_ms=20)
        self.assertEqual(self.publish(publisher, request_of(b"1", stream="new")), [None])
        self.assertEqual([made["StreamName"] for made in self.api.created], ["new"])
        self.assertEqual(self.api.asked["new"], 3)

    def test_deleted_and_made_again(self) -> None:
        """Asked to, a stream that was deleted is made again, and no event for it fails."""
        publisher = self.start(stream_autocreate=True, stream_probe_interval_ms=20)
        self.assertEqual(self.publish(publisher, request_of(b"1")), [None])
        del self.api.streams["s"]
        self.assertEqual(self.publish(publisher, request_of(b"2")), [None])
        self.assertEqual([made["StreamName"] for made in self.api.created], ["s"])

    def test_limit_exceeded(self) -> None:
        """A stream that cannot be made for the account's limits fails by that name."""
        publisher = self.start(stream_autocreate=True, publish_timeout_ms=200)
        self.api.raising = [refusal("ResourceNotFoundException")]
        self.api.raising += [refusal("LimitExceededException")] * 10_000
        [outcome] = self.publish(publisher, request_of(b"1"))
        self.assertIn("stream s cannot be made: the account's limit", str(outcome))
        self.assertEqual(self.counted(), {"messages_undelivered": 1, "streams_limit_exceeded": 1})

    def test_too_large_for_the_stream(self) -> None:
        """An event that is too large for its stream fails by that name, alone."""
        large = b"x" * (MIB + 1)
        self.api.invalid = {large}
        outcomes = self.publish(self.start(), request_of(b"1", large), request_of(b"2"))
        size = len(large) + 16
        self.assertEqual(
            outcomes,
            [
                f"1 of 2 events failed: event too large for stream s ({size} bytes with its key)",
                None,
            ],
        )
        counted = self.counted()
        self.assertEqual(counted["message_too_large"], 1)
        self.assertNotIn("stream_throughput_exceeded", counted)

    def test_too_large_for_any(self) -> None:
        """An event over 10 MiB is not sent."""
        large = b"x" * (10 * MIB - 15)
        [outcome] = self.publish(self.start(), request_of(b"1", large))
        self.assertIn("1 of 2 events failed: event too large for Kinesis (10485760", str(outcome))
        self.assertEqual([data for _, data in self.api.requests], [[b"1"]])
        self.assertEqual(self.counted()["message_too_large"], 1)

    def test_for_ever(self) -> None:
        """What can never be delivered is told by type; what may be delivered yet is not."""
        large = b"x" * (10 * MIB - 15)
        publisher = self.start()
        request = make_request(events=[("s", b"1"), ("s", large), ("gone", b"2"), ("a/b", b"3")])
        outcome: Any
        [outcome] = publisher.publish([request])
        error = outcome.result(WAIT) if isinstance(outcome, Future) else outcome
        self.assertEqual({"s": 1, "gone": 1, "a/b": 1}, error.lasting)

    def test_a_bad_record_among_many(self) -> None:
        """Where a request is refused for a record in it, only that one's request fails."""
        self.api.invalid = {b"7"}
        requests = [request_of(b"%d" % i) for i in range(16)]
        outcomes = self.publish(self.start(), *requests)
        self.assertEqual(
            outcomes.pop(7), "1 of 1 events failed: Kinesis refused: InvalidArgumentException"
        )
        self.assertEqual(outcomes, [None] * 15)
        self.assertEqual(len(self.api.stored), 15)

    def test_not_allowed(self) -> None:
        """A refusal that will not pass fails at once by its code, without the account's names."""
        self.api.raising = [{"StreamDescriptionSummary": {"StreamStatus": "ACTIVE"}}]
        self.api.raising += [refusal("AccessDeniedException")]
        self.assertEqual(
            self.publish(self.start(), request_of(b"1")),
            ["1 of 1 events failed: Kinesis refused: AccessDeniedException"],
        )

    def test_a_broken_client(self) -> None:
        """What nobody expects fails its events and ends no thread."""
        self.publish(publisher := self.start(), request_of(b"1"))
        self.api.raising = [TypeError("no such thing")]
        self.assertEqual(
            self.publish(publisher, request_of(b"2")),
            ["1 of 1 events failed: not sent: no such thing"],
        )
        self.assertEqual(1, len(self.flushLoggedErrors(TypeError)))
        self.assertEqual(self.publish(publisher, request_of(b"3")), [None])
