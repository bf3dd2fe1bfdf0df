"""Errors that nobody expects, in each place of the Kinesis publisher that has requests."""

from __future__ import annotations

import time
from operator import attrgetter

from raccoon.publisher.base import threads
from raccoon.publisher.kinesis import publisher as kinesis
from tests.integration.waiting import wait_until
from tests.publisher.injection import Injected, InjectionMixin
from tests.publisher.kinesis.case import KinesisTestCase, request_of, settled

# What raises once, whether a request may fail for it, and whether SystemExit is no end of a thread.
PLACES = (
    ("_records", True, True),
    ("_outbox.add", True, True),
    ("_streams.ask", True, True),
    ("_streams._run", True, True),
    ("_streams._check", True, True),
    ("_outbox.open", True, True),
    ("_outbox.take", False, False),
    ("_senders.submit", True, True),
    ("_client.put", True, True),
    ("_attempt", True, True),
    ("_accounts._count", False, False),
)


class InjectionTests(InjectionMixin, KinesisTestCase):
    """Every request has an outcome, and the next is delivered."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(threads, "_PAUSE_AFTER_FAILURE", 0.001)

    def test_places(self) -> None:
        """Whatever raises, it is told, each request has its outcome, and the next is delivered."""
        for key in ("none", "type"):
            for path, may_fail, exits in PLACES:
                self.check(path, may_fail, key, Injected)
                if exits:
                    self.check(path, may_fail, key, SystemExit)

    def check(self, path: str, may_fail: bool, key: str, error: type[BaseException]) -> None:
        case = f"{error.__name__} in {path}, key {key}"
        publisher = self.start(key=key)
        owner, _, name = path.rpartition(".")
        raised = self.raise_once(attrgetter(owner)(publisher) if owner else publisher, name, error)
        groups = [[request_of(b"1", b"2"), request_of(b"3")], [request_of(b"4")]]
        outcomes = [settled(publisher.publish(group)) for group in groups]
        wait_until(raised.is_set, case, 5)
        self.check_told(case, error)
        if not may_fail:
            self.assertEqual([[None, None], [None]], outcomes, case)
        self.assertEqual([None], settled(publisher.publish([request_of(b"5")])), case)
        self.assertTrue(publisher._accounts.wait_until_empty(5), case)
        began = time.monotonic()
        self.assertEqual(0, publisher.close(5), case)
        self.assertLess(time.monotonic() - began, 1, case)

    def test_gauge(self) -> None:
        """That Kinesis answers cannot be told: events are delivered all the same."""
        self.raise_once(self.metrics, "gauge")
        publisher = self.start()
        self.assertEqual([None], settled(publisher.publish([request_of(b"1")])))
        self.check_told("gauge")
        self.assertTrue(publisher.reachable)

    def test_prober(self) -> None:
        """What ends a look for Kinesis does not end the looking."""
        self.patch(kinesis, "_PROBE_EVERY", 0)
        self.api.raising = [Injected("injected")]
        publisher = self.start()
        self.check_told("prober")
        wait_until(lambda: publisher._reachability.known, "the next look", 5)
        self.assertEqual([], publisher._supervisor.reasons())
        self.assertEqual([None], settled(publisher.publish([request_of(b"1")])))

    def test_close(self) -> None:
        """A client that cannot be closed is told; what is left is counted."""
        self.patch(kinesis, "_LAST_CALLS", 0.1)
        publisher = self.start()
        self.api.gate.clear()
        self.api.fail_close = Injected("injected")
        outcomes = publisher.publish([request_of(b"1", b"2")])
        self.assertEqual(2, publisher.close(0))
        self.assertEqual(["2 of 2 events failed: the server is shutting down"], settled(outcomes))
        self.check_told("close")

    def test_dispatcher_ends(self) -> None:
        """Without it nothing would be sent: all that waits fails, and all that comes, at once."""
        publisher = self.start(publish_timeout_ms=1_000_000)
        self.api.gate.clear()
        first = publisher.publish([request_of(b"1")])
        self.api.wait_for_requests(1)
        raised = self.raise_once(publisher._outbox, "take", SystemExit)
        second = publisher.publish([request_of(b"2")])
        self.assertTrue(raised.wait(5))
        reason = "1 of 1 events failed: the publisher failed: injected"
        self.assertEqual([reason] * 2, settled([*first, *second]))
        self.assertEqual([reason], settled(publisher.publish([request_of(b"3")])))
        self.check_told("dispatcher", SystemExit)
        self.assertIn("kinesis-dispatcher failed: injected", publisher._supervisor.reasons())
        self.api.gate.set()
        self.assertEqual(0, publisher.close(5))
