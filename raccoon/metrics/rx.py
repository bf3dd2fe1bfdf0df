"""Counts that all edges keep alike: what was read, and what could not be."""

from __future__ import annotations

from raccoon.interfaces import IMetrics
from raccoon.request import CollectRequest


def count_request(metrics: IMetrics, request: CollectRequest) -> None:
    """Count a request that was read, and its events by type."""
    group = request.identifier.group
    counts: list[tuple[str, float, tuple[str, ...]]] = [
        ("batches_read_total", 1, ("success", "NA", group))
    ]
    by_type = request.by_type
    for event_type, payloads in by_type.items():
        labels = (group, event_type)
        size = request.payload_bytes if len(by_type) == 1 else sum(map(len, payloads))
        counts.append(("events_rx_total", len(payloads), labels))
        counts.append(("events_rx_bytes_total", size, labels))
    metrics.count_all(counts)


def count_rejected(metrics: IMetrics, reason: str, group: str) -> None:
    """Count a request that could not be read; `reason` is one of batches_read_total's."""
    metrics.count("batches_read_total", 1, ("failed", reason, group))
