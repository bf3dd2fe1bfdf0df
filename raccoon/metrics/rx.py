"""Counts that all edges keep alike: what was read, and what could not be."""

from __future__ import annotations

from raccoon.collector import CollectRequest
from raccoon.interfaces import IMetrics


def count_request(metrics: IMetrics, request: CollectRequest) -> None:
    """Count a request that was read, and its events by type."""
    group = request.identifier.group
    metrics.count("batches_read_total", 1, ("success", "NA", group))
    types = request.types
    if not types:
        return
    first = types[0]
    if types.count(first) == len(types):
        metrics.count("events_rx_total", len(types), (group, first))
        metrics.count("events_rx_bytes_total", request.payload_bytes, (group, first))
        return
    totals: dict[str, tuple[int, int]] = {}
    for event_type, payload in zip(types, request.payloads, strict=True):
        events, size = totals.get(event_type, (0, 0))
        totals[event_type] = (events + 1, size + len(payload))
    for event_type, (events, size) in totals.items():
        metrics.count("events_rx_total", events, (group, event_type))
        metrics.count("events_rx_bytes_total", size, (group, event_type))


def count_rejected(metrics: IMetrics, reason: str, group: str) -> None:
    """Count a request that could not be read; `reason` is one of batches_read_total's."""
    metrics.count("batches_read_total", 1, ("failed", reason, group))
