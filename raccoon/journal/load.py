"""How busy the reactor is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

_INTERVAL_SECONDS = 0.1
# Where the reactor shares one processor, or one interpreter, with other threads, its share of a
# saturated one is about 0.6.
_SATURATED = 0.5


class ReactorLoad:
    """Measures the processor time of the reactor's thread; other threads do not count.

    Args:
        wall: a monotonic clock.
        cpu: the processor seconds that the reactor's thread has used.
    """

    def __init__(
        self, wall: Callable[[], float] = time.monotonic, cpu: Callable[[], float] | None = None
    ) -> None:
        self._wall = wall
        self._cpu = cpu or _clock_of(threading.main_thread())
        self._since, self._used = wall(), self._cpu()
        self._share = 0.0

    def share(self) -> float:
        """The reactor's load over at least the last 0.1 s, from 0 (idle) to 1 (saturated)."""
        lasted = self._wall() - self._since
        if lasted >= _INTERVAL_SECONDS:
            used = self._cpu() - self._used
            self._share = min(used / lasted / _SATURATED, 1.0)
            self._since += lasted
            self._used += used
        return self._share


def _clock_of(thread: threading.Thread) -> Callable[[], float]:
    assert thread.ident is not None
    return partial(time.clock_gettime, time.pthread_getcpuclockid(thread.ident))
