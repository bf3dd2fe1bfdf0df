"""Looking for streams and making them, on a Kinesis in memory and without waiting."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import attrs
from botocore.exceptions import EndpointConnectionError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from raccoon.config import KinesisSettings
from raccoon.publisher.base.delivery import Failure
from raccoon.publisher.kinesis import streams as kinesis_streams
from raccoon.publisher.kinesis.client import KinesisClient
from raccoon.publisher.kinesis.streams import StreamCheck, full_jitter
from tests.publisher.kinesis.fakes import FakeKinesis, refusal

DEADLINE = 60.0


class CutOff(threading.Event):
    """An event whose waits are remembered and pass at once, on the test's clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.waits: list[float] = []
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        self._clock.advance(timeout)
        return self.is_set()


class CheckTests(SynchronousTestCase):
    """StreamCheck.check."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.patch(kinesis_streams, "time", SimpleNamespace(monotonic=self.clock.seconds))
        self.patch(kinesis_streams, "full_jitter", lambda attempts: 2.0**attempts)
        self.api = FakeKinesis()
        self.cut_off = CutOff(self.clock)
        self.announced: list[bool] = []

    def check(self, **options: Any) -> tuple[Failure | None, bool]:
        """What is found about the stream `s`."""
        settings = attrs.evolve(KinesisSettings(), **options)
        check = StreamCheck(
            KinesisClient(self.api),
            settings,
            lambda reachable, reason: self.announced.append(reachable),
            self.cut_off,
        )
        return check.check("s", DEADLINE)

    def assert_fails(self, found: tuple[Failure | None, bool], reason: str, counter: str) -> None:
        """It fails so."""
        failure, _ = found
        assert failure is not None
        self.assertEqual((failure.reason, failure.counter), (reason, counter))

    def test_there(self) -> None:
        """A stream that is active or being resharded is there."""
        for status in ("ACTIVE", "UPDATING"):
            self.api.streams["s"] = status
            self.assertEqual(self.check(), (None, True))
        self.assertEqual(self.announced, [True, True])

    def test_missing(self) -> None:
        """A missing one fails, is not made, and that holds for a while."""
        found = self.check()
        self.assert_fails(found, "stream s does not exist", "kinesis_unknown_stream_failure_total")
        self.assertTrue(found[1])
        self.assertEqual(self.api.created, [])

    def test_made(self) -> None:
        """Asked to, it makes a missing one in its mode, and waits until it is active."""
        self.api.made = ["CREATING", "CREATING", "ACTIVE"]
        found = self.check(
            stream_autocreate=True,
            stream_mode="PROVISIONED",
            stream_shards=7,
            stream_probe_interval_ms=3000,
        )
        self.assertEqual(found, (None, True))
        [created] = self.api.created
        self.assertEqual(created["StreamModeDetails"], {"StreamMode": "PROVISIONED"})
        self.assertEqual(created["ShardCount"], 7)
        self.assertEqual(self.cut_off.waits, [3.0, 3.0, 3.0])

    def test_made_and_not_seen_yet(self) -> None:
        """A stream that was just made may be unknown for a moment: it is not made twice."""
        missing = refusal("ResourceNotFoundException")
        self.api.raising = [missing, {}, missing, missing]
        self.api.streams["s"] = "ACTIVE"
        self.assertEqual(self.check(stream_autocreate=True), (None, True))
        self.assertEqual(len(self.cut_off.waits), 3)

    def test_made_by_another(self) -> None:
        """If another makes it meanwhile, it is waited for all the same."""
        self.api.raising = [
            refusal("ResourceNotFoundException"),
            refusal("ResourceInUseException"),
        ]
        self.api.streams["s"] = ["CREATING", "ACTIVE"]
        self.assertEqual(self.check(stream_autocreate=True), (None, True))

    def test_in_the_making(self) -> None:
        """A stream that another is making is waited for, whether or not we may make any."""
        self.api.streams["s"] = ["CREATING", "ACTIVE"]
        self.assertEqual(self.check(), (None, True))
        self.assertEqual(self.cut_off.waits, [1.0])

    def test_never_active(self) -> None:
        """At the deadline the wait ends, and the next who asks waits again."""
        self.api.streams["s"] = "CREATING"
        found = self.check()
        self.assert_fails(found, "stream s is not active yet, retry", "")
        self.assertFalse(found[1])
        self.assertLessEqual(self.clock.seconds(), DEADLINE)

    def test_being_deleted(self) -> None:
        """A stream that is being deleted is as good as missing."""
        self.api.streams["s"] = "DELETING"
        self.assert_fails(
            self.check(), "stream s is being deleted", "kinesis_unknown_stream_failure_total"
        )

    def test_may_not_ask(self) -> None:
        """Who may not ask for a stream may still be allowed to publish to it."""
        self.api.raising = [refusal("AccessDeniedException")]
        self.assertEqual(self.check(), (None, True))

    def test_limit_exceeded(self) -> None:
        """Over the account's limits it tries for ten seconds, then fails by that name."""
        self.api.raising = [refusal("ResourceNotFoundException")]
        self.api.raising += [refusal("LimitExceededException")] * 20
        found = self.check(stream_autocreate=True)
        self.assert_fails(
            found,
            "stream s cannot be made: the account's limit of streams or shards"
            " (LimitExceededException)",
            "kinesis_streams_limit_exceeded_total",
        )
        self.assertEqual(self.clock.seconds(), 10)

    def test_limit_for_a_moment(self) -> None:
        """Where others' streams were in the making, it is made after them."""
        self.api.raising = [refusal("ResourceNotFoundException"), refusal("LimitExceededException")]
        self.assertEqual(self.check(stream_autocreate=True), (None, True))
        self.assertEqual(len(self.api.created), 1)

    def test_may_not_make(self) -> None:
        """Another refusal to make it is named, and counted as none of these."""
        self.api.raising = [refusal("ResourceNotFoundException"), refusal("AccessDeniedException")]
        self.assert_fails(
            self.check(stream_autocreate=True),
            "stream s cannot be made: AccessDeniedException",
            "",
        )

    def test_no_answer_for_a_while(self) -> None:
        """While Kinesis is unreachable it asks again, ever more rarely."""
        absent = EndpointConnectionError(endpoint_url="http://kinesis.test")
        self.api.raising = [absent, absent, refusal("InternalFailure", 500)]
        self.api.streams["s"] = "ACTIVE"
        self.assertEqual(self.check(), (None, True))
        self.assertEqual(self.cut_off.waits, [1.0, 2.0, 4.0])
        self.assertEqual(self.announced, [False, False, True, True])

    def test_no_answer(self) -> None:
        """At the deadline that is the failure, and it does not last."""
        self.api.raising = [EndpointConnectionError(endpoint_url="http://kinesis.test")] * 30
        found = self.check()
        self.assert_fails(found, "Kinesis is unreachable", "")
        self.assertFalse(found[1])
        self.assertEqual(self.clock.seconds(), DEADLINE)

    def test_refused(self) -> None:
        """A refusal that will not pass is the failure, by its code alone."""
        self.api.raising = [refusal("ExpiredTokenException")]
        found = self.check()
        self.assert_fails(found, "stream s cannot be looked up: ExpiredTokenException", "")
        self.assertTrue(found[1])

    def test_cut_off(self) -> None:
        """Once cut off it asks nothing, and what waits for it is given up."""
        self.cut_off.set()
        failure, lasts = self.check()
        assert failure is not None
        self.assertTrue(failure.abandoned)
        self.assertFalse(lasts)
        self.assertEqual(self.api.asked.total(), 0)


class JitterTests(SynchronousTestCase):
    """full_jitter."""

    def test_bounds(self) -> None:
        """A pause is from nothing to a bound that doubles with each attempt, up to 2 seconds."""
        for attempts, bound in ((0, 0.1), (1, 0.2), (4, 1.6), (5, 2.0), (10_000, 2.0)):
            pauses = [full_jitter(attempts) for _ in range(1000)]
            self.assertGreaterEqual(min(pauses), 0)
            self.assertLess(min(pauses), bound / 10)
            self.assertLessEqual(max(pauses), bound)
            self.assertGreater(max(pauses), bound * 0.9)
