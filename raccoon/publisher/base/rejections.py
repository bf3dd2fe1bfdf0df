"""Event types of which it is known for a while that no event can be delivered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_SECONDS = 5.0
_REMEMBERED = 10_000


class Rejections:
    """What IRejectingPublisher answers from. Safe from any thread.

    A rejection lapses, so that a topic that is made later takes events a few seconds later: the
    next request finds out again.

    Args:
        seconds: how long a rejection holds.
        remembered: event types at most; the oldest is forgotten.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        seconds: float = _SECONDS,
        remembered: int = _REMEMBERED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._remembered = remembered
        self._clock = clock
        self._lock = threading.Lock()
        self._rejected: dict[str, tuple[float, str]] = {}

    def reason(self, event_type: str) -> str | None:
        """Why no event of this type can be delivered now; see IRejectingPublisher."""
        rejected = self._rejected.get(event_type)
        if rejected is None or rejected[0] <= self._clock():
            return None
        return rejected[1]

    def reject(self, event_type: str, reason: str) -> None:
        """An event of this type failed, as each would; does not prolong what still holds."""
        now = self._clock()
        with self._lock:
            rejected = self._rejected.get(event_type)
            if rejected is not None and rejected[0] > now:
                return
            self._rejected.pop(event_type, None)
            if len(self._rejected) >= self._remembered:
                del self._rejected[next(iter(self._rejected))]
            self._rejected[event_type] = now + self._seconds, reason

    def accept(self, event_type: str) -> None:
        """An event of this type was delivered."""
        if event_type in self._rejected:
            with self._lock:
                self._rejected.pop(event_type, None)
