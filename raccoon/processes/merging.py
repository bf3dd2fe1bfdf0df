"""The metrics of several processes as one: what changed in a worker, and the parent's totals."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

from raccoon.metrics.names import COUNTER, GAUGE, METRICS
from raccoon.metrics.registry import Labels, Metrics, Snapshot
from raccoon.metrics.statsd import SampledMetrics

_KINDS = {metric.name: metric.kind for metric in METRICS}
# Gauges that do not add up: the whole is as full as the fullest, and ready when all are.
_COMBINED = {
    "queue_fullness_current": max,
    "kafka_brokers_rtt_average_milliseconds": max,
    "connections_limit_current": max,
    "ready_current": min,
    "destination_reachable_current": min,
}

# Name, labels, then: what a counter or histogram grew by, or where a gauge stands.
Change = tuple[str, list[str], Any]


class Changes:
    """What a process counted since the last time.

    Args:
        metrics: its registry.
        prefixes: of the names that count; none: all.
    """

    def __init__(self, metrics: Metrics, prefixes: tuple[str, ...] = ("",)) -> None:
        self._metrics = metrics
        self._prefixes = prefixes
        self._before = Snapshot({}, {})

    def take(self, snapshot: Snapshot) -> dict[str, list[Change]]:
        """What is new in a snapshot, as JSON can carry it."""
        before, self._before = self._before, snapshot
        values: list[Change] = []
        histograms: list[Change] = []
        samples: list[Change] = []
        for name, series in snapshot.values.items():
            if not name.startswith(self._prefixes):
                continue
            old = before.values.get(name, {})
            counter = _KINDS[name] == COUNTER
            for labels, value in series.items():
                if labels not in old or value != old[labels]:
                    grown = value - old.get(labels, 0) if counter else value
                    values.append((name, list(labels), grown))
        for name, observed in snapshot.histograms.items():
            known = before.histograms.get(name, {})
            for labels, numbers in observed.items():
                was = known.get(labels)
                if was is None:
                    histograms.append((name, list(labels), numbers))
                elif was != numbers:
                    grown_by = list(map(operator.sub, numbers, was))
                    histograms.append((name, list(labels), grown_by))
        if isinstance(self._metrics, SampledMetrics):
            for name, sampled in self._metrics.take_samples().items():
                samples += [(name, list(labels), sample) for labels, sample in sampled.items()]
        return {"values": values, "histograms": histograms, "samples": samples}


class Totals:
    """Adds up what the processes counted; what a process counted stays when it is gone.

    Args:
        metrics: where the sums are kept.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        # Where the gauges of each process stand.
        self._levels: dict[int, dict[tuple[str, Labels], float]] = {}

    def merge(self, source: int, changes: Mapping[str, list[Change]]) -> None:
        """Take in what process `source` counted."""
        levels = self._levels.setdefault(source, {})
        for name, label_list, value in changes["values"]:
            labels = tuple(label_list)
            if _KINDS[name] == GAUGE:
                before = levels.get((name, labels), 0)
                levels[name, labels] = value
                self._set(name, labels, value - before)
            else:
                self._metrics.count(name, value, labels)
        for name, label_list, numbers in changes["histograms"]:
            self._metrics.add(name, numbers, tuple(label_list))
        if isinstance(self._metrics, SampledMetrics):
            for name, label_list, sample in changes["samples"]:
                self._metrics.add_sample(name, sample, tuple(label_list))

    def level(self, source: int, name: str) -> float:
        """Where a gauge without labels of process `source` stands."""
        return self._levels.get(source, {}).get((name, ()), 0)

    def forget(self, source: int) -> float:
        """Process `source` is gone, and its gauges with it.

        Returns:
            How many events it had accepted and not told the outcome of. They count as failed
            from now on, so that the numbers still add up.
        """
        waiting = self.level(source, "events_waiting_current")
        for (name, labels), value in self._levels.pop(source, {}).items():
            self._set(name, labels, -value)
        self._metrics.count("events_failed_total", waiting)
        return waiting

    def _set(self, name: str, labels: Labels, more: float) -> None:
        combine = _COMBINED.get(name)
        if combine is None:
            self._metrics.adjust(name, more, labels)
            return
        values = [
            levels[name, labels] for levels in self._levels.values() if (name, labels) in levels
        ]
        self._metrics.gauge(name, combine(values, default=0), labels)
