"""Tests of raccoon.publisher.base.budget."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.base.budget import Room

WAIT = 20
NOW = 0.0


class RoomTests(SynchronousTestCase):
    """Bounds in events and bytes."""

    def setUp(self) -> None:
        self.room = Room(10, 100)
        self.pool = ThreadPoolExecutor()
        self.addCleanup(self.pool.shutdown)
        self.addCleanup(self.room.close)

    def test_events_are_bounded(self) -> None:
        """No more events than that are let in."""
        self.assertTrue(self.room.take(10, 1, NOW))
        self.assertFalse(self.room.take(1, 1, NOW))
        self.room.give(1, 1)
        self.assertTrue(self.room.take(1, 1, NOW))

    def test_bytes_are_bounded(self) -> None:
        """No more bytes than that are let in."""
        self.assertTrue(self.room.take(1, 100, NOW))
        self.assertFalse(self.room.take(1, 1, NOW))
        self.room.give(1, 100)
        self.assertTrue(self.room.take(1, 1, NOW))

    def test_larger_than_all(self) -> None:
        """What is larger than all the room goes alone."""
        self.assertTrue(self.room.take(50, 500, NOW))
        self.assertFalse(self.room.take(1, 1, NOW))
        self.room.give(50, 500)
        self.assertTrue(self.room.take(1, 1, NOW))
        self.assertFalse(self.room.take(50, 500, NOW))

    def test_waits_for_room(self) -> None:
        """Who finds none gets it when it is given back."""
        self.room.take(10, 10, NOW)
        taken = self.pool.submit(self.room.take, 1, 1, time.monotonic() + WAIT)
        self.room.give(10, 10)
        self.assertTrue(taken.result(WAIT))

    def test_closed(self) -> None:
        """Who waits gets none once it is closed, nor does anyone later."""
        self.room.take(10, 10, NOW)
        taken = self.pool.submit(self.room.take, 1, 1, time.monotonic() + WAIT)
        self.room.close()
        self.assertFalse(taken.result(WAIT))
        self.room.give(10, 10)
        self.assertFalse(self.room.take(1, 1, NOW))

    def test_wait_until_empty(self) -> None:
        """Tells whether all was given back in time."""
        self.assertTrue(self.room.wait_until_empty(0))
        self.room.take(1, 1, NOW)
        self.assertFalse(self.room.wait_until_empty(0))
        empty = self.pool.submit(self.room.wait_until_empty, WAIT)
        self.room.give(1, 1)
        self.assertTrue(empty.result(WAIT))
