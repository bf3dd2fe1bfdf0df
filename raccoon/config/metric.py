"""Options of metrics."""

from __future__ import annotations

import re
from typing import Any

import attrs

from raccoon.config.options import PORT, boolean, integer, option


def _udp_address(value: Any) -> str:
    found = re.fullmatch(r"(?:[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]):(\d{1,5})", str(value))
    if found is None or not 0 < int(found[1]) <= 65535:
        raise ValueError("host:port")
    return str(value)


def _path(value: Any) -> str:
    if not str(value).startswith("/"):
        raise ValueError("a path that begins with /")
    return str(value)


@attrs.frozen(kw_only=True)
class MetricSettings:
    """Metrics."""

    runtime_stats_record_interval_ms: int = option(
        "METRIC_RUNTIME_STATS_RECORD_INTERVAL_MS",
        10_000,
        "interval between measurements of the process",
        integer(10, 3_600_000),
    )
    statsd_enabled: bool = option(
        "METRIC_STATSD_ENABLED",
        False,
        "send metrics to StatsD, with tags in Telegraf's format",
        boolean,
    )
    statsd_address: str = option(
        "METRIC_STATSD_ADDRESS",
        ":8125",
        "address of StatsD; without a host: localhost",
        _udp_address,
    )
    statsd_flush_period_ms: int = option(
        "METRIC_STATSD_FLUSH_PERIOD_MS",
        10_000,
        "interval between two sends to StatsD",
        integer(10, 3_600_000),
    )
    prometheus_enabled: bool = option(
        "METRIC_PROMETHEUS_ENABLED", False, "serve metrics to Prometheus", boolean
    )
    prometheus_path: str = option("METRIC_PROMETHEUS_PATH", "/metrics", "path of the scrape", _path)
    prometheus_port: int = option("METRIC_PROMETHEUS_PORT", 9090, "port of the scrape", PORT)
    label_values: int = option(
        "METRIC_LABEL_VALUES",
        100,
        "distinct values of a label that clients choose; further values count as `other`",
        integer(1, 100_000),
    )
