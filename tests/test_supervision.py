"""Tests of raccoon.supervision."""

from __future__ import annotations

import threading
import weakref

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics


class SupervisorCase(SynchronousTestCase):
    """With a supervisor on a clock of its own."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.metrics = FakeMetrics()
        self.supervisor = Supervisor(self.metrics, self.clock.seconds)

    def failures(self, name: str) -> float:
        """How often something was counted as failed."""
        return self.metrics.total("supervised_failures_total", (name,))


class ThreadTests(SupervisorCase):
    """Threads."""

    def test_fails(self) -> None:
        """A thread that raises is logged, counted, and leaves the service not ready for good."""
        told: list[BaseException] = []
        error = ValueError("boom")

        def run() -> None:
            raise error

        thread = self.supervisor.thread("writer", run, told.append)
        thread.start()
        thread.join()
        self.assertEqual([error], told)
        self.clock.advance(10_000)
        self.assertEqual(["writer failed: boom"], self.supervisor.reasons())
        self.assertEqual(1, self.failures("writer"))
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_exits(self) -> None:
        """Not even SystemExit ends a thread in silence."""

        def run() -> None:
            raise SystemExit(3)

        thread = self.supervisor.thread("writer", run)
        thread.start()
        thread.join()
        self.assertEqual(["writer failed: 3"], self.supervisor.reasons())
        self.assertEqual(1, len(self.flushLoggedErrors(SystemExit)))

    def test_cleanup_fails(self) -> None:
        """What fails while a thread's requests get their outcomes is told, too."""

        def run(error: BaseException | None = None) -> None:
            raise ValueError("boom")

        thread = self.supervisor.thread("writer", run, run)
        thread.start()
        thread.join()
        self.assertEqual(
            ["writer failed: boom", "writer cleanup failed: boom"], self.supervisor.reasons()
        )
        self.assertEqual(2, len(self.flushLoggedErrors(ValueError)))

    def test_ends(self) -> None:
        """A thread that returns has done what it should."""
        done = threading.Event()
        thread = self.supervisor.thread("writer", done.set, self.fail)
        self.assertTrue(thread.daemon)
        self.assertEqual("writer", thread.name)
        thread.start()
        thread.join()
        self.assertTrue(done.is_set())
        self.assertEqual([], self.supervisor.reasons())


class LoopTests(SupervisorCase):
    """Loops."""

    def test_goes_on(self) -> None:
        """A loop survives its failures, and counts as failed until a run succeeds."""
        broken = True
        runs = []

        def run() -> None:
            runs.append(self.clock.seconds())
            if broken:
                raise OSError(24, "too many open files")

        loop = self.supervisor.loop("gauges", run, self.clock)
        loop.start(1.0)
        self.clock.pump([1.0, 1.0])
        self.assertEqual([0.0, 1.0, 2.0], runs)
        self.assertEqual(
            ["gauges failed: [Errno 24] too many open files"], self.supervisor.reasons()
        )
        self.assertEqual(3, self.failures("gauges"))
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)), "logged once")
        broken = False
        self.clock.advance(1.0)
        self.assertEqual([], self.supervisor.reasons())
        loop.stop()
        self.clock.advance(1.0)
        self.assertEqual(4, len(runs))
        self.assertFalse(loop.running)

    def test_deferred(self) -> None:
        """The next run waits for a Deferred, whose failure is that of the run."""
        waited: Deferred[None] = Deferred()
        answers = [waited, fail(ValueError("late")), None]
        loop = self.supervisor.loop("tidy", lambda: answers.pop(0), self.clock)
        loop.start(1.0)
        self.clock.advance(5.0)
        self.assertEqual(2, len(answers))
        waited.callback(None)
        self.clock.advance(1.0)
        self.assertEqual(["tidy failed: late"], self.supervisor.reasons())
        self.clock.advance(1.0)
        self.assertEqual([], self.supervisor.reasons())
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))


class CallbackTests(SupervisorCase):
    """Callbacks."""

    def test_fails(self) -> None:
        """A callback that raises leaves the service not ready for 30 s, and is logged once."""

        def call(number: int) -> int:
            return 1 // number

        self.assertEqual(1, self.supervisor.call("collect", call, 1))
        self.assertEqual([], self.supervisor.reasons())
        self.assertIsNone(self.supervisor.call("collect", call, 0))
        self.clock.advance(29)
        self.assertIsNone(self.supervisor.call("collect", call, 0))
        self.clock.advance(29)
        reason = "collect failed: integer division or modulo by zero"
        self.assertEqual([reason], self.supervisor.reasons())
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual(2, self.failures("collect"))
        self.clock.advance(1)
        self.assertEqual([], self.supervisor.reasons())

    def test_frames_are_let_go_of(self) -> None:
        """The log's event keeps nothing that the failed call had in its hands."""

        class Held:
            pass

        held = Held()
        kept = weakref.ref(held)

        def call(held: Held) -> None:
            raise ValueError("boom")

        self.supervisor.call("collect", call, held)
        del held
        (failure,) = self.flushLoggedErrors(ValueError)
        self.assertIsNone(kept())
        self.assertIn("in call", failure.getTraceback())

    def test_without_a_word(self) -> None:
        """An error that says nothing has its type's name for a reason."""
        self.supervisor.failed("collect", KeyError())
        self.assertEqual(["collect failed: KeyError"], self.supervisor.reasons())
        self.flushLoggedErrors(KeyError)
