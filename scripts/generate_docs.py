"""Writes docs/configuration.md and docs/metrics.md from the tables in the code."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from raccoon import config
from raccoon.metrics import names

ROOT = Path(__file__).resolve().parent.parent

_CONFIGURATION = """\
# Configuration

*Generated from `raccoon/config` by `make docs`.*

Every option has three spellings with one meaning. The HTTP port, for example:

| spelling | example |
|---|---|
| environment variable | `SERVER_WEBSOCKET_PORT=8080` |
| flag | `twistd raccoon --server.websocket.port=8080` |
| YAML file | `server: {websocket: {port: 8080}}` |

Flags override the environment, which overrides the file, which overrides the default. An empty
environment variable counts as unset. The flag is the variable in lower case with a dot for each
underscore. In the file, the words of a variable may be nested at any
underscore, so that `id_header` below `conn` is `conn_id_header` as well as `id: {header: …}`:

```yaml
server:
  websocket:
    port: 8080
    conn:
      id_header: X-User-ID
publisher:
  type: kafka
  kafka:
    client:
      bootstrap_servers: localhost:9092
```

`--config` names the file. Without it, `config.yaml` is read if the working directory has one. Lists
are comma-separated, or YAML lists. A wrong value, a missing value, an unknown key and an unknown
flag stop the start. All problems are reported together, each with the option, the value and what
was expected. Configuration is read once, at start.

`twistd raccoon --check-config` prints the effective configuration and exits; each value comes with
its source, and secrets are masked. `twistd raccoon --help` lists the flags.

A publisher that is not part of Raccoon can have options of its own, see
[publishers.md](publishers.md). They are not on this page, but they have the same three spellings,
and `--help` and `--check-config` show them.

Two flags have no variable: `--http` takes a Twisted endpoint string in place of
`SERVER_WEBSOCKET_PORT`, as in `--http tcp:8080:interface=127.0.0.1`, and
`--grpc` takes host:port in place of `SERVER_GRPC_PORT`, as in `--grpc 127.0.0.1:8081`.
`--workers` is short for `--server.workers`.
"""

_KAFKA_CLIENT = """\

Any option of librdkafka can be set. Its variable is `PUBLISHER_KAFKA_CLIENT_` and the option's name
in capitals, with an underscore for each dot: `bootstrap.servers` is
`PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS`, `compression.type` is
`PUBLISHER_KAFKA_CLIENT_COMPRESSION_TYPE`. An option that librdkafka does not know stops the start
with librdkafka's message. Three options differ from librdkafka's defaults:

- `enable.idempotence` is on, unless another option excludes it.
- `linger.ms` is 2 at `EVENT_ACK=1`, where clients wait for the delivery, and 20 at `EVENT_ACK=2`,
  where they do not.
- `delivery.report.only.error` is always true.

`transactional.id` cannot be set.

`linger.ms` is the longest time that an event waits for others; a batch of `batch.size` bytes is
sent without waiting. Requests spend most of the linger in Raccoon's queue instead of in
librdkafka, up to 4.5 ms (19.5 ms at `EVENT_ACK=2`), and are then published as a group. The wait
ends early when the queue holds a quarter of `WORKER_BUFFER_CHANNEL_SIZE` (at `EVENT_ACK=2`, of
`WORKER_GROUP_MAX_REQUESTS`), or 64 KiB at `EVENT_ACK=1` if `batch.size` is not set. The first
request after a quiet moment does not wait in the queue. A longer linger with a larger `batch.size`
sends fewer and larger batches, which compress better and cost less; at `EVENT_ACK=1` the answers
take longer.
"""

_METRICS = """\
# Metrics

*Generated from `raccoon/metrics/names.py` by `make docs`.*

With `METRIC_PROMETHEUS_ENABLED=true` these are served in Prometheus's text format on port
`METRIC_PROMETHEUS_PORT` under `METRIC_PROMETHEUS_PATH`. Names are exposed as they stand here;
histograms add `_bucket`, `_sum` and `_count`. A metric with labels appears once it has counted
something.

Clients choose the values of some labels: {client_labels}.
Each of these takes `METRIC_LABEL_VALUES` distinct values, and a metric with such labels five times
as many series; whatever comes later is counted under `other`.

| metric | kind | labels | meaning |
|---|---|---|---|
{rows}

Upper bounds of histogram buckets, in milliseconds:

{buckets}
"""


def configuration() -> str:
    """The page of options."""
    parts = [_CONFIGURATION]
    for section, options in groupby(config.OPTIONS, key=lambda option: option.section):
        parts.append(f"\n## {config.title(section)}\n")
        parts.append("\n| variable | default | value | meaning |\n|---|---|---|---|\n")
        parts.extend(_option_row(option) for option in options)
        if section is config.KafkaSettings:
            parts.append(_KAFKA_CLIENT)
    return "".join(parts)


def metrics() -> str:
    """The page of metrics."""
    rows = (
        f"| `{metric.name}` | {metric.kind} | {_codes(metric.labels) or 'none'}"
        f" | {_cell(metric.meaning)} |"
        for metric in names.METRICS
    )
    return _METRICS.format(
        client_labels=_codes(sorted(names.CLIENT_LABELS)),
        rows="\n".join(rows),
        buckets="\n".join(_bucket_lines()),
    )


def _option_row(option: config.Option) -> str:
    default = option.shown(option.default)
    expected = option.expected.removeprefix("a whole number from ")
    return (
        f"| `{option.variable}` | {f'`{default}`' if default else 'none'}"
        f" | {_cell(expected)} | {_cell(option.meaning)} |\n"
    )


def _bucket_lines() -> Iterator[str]:
    def bounds(metric: names.Metric) -> tuple[float, ...]:
        return metric.buckets

    histograms = [metric for metric in names.METRICS if metric.kind == names.HISTOGRAM]
    usual = names.MILLISECONDS
    yield f"- {_numbers(usual)}"
    for buckets, group in groupby(sorted(histograms, key=bounds), key=bounds):
        if buckets != usual:
            yield f"- {_codes(metric.name for metric in group)}: {_numbers(buckets)}"


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:,.10g}" for value in values)


def _codes(values: Any) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PAGES = {
    ROOT / "docs" / "configuration.md": configuration,
    ROOT / "docs" / "metrics.md": metrics,
}

if __name__ == "__main__":
    for path, render in PAGES.items():
        path.write_text(render(), encoding="utf-8")
