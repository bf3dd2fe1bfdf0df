"""Metrics that a test waits for."""

from __future__ import annotations

import queue

from tests.fakes import FakeMetrics

WAIT = 20  # seconds that no test should ever wait


class GaugeWatch(FakeMetrics):
    """Lets a test wait for a gauge that another thread sets."""

    def __init__(self) -> None:
        super().__init__()
        self.gauged: queue.Queue[tuple[str, float]] = queue.Queue()

    def gauge(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        super().gauge(name, value, labels)
        self.gauged.put((name, value))
