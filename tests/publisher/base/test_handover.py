"""Handing over the requests of a group."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.base.handover import HandOver
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics

WAIT = 20  # seconds that no test should ever wait


class Given:
    """A request that is handed over."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def interrupted(self, error: BaseException) -> None:
        self.error = error


class HandOverTests(SynchronousTestCase):
    """HandOver."""

    def setUp(self) -> None:
        self.metrics = FakeMetrics()
        self.supervisor = Supervisor(self.metrics)

    def test_one_that_raises(self) -> None:
        """A request that cannot be handed over is interrupted, and no other."""
        for error in (ValueError("boom"), SystemExit(3)):
            given = [Given() for _ in range(3)]
            handed_over: list[Given] = []

            def hand_over(
                one: Given,
                bad: Given = given[1],
                error: BaseException = error,
                handed_over: list[Given] = handed_over,
            ) -> None:
                if one is bad:
                    raise error
                handed_over.append(one)

            group = HandOver("kafka", self.supervisor, ordered=True)
            group.each(given, given, hand_over)
            self.assertEqual([given[0], given[2]], handed_over)
            self.assertEqual([None, error, None], [one.error for one in given])
            self.assertTrue(group.wait_until_done(0))
        labels = ("kafka hand-over",)
        self.assertEqual(2, self.metrics.total("supervised_failures_total", labels))
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError, SystemExit)))

    def test_close_waits(self) -> None:
        """A group that is being handed over is waited for, but not for ever."""
        group = HandOver("kafka", self.supervisor, ordered=False)
        begun, gate = threading.Event(), threading.Event()
        self.addCleanup(gate.set)

        def hand_over(_: Given) -> None:
            begun.set()
            gate.wait(WAIT)

        with ThreadPoolExecutor(1) as pool:
            pool.submit(group.each, [], [Given()], hand_over)
            self.assertTrue(begun.wait(WAIT))
            self.assertFalse(group.wait_until_done(0))
            gate.set()
            self.assertTrue(group.wait_until_done(WAIT))
