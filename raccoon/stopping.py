"""A stop that always ends: each step is guarded and has a deadline."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, TimeoutError, inlineCallbacks, maybeDeferred
from twisted.logger import Logger

_log = Logger()


class StopSteps:
    """Runs the steps of a stop. One that raises or hangs is logged, and passed over.

    Args:
        reactor: gives time.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self.passed_over: list[str] = []

    @inlineCallbacks
    def run(self, name: str, seconds: float, call: Callable[..., Any], *args: Any) -> Any:
        """Run one step.

        Args:
            name: what it does, such as `draining the queue`.
            seconds: it may take, if it returns a Deferred.
            call: the step.
            args: for it.

        Returns:
            Fires with the step's result, or with None where it was passed over.
        """
        step: Deferred[Any] = maybeDeferred(call, *args)
        try:
            result = yield step.addTimeout(seconds, self._reactor)
        except TimeoutError:
            _log.error(
                "stopping: {name} did not end within {seconds} s: passed over",
                name=name,
                seconds=seconds,
            )
        except Exception:
            _log.failure("stopping: {name} failed: passed over", name=name)
        else:
            return result
        self.passed_over.append(name)
        return None


def end_within(
    seconds: float, left: Callable[[], str], end: Callable[[int], object] = os._exit
) -> threading.Thread:
    """End the process after so many seconds, whatever hangs in it: a thread, or the reactor.

    Args:
        seconds: after which it ends.
        left: says what was not delivered; called in a thread of its own.
        end: ends the process with an exit code.

    Returns:
        The thread that waits, which holds up no end of the process.
    """

    def watch() -> None:
        time.sleep(seconds)
        try:
            _log.critical(
                "the stop did not end within {seconds} s: the process is ended now; {left}",
                seconds=seconds,
                left=left(),
            )
        finally:
            end(1)

    thread = threading.Thread(target=watch, name="stop-watch", daemon=True)
    thread.start()
    return thread
