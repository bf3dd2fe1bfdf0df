"""Tests of raccoon.publisher.base.budget."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.base.budget import InFlightBudget

WAIT = 20
NOW = 0.0


class InFlightBudgetTests(SynchronousTestCase):
    """Bounds in events and bytes."""

    def setUp(self) -> None:
        self.budget = InFlightBudget(10, 100)
        self.pool = ThreadPoolExecutor()
        self.addCleanup(self.pool.shutdown)
        self.addCleanup(self.budget.close)

    def test_events_are_bounded(self) -> None:
        """No more events than that are let in."""
        self.assertTrue(self.budget.acquire(10, 1, NOW))
        self.assertFalse(self.budget.acquire(1, 1, NOW))
        self.budget.release(1, 1)
        self.assertTrue(self.budget.acquire(1, 1, NOW))

    def test_bytes_are_bounded(self) -> None:
        """No more bytes than that are let in."""
        self.assertTrue(self.budget.acquire(1, 100, NOW))
        self.assertFalse(self.budget.acquire(1, 1, NOW))
        self.budget.release(1, 100)
        self.assertTrue(self.budget.acquire(1, 1, NOW))

    def test_larger_than_all(self) -> None:
        """What is larger than all the room goes alone."""
        self.assertTrue(self.budget.acquire(50, 500, NOW))
        self.assertFalse(self.budget.acquire(1, 1, NOW))
        self.budget.release(50, 500)
        self.assertTrue(self.budget.acquire(1, 1, NOW))
        self.assertFalse(self.budget.acquire(50, 500, NOW))

    def test_waits_for_room(self) -> None:
        """Who finds none gets it when it is given back."""
        self.budget.acquire(10, 10, NOW)
        taken = self.pool.submit(self.budget.acquire, 1, 1, time.monotonic() + WAIT)
        self.budget.release(10, 10)
        self.assertTrue(taken.result(WAIT))

    def test_closed(self) -> None:
        """Who waits gets none once it is closed, nor does anyone later."""
        self.budget.acquire(10, 10, NOW)
        taken = self.pool.submit(self.budget.acquire, 1, 1, time.monotonic() + WAIT)
        self.budget.close()
        self.assertFalse(taken.result(WAIT))
        self.budget.release(10, 10)
        self.assertFalse(self.budget.acquire(1, 1, NOW))

    def test_wait_until_empty(self) -> None:
        """Tells whether all was given back in time."""
        self.assertTrue(self.budget.wait_until_empty(0))
        self.budget.acquire(1, 1, NOW)
        self.assertFalse(self.budget.wait_until_empty(0))
        empty = self.pool.submit(self.budget.wait_until_empty, WAIT)
        self.budget.release(1, 1)
        self.assertTrue(empty.result(WAIT))
