"""Errors that nobody expects, in each place of the Pub/Sub publisher that has requests."""

from __future__ import annotations

import time
from operator import attrgetter

from raccoon.errors import PublishError
from raccoon.publisher.base import threads
from raccoon.publisher.pubsub import publisher as pubsub
from raccoon.publisher.pubsub.client import PubSubClient
from tests.fakes import make_request
from tests.integration.waiting import wait_until
from tests.publisher.injection import Injected, InjectionMixin
from tests.publisher.pubsub.case import PubSubTestCase

# What raises once, whether a request may fail for it, and whether SystemExit is no end of a thread.
PLACES = (
    ("_topics.ask", True, True),
    ("_topics._run", True, True),
    ("_topics._check", True, True),
    ("_batcher.add", True, True),
    ("_keys.enter", True, True),
    ("_senders.submit", True, True),
    ("_client.publish", True, True),
    ("_publish_batch", True, True),
    ("_accounts._count", False, False),
    ("_batcher.send_due", False, False),
)


class InjectionTests(InjectionMixin, PubSubTestCase):
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
        self.api.closed = False
        self.start(EVENT_PARTITION_KEY=key, PUBLISH_DELAY_THRESHOLD_MS="1")
        owner, _, name = path.rpartition(".")
        target = attrgetter(owner)(self.publisher) if owner else self.publisher
        raised = self.raise_once(target, name, error)
        requests = [make_request(events=[("click", b"1"), ("view", b"2")]), make_request()]
        outcomes = [*self.publish(*requests), *self.publish(make_request())]
        wait_until(raised.is_set, case, 5)
        self.check_told(case, error)
        if not may_fail:
            self.assertEqual([None] * 3, outcomes, case)
        self.assertEqual([None], self.publish(make_request()), case)
        self.assertTrue(self.publisher._accounts.wait_until_empty(5), case)
        began = time.monotonic()
        self.assertEqual(0, self.publisher.close(5), case)
        self.assertLess(time.monotonic() - began, 1, case)

    def test_gauge(self) -> None:
        """That Pub/Sub answers cannot be told: events are delivered all the same."""
        self.start()
        reachability = self.publisher._reachability
        reachability.known = None
        self.raise_once(reachability, "_tell")
        self.assertEqual([None], self.publish(make_request()))
        self.check_told("gauge")

    def test_prober(self) -> None:
        """What ends a look for Pub/Sub does not end the looking."""
        looked: list[str] = []

        def probe(_: PubSubClient, path: str) -> None:
            looked.append(path)
            raise Injected("injected")

        self.patch(pubsub, "_PROBE_EVERY", 0)
        self.patch(PubSubClient, "probe", probe)
        self.start()
        wait_until(lambda: len(looked) > 2, "more of them", 5)
        self.check_told("prober")
        self.assertEqual(["pubsub-prober failed: injected"], self.publisher._supervisor.reasons())

    def test_close(self) -> None:
        """A client that cannot be closed is told; what is left is counted."""
        self.start()
        self.publish(make_request())
        self.api.gate.clear()
        self.api.fail_close = Injected("injected")
        outcomes = self.publish_later(make_request(events=[("click", b"1")] * 2))
        self.assertEqual(2, self.publisher.close(0))
        (outcome,) = self.wait(outcomes)
        self.check_failed(outcome, 2, 2, "the server is shutting down")
        self.check_told("close")

    def test_keeper_ends(self) -> None:
        """Without it nothing that waits would be sent: all fails, and all that comes, at once."""
        self.start(PUBLISH_DELAY_THRESHOLD_MS="1000000", PUBLISH_TIMEOUT_MS="1000000")
        self.publish_later(make_request())
        raised = self.raise_once(self.publisher._batcher, "send_due", SystemExit)
        waiting = self.publish_later(make_request())
        with self.publisher._batcher._opened:
            self.publisher._batcher._opened.notify()  # its next turn
        self.assertTrue(raised.wait(5))
        for outcome in [*self.wait(waiting), *self.publish(make_request())]:
            assert isinstance(outcome, PublishError)
            self.assertEqual("1 of 1 events failed: the publisher failed: injected", str(outcome))
            self.assertEqual({}, outcome.lasting)
        self.check_told("keeper", SystemExit)
        self.assertIn("pubsub-keeper failed: injected", self.publisher._supervisor.reasons())
        self.assertEqual(0, self.publisher.close(5))
