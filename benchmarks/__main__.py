"""The command that measures the service: `python -m benchmarks`, or `make bench`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import floor, machine, report
from benchmarks.cases import STEADY_RATE, all_cases
from benchmarks.errors import BenchmarkError
from benchmarks.run import Run, say
from benchmarks.servers import SETTINGS, add_env
from tests.engines.process import EngineError

_ABOUT = """\
Measures `twistd raccoon` against a real Kafka, one protocol after the other.

It starts a broker (Java 17 and Maven) and the service, at acknowledgement level 1: an answer means
that Kafka has the events. A load generator in Go, built from benchmarks/loadgen on first use, sends
and checks every answer. With two cores or more the service has the first for itself; generator and
broker share the others. Rates are the most that the connections of a case can get; CPU is what the
service's process used. "of floor" is its CPU an event divided by that of a loop which produces the
same batches with librdkafka, on the same core, without any server. "core busy" is how much of a
core the service used: below 95% or so the rate is bounded by something else, mostly by how long
Kafka takes to answer. Latencies of the steady case count from the moment at which a request was
due, whether or not it could be sent then.
"""
_EXAMPLES = """\
examples:
  python -m benchmarks                                   # the whole table, some 2 minutes
  python -m benchmarks --smoke                           # does it all work? some 15 seconds
  python -m benchmarks --only ws-proto --only grpc --rounds 5
  python -m benchmarks --only ws-proto --rate 1000       # by the clock
  python -m benchmarks --only rest-json --connections 256 # for a busy core
  python -m benchmarks --env WORKER_POOL_SIZE=10         # our options

another server, in turn with ours, with ratios (ours divided by the other's):
  python -m benchmarks --other-command 'go=env WORKER_POOL_SIZE=200 GOMAXPROCS=1 ./raccoon server'
      starts it with the same options in the same variables as ours, on ports of its own
  python -m benchmarks --kafka localhost:9092 \\
      --other http=localhost:8180,grpc=localhost:8181,pid=4711,name=go
      takes one that runs already, and uses the same broker; moves its threads to the server's core

The exit code is 0 if every request was answered with success, 1 if not, 2 if it could not be run.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parse(given)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    try:
        run = Run(options)
        run.measure()
    except (BenchmarkError, EngineError) as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        return 2
    return _show(run, options, given)


def _show(run: Run, options: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Print what was found, and write it where it is wanted; returns the exit code."""
    floors = {events: report.medians(rounds) for events, rounds in run.floors.items()}
    about: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": machine.command_line(arguments),
        "cores": run.cores,
        "machine": machine.describe(),
        "settings": {**SETTINGS, **options.env},
        "event_bytes": floor.SIZE,
        "rounds": options.rounds,
        "seconds": options.seconds,
    }
    tables = report.tables(run.results, floors)
    sys.stdout.write(report.heading(about) + "\n\n")
    sys.stdout.write("\n\n".join(table.text() for table in tables) + "\n")
    if options.json:
        whole = {**about, "floor": {"median": floors, "rounds": run.floors}, "results": run.results}
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    if options.markdown:
        block = [report.page_heading(about), *(table.markdown() for table in tables)]
        page = options.markdown.read_text(encoding="utf-8")
        page = report.replace_block(page, "\n\n".join(block))
        options.markdown.write_text(page, encoding="utf-8")
    found = [*floors.values(), *(result["median"] for result in run.results)]
    errors = sum(figures["errors"] for figures in found)
    for error in run.errors:
        sys.stdout.write(f"error: {error}\n")
    sys.stdout.write(f"{errors:.0f} errors\n")
    return 1 if errors else 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=_ABOUT,
        epilog="cases:\n"
        + "".join(f"  {case.name:13} {case.title}\n" for case in all_cases(0))
        + "\n"
        + _EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--only", action="append", metavar="CASE", help="this case alone; may be given again")
    add("--rounds", type=int, metavar="N", help="medians of so many (3)")
    add("--seconds", type=float, default=3.0, help="of each measurement (3)")
    add("--rate", type=float, help=f"every case by the clock, so many requests/s ({STEADY_RATE:g} "
        "in the steady case, none in others)")  # fmt: skip
    add("--connections", type=int, metavar="N", help="in the cases that have 64")
    add("--idle", type=int, default=10_000, metavar="N", help="idle connections (10000)")
    add_env(parser, "an option for ours")
    add(
        "--kafka", metavar="HOST:PORT", help="a broker that runs already, instead of one of its own"
    )
    add("--other", action="append", default=[], metavar="ADDRESSES", help="see below")
    add("--other-command", action="append", default=[], metavar="NAME=COMMAND", help="see below")
    add("--json", type=Path, metavar="FILE", help="write all figures of all rounds")
    add("--markdown", type=Path, metavar="FILE", help="put the tables into this page, between its "
        "marks (docs/performance.md)")  # fmt: skip
    add("--smoke", action="store_true", help="a few hundred requests a case, one round: says that "
        "it works, not how fast")  # fmt: skip
    options = parser.parse_args(arguments)
    known = {case.name for case in all_cases(0)}
    unknown = set(options.only or ()) - known
    if unknown:
        parser.error(f"no case is called {min(unknown)}; there are {', '.join(sorted(known))}")
    options.env = dict(options.env)
    options.rounds = options.rounds or (1 if options.smoke else 3)
    numbers = options.rounds, options.seconds, options.idle, options.rate, options.connections
    if any(number is not None and number <= 0 for number in numbers):
        parser.error("numbers must be above 0")
    if options.json and not options.json.parent.is_dir():
        parser.error(f"--json: no directory {options.json.parent}")
    if options.markdown:
        try:
            report.replace_block(options.markdown.read_text(encoding="utf-8"), "")
        except (OSError, ValueError) as error:
            parser.error(f"--markdown: {error}")
    return options


if __name__ == "__main__":
    sys.exit(main())
