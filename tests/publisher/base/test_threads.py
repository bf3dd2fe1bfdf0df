"""Threads that do not hold up the end of the process."""

from __future__ import annotations

import threading
import time

from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.base import threads
from raccoon.publisher.base.threads import DaemonThreads

WAIT = 20  # seconds that no test should ever wait


class DaemonThreadsTests(SynchronousTestCase):
    """DaemonThreads."""

    def test_calls(self) -> None:
        """Calls run in the pool's daemon threads, those that wait at its stop as well."""
        pool = DaemonThreads(1, "pool")
        pool.start()
        ran: list[tuple[int, str, bool]] = []

        def call(number: int) -> None:
            thread = threading.current_thread()
            ran.append((number, thread.name, thread.daemon))

        for number in range(3):
            pool.submit(call, number)
        pool.stop()
        pool.join(time.monotonic() + WAIT)
        self.assertEqual(ran, [(number, "pool-0", True) for number in range(3)])

    def test_a_call_that_raises(self) -> None:
        """A call that raises is logged, and its thread goes on."""
        pool = DaemonThreads(1, "pool")
        pool.start()
        went_on = threading.Event()
        with self.assertLogs(threads.__name__) as logs:
            pool.submit(int, "no number")
            pool.submit(went_on.set)
            pool.stop()
            pool.join(time.monotonic() + WAIT)
        self.assertTrue(went_on.is_set())
        self.assertIn("no number", logs.output[0])

    def test_join_has_an_end(self) -> None:
        """A call that does not end is waited for until the deadline."""
        pool = DaemonThreads(1, "pool")
        pool.start()
        stuck = threading.Event()
        self.addCleanup(stuck.set)
        pool.submit(stuck.wait, WAIT)
        pool.stop()
        began = time.monotonic()
        pool.join(began + 0.01)
        self.assertLess(time.monotonic() - began, WAIT / 2)
