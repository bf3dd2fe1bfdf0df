"""Writes docs/configuration.md and docs/metrics.md from the tables in the code."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from raccoon import config
from raccoon.metrics import names

ROOT = Path(__file__).resolve().parent.parent

# Options of a publisher are documented as without effect where it is not installed.
_PUBLISHERS = {config.PubSubSettings: "pubsub", config.KinesisSettings: "kinesis"}

_CONFIGURATION = """\
# Configuration

*Generated from `raccoon/config` by `make docs`.*

Every option has three spellings with one meaning. The HTTP port, for example:

| spelling | example |
|---|---|
| environment variable | `SERVER_WEBSOCKET_PORT=8080` |
| flag | `twistd raccoon --server.websocket.port=8080` |
| YAML file | `server: {websocket: {port: 8080}}` |

A flag goes before the environment, the environment before the file, the file before the default.
An environment variable that is set to nothing counts as unset. The flag is the variable in lower
case with a dot for each underscore. In the file, the words of a variable may be nested at any
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

The file is named by `--config`, or is `config.yaml` in the working directory where there is one.
Lists are comma-separated, or YAML lists. A value of the wrong kind, a missing one and an unknown
key of the file stop the start; all such problems are reported together, each with the option, the
value and what was expected. Configuration is read once, at start.

`twistd raccoon --check-config` prints the configuration in force, with the source of each value
and with secrets masked, and exits. `twistd raccoon --help` lists the flags.

Two flags have no variable: `--http` takes a Twisted endpoint string in place of
`SERVER_WEBSOCKET_PORT`, as in `--http tcp:8080:interface=127.0.0.1`, and
`--grpc` takes host:port in place of `SERVER_GRPC_PORT`, as in `--grpc 127.0.0.1:8081`.
`--workers` is short for `--server.workers`.
"""

_KAFKA_CLIENT = """\

Any option of librdkafka is `PUBLISHER_KAFKA_CLIENT_` and its name in capitals with an underscore
for each dot: `PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS` is `bootstrap.servers`,
`PUBLISHER_KAFKA_CLIENT_COMPRESSION_TYPE` is `compression.type`. An option that librdkafka does not
know stops the start with its own message. Unless set otherwise, `enable.idempotence` is on where no
other option excludes it, and `linger.ms` is 2 at `EVENT_ACK=1`, where clients wait, and 20 at
`EVENT_ACK=2`, where they do not. `transactional.id` cannot be used; `delivery.report.only.error` is
always true.

`linger.ms` is how long events wait for others at most, and `batch.size` how many bytes need not
wait longer. Up to 4.5 ms of the linger, at `EVENT_ACK=2` up to 19.5 ms, requests wait in the queue
instead of in librdkafka, and are then published together; a request that comes after a quiet moment
does not wait there. A quarter of `WORKER_BUFFER_CHANNEL_SIZE`, at `EVENT_ACK=2` of
`WORKER_GROUP_MAX_REQUESTS`, ends the wait in the queue, and so do 64 KiB at `EVENT_ACK=1` where
`batch.size` is not set. A longer linger, with a `batch.size` to match, sends fewer and larger
batches, which compress better and cost less, and answers later at `EVENT_ACK=1`.
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
    with (ROOT / "pyproject.toml").open("rb") as file:
        installed = tomllib.load(file)["project"]["entry-points"]["raccoon.publishers"]
    parts = [_CONFIGURATION]
    for section, options in groupby(config.OPTIONS, key=lambda option: option.section):
        parts.append(f"\n## {(section.__doc__ or '').splitlines()[0].rstrip('.')}\n")
        publisher = _PUBLISHERS.get(section)
        if publisher and publisher not in installed:
            parts.append(
                f"\nRead and checked, but without effect in this version: it has no `{publisher}`"
                " publisher.\n"
            )
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
    default = config.shown(option.variable, option.default)
    return (
        f"| `{option.variable}` | {f'`{default}`' if default else 'none'}"
        f" | {_cell(_expected(option.parse))} | {_cell(option.meaning)} |\n"
    )


def _expected(parse: config.Parser) -> str:
    """What an option's parser says it expects, in the words of its own refusal."""
    try:
        parse({"(": None})  # neither a text, a number, a list, nor a regular expression
    except ValueError as error:
        return str(error).partition(" (")[0].removeprefix("a whole number from ")
    raise AssertionError(f"{parse} takes a mapping")


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
