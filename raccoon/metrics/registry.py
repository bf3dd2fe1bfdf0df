"""The metrics of the table, held by prometheus_client, with every label bounded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector
from zope.interface import implementer

from raccoon.interfaces import IMetrics
from raccoon.metrics.names import CLIENT_LABELS, COUNTER, GAUGE, METRICS, Metric

OTHER = "other"
_SERIES_PER_VALUE = 5
_LABEL_LENGTH = 128

disable_created_metrics()  # the exposed names are the contract: no _created beside them


class _UnsuffixedCounter(Collector):
    """A counter whose exposed name does not end in _total, which Counter would append."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._counter = Counter(metric.name, metric.meaning, registry=None)
        self.inc = self._counter.inc

    def collect(self) -> Iterable[Family]:
        for family in self._counter.collect():
            exposed = Family(self._metric.name, self._metric.meaning, "unknown")
            for sample in family.samples:
                exposed.add_sample(self._metric.name, sample.labels, sample.value)
            yield exposed


@implementer(IMetrics)
class Metrics:
    """Counts by name and label values.

    A label whose value a client chooses takes `label_values` distinct values, and a metric with
    such labels five times as many series; what comes later is counted under `other`.

    Args:
        label_values: distinct values of each client-chosen label.
    """

    def __init__(self, label_values: int = 100) -> None:
        self.registry = CollectorRegistry()
        self._label_values = label_values
        self._max_series = label_values * _SERIES_PER_VALUE
        self._seen: dict[str, set[str]] = {label: set() for label in CLIENT_LABELS}
        self._children: dict[str, dict[tuple[str, ...], Any]] = {}
        self._parents: dict[str, Any] = {}
        self._table = {metric.name: metric for metric in METRICS}
        for metric in METRICS:
            self._parents[metric.name] = self._parent(metric)
            self._children[metric.name] = {}

    def count(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        """Add `value` to the counter `name`."""
        child = self._children[name].get(labels) or self._child(name, labels)
        child.inc(value)

    def gauge(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        """Set the gauge `name`."""
        child = self._children[name].get(labels) or self._child(name, labels)
        child.set(value)

    def adjust(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        """Add `value` to the gauge `name`."""
        child = self._children[name].get(labels) or self._child(name, labels)
        child.inc(value)

    def observe(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        """Record `value` milliseconds in the histogram `name`."""
        child = self._children[name].get(labels) or self._child(name, labels)
        child.observe(value)

    def expose(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self.registry)

    def _parent(self, metric: Metric) -> Any:
        if metric.kind == COUNTER:
            if not metric.name.endswith("_total"):
                counter = _UnsuffixedCounter(metric)
                self.registry.register(counter)
                return counter
            return Counter(metric.name, metric.meaning, metric.labels, registry=self.registry)
        if metric.kind == GAUGE:
            return Gauge(metric.name, metric.meaning, metric.labels, registry=self.registry)
        return Histogram(
            metric.name,
            metric.meaning,
            metric.labels,
            buckets=metric.buckets,
            registry=self.registry,
        )

    def _child(self, name: str, labels: tuple[str, ...]) -> Any:
        """The series of these labels, or of the bounded ones they are counted under."""
        children = self._children[name]
        metric = self._table[name]
        if not metric.labels:
            child = children[labels] = self._parents[name]
            return child
        bounded = tuple(map(self._bounded, metric.labels, labels))
        if bounded not in children and len(children) >= self._max_series:
            bounded = tuple(
                OTHER if label in CLIENT_LABELS else value
                for label, value in zip(metric.labels, bounded, strict=True)
            )
        child = children.get(bounded)
        if child is None:
            child = children[bounded] = self._parents[name].labels(*bounded)
        return child

    def _bounded(self, label: str, value: str) -> str:
        seen = self._seen.get(label)
        if seen is None or value in seen:
            return value
        if len(seen) >= self._label_values or len(value) > _LABEL_LENGTH:
            return OTHER
        seen.add(value)
        return value
