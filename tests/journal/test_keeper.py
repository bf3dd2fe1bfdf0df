"""Tests of raccoon.journal.keeper."""

from __future__ import annotations

import threading
import time
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from raccoon.journal.keeper import Keeper, KeeperEndedError
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics, ThreadlessClock


class KeeperTests(SynchronousTestCase):
    """With its thread."""

    def setUp(self) -> None:
        self.clock = ThreadlessClock()
        self.supervisor = Supervisor(FakeMetrics())
        self.keeper = Keeper(self.clock, self.supervisor)
        self.addCleanup(self.keeper.stop)

    def wait_for(self, done: Deferred[Any]) -> None:
        """Turn the reactor until it has fired."""
        until = time.monotonic() + 20
        while not done.called:
            self.assertLess(time.monotonic(), until)
            time.sleep(0.001)
            self.clock.advance(0)

    def test_in_order(self) -> None:
        """Calls run one after the other in the thread; results come in the reactor's."""
        self.keeper.start()
        names: list[str] = []
        for _ in range(3):
            done = self.keeper.call(lambda: names.append(threading.current_thread().name))
        self.wait_for(done)
        self.assertEqual(["journal-keeper"] * 3, names)

    def test_call_fails(self) -> None:
        """What a call raises is its own failure; the next one runs."""
        self.keeper.start()
        failing = self.keeper.call(int, "x")
        working = self.keeper.call(int, "1")
        self.wait_for(working)
        self.failureResultOf(failing, ValueError)
        self.assertEqual(1, self.successResultOf(working))

    def test_ends_after_all(self) -> None:
        """If the thread ends, calls that wait and later ones fail, and readiness says why."""

        def run() -> None:
            raise ZeroDivisionError("broken")

        keeper = Keeper(self.clock, self.supervisor)
        self.patch(keeper, "_run", run)
        thread = self.supervisor.thread("journal-keeper", run, keeper._failed)
        waits = keeper.call(int, "1")
        thread.start()
        thread.join()
        later = keeper.call(int, "1")
        self.clock.advance(0)
        for done in (waits, later):
            self.failureResultOf(done, KeeperEndedError)
        self.assertEqual(["journal-keeper failed: broken"], self.supervisor.reasons())
        self.flushLoggedErrors(ZeroDivisionError)

    def test_stopped(self) -> None:
        """After the stop nothing runs that did not wait before."""
        before = self.keeper.call(int, "1")
        self.keeper.stop()
        after = self.keeper.call(int, "2")
        self.keeper.start()
        self.wait_for(before)
        self.keeper._thread.join(20)
        self.clock.advance(0)
        self.assertNoResult(after)
