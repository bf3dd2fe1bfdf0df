"""Threads that do not hold up the end of the process, and do not end in silence."""

from __future__ import annotations

import threading
import time
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.base import threads
from raccoon.publisher.base.threads import DaemonThreads, LoopThread
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics

WAIT = 20  # seconds that no test should ever wait


class SupervisedCase(SynchronousTestCase):
    """With a supervisor."""

    def setUp(self) -> None:
        self.metrics = FakeMetrics()
        self.supervisor = Supervisor(self.metrics)

    def failures(self, name: str) -> float:
        """How often something was counted as failed."""
        return self.metrics.total("supervised_failures_total", (name,))


class DaemonThreadsTests(SupervisedCase):
    """DaemonThreads."""

    def pool(self, count: int) -> DaemonThreads:
        return DaemonThreads(self.supervisor, count, "pool")

    def test_calls(self) -> None:
        """Calls run in the pool's daemon threads, those that wait at its stop as well."""
        pool = self.pool(1)
        ran: list[tuple[int, str, bool]] = []

        def call(number: int) -> None:
            thread = threading.current_thread()
            ran.append((number, thread.name, thread.daemon))

        for number in range(3):
            pool.submit(call, number)
        pool.stop()
        pool.join(time.monotonic() + WAIT)
        self.assertEqual(ran, [(number, "pool-0", True) for number in range(3)])

    def test_as_many_threads_as_are_needed(self) -> None:
        """A thread is started where no other is free, up to the number given."""
        pool = self.pool(2)
        free, gate = threading.Semaphore(0), threading.Event()
        self.addCleanup(gate.set)

        def wait() -> None:
            free.release()
            gate.wait(WAIT)

        for _ in range(3):
            pool.submit(wait)
        for _ in range(2):
            self.assertTrue(free.acquire(timeout=WAIT))
        self.assertEqual(2, len(pool._threads))
        self.assertFalse(free.acquire(blocking=False))
        gate.set()
        pool.stop()
        pool.join(time.monotonic() + WAIT)
        self.assertTrue(free.acquire(blocking=False))

    def test_a_call_that_raises(self) -> None:
        """A call that raises is logged and counted, and its thread goes on."""
        for error in (ValueError, SystemExit):
            pool = self.pool(1)
            went_on = threading.Event()

            def call(error: type[BaseException] = error) -> None:
                raise error("boom")

            pool.submit(call)
            pool.submit(went_on.set)
            pool.stop()
            pool.join(time.monotonic() + WAIT)
            self.assertTrue(went_on.is_set())
        self.assertEqual(2, self.failures("pool"))
        self.assertEqual(["pool failed: boom"], self.supervisor.reasons())
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_after_its_stop(self) -> None:
        """A call that comes then is made at once."""
        pool = self.pool(1)
        pool.stop()
        ran: list[str] = []
        pool.submit(ran.append, "late")
        self.assertEqual(["late"], ran)

    def test_no_thread(self) -> None:
        """Where the system has no more threads those that run do the work; with none it raises."""
        pool = self.pool(2)
        gate, done = threading.Event(), threading.Event()
        self.addCleanup(gate.set)
        pool.submit(gate.wait, WAIT)

        def refuse(_: Any) -> None:
            raise RuntimeError("can't start new thread")

        self.patch(threading.Thread, "start", refuse)
        pool.submit(done.set)
        gate.set()
        self.assertTrue(done.wait(WAIT))
        pool.stop()
        self.assertRaises(RuntimeError, self.pool(1).submit, done.set)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_join_has_an_end(self) -> None:
        """A call that does not end is waited for until the deadline."""
        pool = self.pool(1)
        stuck = threading.Event()
        self.addCleanup(stuck.set)
        pool.submit(stuck.wait, WAIT)
        pool.stop()
        began = time.monotonic()
        pool.join(began + 0.01)
        self.assertLess(time.monotonic() - began, WAIT / 2)


class LoopThreadTests(SupervisedCase):
    """LoopThread."""

    def test_goes_on(self) -> None:
        """After a call that raises it goes on, and says that it works again."""
        self.patch(threads, "_PAUSE_AFTER_FAILURE", 0)
        calls: list[list[str]] = []
        ended = threading.Event()

        def call() -> None:
            calls.append(self.supervisor.reasons())
            if len(calls) == 1:
                raise ValueError("boom")
            if len(calls) == 3:
                thread.stop()
                ended.set()

        thread = LoopThread(self.supervisor, "poller", call)
        thread.start()
        self.assertTrue(ended.wait(WAIT))
        thread.join(WAIT)
        self.assertEqual([[], ["poller failed: boom"], []], calls)
        self.assertEqual(1, self.failures("poller"))
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_ends(self) -> None:
        """What ends it nevertheless is told, and it is not ready for good."""
        told: list[BaseException] = []
        error = SystemExit(3)

        def call() -> None:
            raise error

        thread = LoopThread(self.supervisor, "poller", call, told.append)
        thread.start()
        thread.join(WAIT)
        self.assertEqual([error], told)
        self.assertEqual(["poller failed: 3"], self.supervisor.reasons())
        self.assertEqual(1, len(self.flushLoggedErrors(SystemExit)))

    def test_never_started(self) -> None:
        """One that was never started is not waited for."""
        thread = LoopThread(self.supervisor, "poller", self.fail)
        thread.stop()
        thread.join(WAIT)
