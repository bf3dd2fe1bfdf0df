"""What an outage of Kafka does at acknowledgement level 2: the rate in it, and the drain after it.

    python -m benchmarks.outage [--requests N] [--rate R] [--beside R] [--rounds N] [--env ...]

A broker is killed, so many requests come while it is away, as fast as they are answered or by the
clock, and it is started again, its code not yet compiled. The drain is measured from the first
request that came back from the journal and was delivered until as many did as waited there. New
requests beside it have no p99 here: what the broker compiles is compiled on the load generator's
core.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, nullcontext
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks import floor
from benchmarks.errors import BenchmarkError
from benchmarks.generator import build, generate
from benchmarks.run import say
from benchmarks.servers import Cores, StartedServer, add_env, broker, ours
from tests.engines.kafka import KafkaBroker
from tests.engines.ports import free_port
from tests.engines.process import EngineError

_EVENTS = 10
_CONNECTIONS = 64
_WARM_UP_REQUESTS = 20_000
_WAIT_SECONDS = 120.0
_SECONDS_MAX = 600.0
_LOOK_SECONDS = 0.2  # a look at the metrics takes the server more than a millisecond
_LOOK_SECONDS_LAST = 0.02
_LAST = 0.2
_DRAINED_AT_LEAST = 5000.0  # requests a second, for as long as new ones come beside


class Figures(NamedTuple):
    """What one outage did, in requests a second unless said otherwise.

    Attributes:
        before: taken while Kafka was there.
        away: taken while it was not.
        grown: MB of memory meanwhile.
        drained: delivered from the journal.
        beside: what the generator found of those that came meanwhile, or None.
    """

    before: float
    away: float
    grown: float
    drained: float
    beside: dict[str, Any] | None

    def __str__(self) -> str:
        beside = ""
        if self.beside:
            rate = self.beside["requests"] / self.beside["seconds"]
            beside = f" beside {rate:,.0f} new ones/s (p50 {self.beside['p50_ms']:.1f} ms)"
        return (
            f"{self.before:,.0f} requests/s before, {self.away:,.0f} while Kafka was away"
            f" ({self.grown:+.1f} MB), {self.drained:,.0f}/s drained{beside}:"
            f" {self.drained / self.away:.2f} times as fast as they came"
        )


class Outage:
    """A broker and the service, in which one outage is measured.

    Args:
        options: of the command.
        generator: the load generator.
        cores: who runs where.
        directory: for the broker's data and the journal.
    """

    def __init__(
        self, options: argparse.Namespace, generator: Path, cores: Cores, directory: Path
    ) -> None:
        self._options = options
        self._generator = generator
        self._cores = cores
        self._directory = directory
        self._metrics_port = free_port()
        self._server: StartedServer

    def measure(self) -> Figures:
        """Have it, and give its figures.

        Raises:
            BenchmarkError: a request was not answered with success, or what was to come did not.
            EngineError: the broker cannot be run.
        """
        options = self._options
        with ExitStack() as stack:
            kafka = stack.enter_context(broker(self._directory / "kafka", quick=False))
            self._server = self._start(kafka)
            stack.callback(self._server.stop)
            self._load(min(_WARM_UP_REQUESTS, options.requests), 0)
            before = self._load(options.requests, options.rate)
            self._wait(lambda: self._metric("journal_requests_current") == 0, "the delivery")
            kafka.kill()
            self._wait(lambda: not self._metric("destination_reachable_current"), "the outage")
            away = self._load(options.requests, options.rate)
            waiting = self._metric("journal_events_current")
            replayed = self._replayed()
            kafka.start()
            drained, beside = self._drain(waiting, replayed)
        grown = (away["memory_bytes"] - away["memory_bytes_at_start"]) / 1e6
        return Figures(_rate(before), _rate(away), grown, drained, beside)

    def _start(self, kafka: KafkaBroker) -> StartedServer:
        own = {
            "EVENT_ACK": "2",
            "PUBLISHER_KAFKA_CLIENT_LINGER_MS": "20",  # the default at this level
            "JOURNAL_DIR": str(self._directory / "journal"),
            "METRIC_PROMETHEUS_PORT": str(self._metrics_port),
        }
        return ours(kafka.bootstrap, self._cores, own | dict(self._options.env))

    def _drain(self, waiting: float, before: float) -> tuple[float, dict[str, Any] | None]:
        """Requests/s that came back from the journal and were delivered, and what came beside."""
        rate = self._options.beside
        with ThreadPoolExecutor(1) if rate else nullcontext() as pool:
            seconds = waiting / _EVENTS / _DRAINED_AT_LEAST + 1
            new = pool.submit(self._load, int(rate * seconds), rate) if pool else None
            self._wait(lambda: self._replayed() > before, "the first delivery")
            began, first = time.monotonic(), self._replayed()
            left = waiting - (first - before)
            if left <= 0:
                raise BenchmarkError("all was delivered before it could be looked at: --requests")
            while (now := before + waiting - self._replayed()) > 0:
                if time.monotonic() > began + _WAIT_SECONDS:
                    raise BenchmarkError(f"{now:.0f} events were not delivered")
                time.sleep(_LOOK_SECONDS if now > left * _LAST else _LOOK_SECONDS_LAST)
            took = time.monotonic() - began
            return left / _EVENTS / took, new.result() if new else None

    def _load(self, requests: int, rate: float) -> dict[str, Any]:
        flags = {
            "protocol": "ws-proto",
            "address": self._server.http,
            "pid": self._server.pid,
            "connections": _CONNECTIONS,
            "events": _EVENTS,
            "size": floor.SIZE,
            "requests": requests,
            "duration": f"{_SECONDS_MAX}s",
            "rate": rate,
        }
        found = generate(self._generator, flags, _SECONDS_MAX + _WAIT_SECONDS)
        if found["errors"]:
            raise BenchmarkError(f"{found['errors']} errors: {found['first_error']}")
        return found

    def _replayed(self) -> float:
        return self._metric("journal_replayed_events_total")

    def _metric(self, name: str) -> float:
        address = f"http://127.0.0.1:{self._metrics_port}/metrics"
        with urllib.request.urlopen(address, timeout=10) as answer:
            found = re.search(rf"^{name} (\S+)$", answer.read().decode(), re.M)
        return float(found[1]) if found else 0.0

    def _wait(self, over: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _WAIT_SECONDS
        while not over():
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{what} did not come in {_WAIT_SECONDS:g} s")
            time.sleep(_LOOK_SECONDS_LAST)


def _rate(found: dict[str, Any]) -> float:
    return float(found["requests"] / found["seconds"])


def main() -> int:
    """The command; returns the exit code."""
    options = _parse()
    cores = Cores()
    rounds = []
    try:
        generator = build()
        cores.take_others()
        say(cores.describe())
        for number in range(options.rounds):
            with tempfile.TemporaryDirectory(prefix="raccoon-outage-") as directory:
                figures = Outage(options, generator, cores, Path(directory)).measure()
            say(f"round {number + 1} of {options.rounds}: {figures}")
            rounds.append(figures)
    except (BenchmarkError, EngineError) as error:
        say(str(error))
        return 2
    except KeyboardInterrupt:
        return 2
    away = median(one.away for one in rounds)
    drained = median(one.drained for one in rounds)
    ratio = median(one.drained / one.away for one in rounds)
    sys.stdout.write(
        f"medians: {away:,.0f} requests/s while Kafka was away, {drained:,.0f}/s drained,"
        f" {ratio:.2f} times as fast as they came\n"
    )
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.outage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--requests",
        type=int,
        metavar="N",
        default=60_000,
        help="that come while Kafka is away (60000)",
    )
    add(
        "--rate",
        type=float,
        metavar="R",
        default=0.0,
        help="of these, by the clock (as fast as they are taken)",
    )
    add("--beside", type=float, default=0.0, metavar="R", help="new requests/s beside the drain")
    add("--rounds", type=int, default=3, metavar="N", help="medians of so many (3)")
    add_env(parser, "an option of the service")
    options = parser.parse_args()
    if min(options.requests, options.rounds) <= 0 or min(options.rate, options.beside) < 0:
        parser.error("numbers must be above 0, or 0 for a rate that is not wanted")
    return options


if __name__ == "__main__":
    sys.exit(main())
