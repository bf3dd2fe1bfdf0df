"""Waiting with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable

_INTERVAL = 0.02


def wait_until(condition: Callable[[], object], what: str, timeout: float = 10) -> None:
    """Return once `condition` holds.

    Raises:
        AssertionError: it did not within `timeout` seconds; says `what` was waited for.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(_INTERVAL)
