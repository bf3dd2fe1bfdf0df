"""Threads, loops and callbacks that must not end in silence."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from raccoon.interfaces import IMetrics

_CALLBACK_SECONDS = 30.0
_REASON_LENGTH = 200


class Supervisor:
    """Logs and counts each failure, and says why the service is not ready because of it.

    A thread that failed has ended for good, and so has the readiness of its process. A loop goes
    on: it counts as failed until a run of it succeeds. A callback counts as failed for 30 seconds.
    The traceback is logged once for as long as something counts as failed.

    Safe from any thread.

    Args:
        metrics: counts supervised_failures_total.
        seconds: a monotonic clock.
    """

    _logger = Logger()

    def __init__(self, metrics: IMetrics, seconds: Callable[[], float] = time.monotonic) -> None:
        self._metrics = metrics
        self._seconds = seconds
        self._lock = threading.Lock()
        # By name: why it failed, and when that is forgotten; None: never.
        self._failed: dict[str, tuple[str, float | None]] = {}

    def reasons(self) -> list[str]:
        """Why the service is not ready: one sentence for each name that counts as failed."""
        with self._lock:
            self._forget_old()
            return [f"{name} failed: {reason}" for name, (reason, _) in self._failed.items()]

    def thread(
        self,
        name: str,
        run: Callable[[], object],
        failed: Callable[[BaseException], object] | None = None,
    ) -> threading.Thread:
        """A daemon thread, to be started by the caller.

        Args:
            name: of the thread, in logs, metrics and /readyz.
            run: its body. It raises nothing that the thread is to survive.
            failed: called in the thread with what `run` raised: it gives an outcome to each request
                that waits for this thread, and sees to it that none does from now on.
        """

        def supervised() -> None:
            try:
                run()
            except BaseException as error:
                self._note(name, error, None)
                if failed is not None:
                    self.call(f"{name} cleanup", failed, error)

        return threading.Thread(target=supervised, name=name, daemon=True)

    def loop(self, name: str, call: Callable[[], object], clock: Any) -> SupervisedLoop:
        """A call that is repeated whether it fails or not.

        Args:
            name: of the loop, in logs, metrics and /readyz.
            call: may return a Deferred: the next run waits for it.
            clock: the reactor.
        """
        return SupervisedLoop(self, name, call, clock)

    def call(self, name: str, call: Callable[..., Any], *args: Any) -> Any:
        """Give what `call(*args)` returns, or None where it raised."""
        try:
            return call(*args)
        except Exception as error:
            self.failed(name, error)
            return None

    def failed(self, name: str, error: BaseException | Failure) -> None:
        """A callback failed; who calls this goes on."""
        self._note(name, error, _CALLBACK_SECONDS)

    def loop_failed(self, name: str, error: BaseException | Failure) -> None:
        """A run of a loop failed; for loops that `loop` cannot make."""
        self._note(name, error, None)

    def loop_succeeded(self, name: str) -> None:
        """A run of a loop succeeded."""
        if name in self._failed:
            with self._lock:
                self._failed.pop(name, None)
            self._logger.info("{name} works again", name=name)

    def _note(self, name: str, error: BaseException | Failure, lasts: float | None) -> None:
        failure = error if isinstance(error, Failure) else Failure(error)
        reason = failure.getErrorMessage()[:_REASON_LENGTH] or type(failure.value).__name__
        with self._lock:
            self._forget_old()
            known = name in self._failed
            until = None if lasts is None else self._seconds() + lasts
            self._failed[name] = reason, until
        self._metrics.count("supervised_failures_total", 1, (name,))
        if not known:
            self._logger.failure("{name} failed", failure=failure, name=name)
        # Who keeps the log's event is not to keep what the frames hold: a request may be ended by
        # the last reference to it.
        failure.cleanFailure()

    def _forget_old(self) -> None:
        now = self._seconds()
        for name, (_, until) in list(self._failed.items()):
            if until is not None and until <= now:
                del self._failed[name]


class SupervisedLoop:
    """A LoopingCall that goes on after a failure; made by `Supervisor.loop`."""

    def __init__(
        self, supervisor: Supervisor, name: str, call: Callable[[], object], clock: Any
    ) -> None:
        self._supervisor = supervisor
        self._name = name
        self._call = call
        self._loop = LoopingCall(self._run)
        self._loop.clock = clock

    @property
    def running(self) -> bool:
        """Whether it was started and not stopped."""
        return bool(self._loop.running)

    def start(self, seconds: float, now: bool = True) -> None:
        """Call every so many seconds, for the first time at once or after as many."""
        self._loop.start(seconds, now)

    def stop(self) -> None:
        """Call no more."""
        if self._loop.running:
            self._loop.stop()

    def _run(self) -> Deferred[None]:
        done: Deferred[Any] = maybeDeferred(self._call)
        done.addCallbacks(self._succeeded, self._failed)
        return done

    def _succeeded(self, _: object) -> None:
        self._supervisor.loop_succeeded(self._name)

    def _failed(self, failure: Failure) -> None:
        self._supervisor.loop_failed(self._name, failure)
