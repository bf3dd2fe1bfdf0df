"""Errors that nobody expects, raised where a publisher has requests under its hands."""

from __future__ import annotations

import threading
from typing import Any

from tests.integration.waiting import wait_until
from tests.mixin import Mixin


class Injected(Exception):  # noqa: N818 - a name for the log
    """Nobody expects it."""


class InjectionMixin(Mixin):
    """Patches methods, and looks at what was told.

    Attributes:
        metrics: of the publisher under test.
    """

    metrics: Any  # FakeMetrics or what a case makes of it

    def raise_once(
        self, target: Any, name: str, error: type[BaseException] = Injected
    ) -> threading.Event:
        """Have the next call of a method raise; the event says that it did."""
        method, raised = getattr(target, name), threading.Event()

        def call(*args: Any, **named: Any) -> Any:
            if raised.is_set():
                return method(*args, **named)
            raised.set()
            raise error("injected")

        self.patch(target, name, call)
        return raised

    def check_told(self, case: str, error: type[BaseException] = Injected) -> None:
        """It was counted and logged."""
        counted = "supervised_failures_total"
        wait_until(lambda: self.metrics.total(counted) > 0, f"a count of {case}", 5)
        wait_until(lambda: bool(self.flushLoggedErrors(error)), f"a line of {case}", 5)
        self.metrics.counts.clear()
