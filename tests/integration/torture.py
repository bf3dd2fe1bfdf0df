"""How much of a test is done: enough to see that it holds, or all that was asked for."""

from __future__ import annotations

import os
import sys
import time

LONG = bool(os.environ.get("RACCOON_TORTURE"))
_EVERY_SECONDS = 5.0


def long_or_short(long: int, short: int) -> int:
    """A count for `make torture`, and one for every other run."""
    return long if LONG else short


class Progress:
    """Says now and then how far a long test is, and what it has seen.

    Args:
        what: the test.
        total: how many steps it has.
    """

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._next = time.monotonic() + _EVERY_SECONDS

    def step(self, number: int, seen: str = "") -> None:
        """Step `number` of them is done."""
        if LONG and (time.monotonic() > self._next or number == self._total):
            self._next = time.monotonic() + _EVERY_SECONDS
            self.say(f"{number} of {self._total} {seen}")

    def say(self, seen: str) -> None:
        """Tell something that a long test has seen."""
        if LONG:
            sys.stdout.write(f"\n    {self._what}: {seen}\n")
            sys.stdout.flush()
