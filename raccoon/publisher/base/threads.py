"""Threads that do not hold up the end of the process, and do not end in silence."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from raccoon.supervision import Supervisor

_PAUSE_AFTER_FAILURE = 0.1


class LoopThread:
    """A thread that repeats a call until it is stopped, whether the call fails or not.

    Args:
        supervisor: told of a call that failed, and of the next that succeeds.
        name: of the thread.
        call: is what waits for the next thing to do, for a bounded time.
        failed: called with what ended the thread, if anything ever does.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        name: str,
        call: Callable[[], object],
        failed: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._supervisor = supervisor
        self._name = name
        self._call = call
        self._stopped = threading.Event()
        self._thread = supervisor.thread(name, self._run, failed)

    def start(self) -> None:
        """Start it."""
        self._thread.start()

    def stop(self) -> None:
        """Let it end after the call that it makes; does not wait for it."""
        self._stopped.set()

    def wait(self, seconds: float) -> None:
        """For the call itself: wait so long, or until the thread is stopped."""
        self._stopped.wait(seconds)

    def join(self, timeout: float) -> None:
        """Wait for its end, at most so many seconds; not where it was never started."""
        if self._thread.ident is not None:
            self._thread.join(timeout)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._call()
            except Exception as error:
                self._supervisor.loop_failed(self._name, error)
                self._stopped.wait(_PAUSE_AFTER_FAILURE)
            else:
                self._supervisor.loop_succeeded(self._name)


class DaemonThreads:
    """Up to a number of threads that run calls in the order in which they come.

    For calls that wait for a peer which may be dead, and cannot be ended from outside: the threads
    of a ThreadPoolExecutor are waited for when the process ends. A thread is started when a call
    comes and no other is free.

    Args:
        supervisor: told of a call that raised; its thread goes on.
        count: threads at most.
        name: of each, before its number.
    """

    def __init__(self, supervisor: Supervisor, count: int, name: str) -> None:
        self._supervisor = supervisor
        self._count = count
        self._name = name
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._stopped = False

    def submit(self, call: Callable[..., object], *args: Any) -> None:
        """Run a call when a thread is free; once they are stopped, in the thread that submits."""
        with self._lock:
            stopped = self._stopped
            if not stopped:
                self._calls.put(partial(call, *args))
                self._start_another()
        if stopped:
            self._guard(partial(call, *args))

    def stop(self) -> None:
        """End them after the calls that wait; does not wait for it."""
        with self._lock:
            self._stopped = True
            for _ in self._threads:
                self._calls.put(None)

    def join(self, deadline: float) -> None:
        """Wait for their end, until `deadline` in seconds of the monotonic clock."""
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))

    def _start_another(self) -> None:
        if self._idle.acquire(blocking=False) or len(self._threads) >= self._count:
            return
        name = f"{self._name}-{len(self._threads)}"
        thread = self._supervisor.thread(name, self._run)
        try:
            thread.start()
        except RuntimeError as error:  # the system has no more: those that run have to do
            if not self._threads:
                raise
            self._supervisor.failed(self._name, error)
        else:
            self._threads.append(thread)

    def _run(self) -> None:
        while (call := self._next()) is not None:
            self._guard(call)
            del call  # and what it holds

    def _next(self) -> Callable[[], object] | None:
        try:
            return self._calls.get_nowait()
        except queue.Empty:
            self._idle.release()
            return self._calls.get()

    def _guard(self, call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            self._supervisor.failed(self._name, error)
