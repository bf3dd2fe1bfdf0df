"""One run: the broker, the servers, and the cases on each of them, round by round."""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import floor, report
from benchmarks.cases import Case, all_cases
from benchmarks.generator import answer_of, build, generate
from benchmarks.servers import (
    TOPIC,
    Cores,
    OtherServer,
    Server,
    broker,
    by_command,
    ours,
    unlike,
)

_WARM_UP = 0.5
_BROKER_WARM_UP = 10.0
_SMOKE_REQUESTS = 300
_SMOKE_SECONDS = 0.3
_SMOKE_IDLE = 200
_SMOKE_RATE_SECONDS = 0.5
_GRACE_SECONDS = 60


class Run:
    """One run of the benchmark.

    Attributes:
        cores: in words, which cores are whose.
        results: one for each case and server, those of a case together, ours first.
        floors: the bare producer's figures of each round, by the number of events in a batch.
        errors: the first error of each measurement that had some.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.results: list[dict[str, Any]] = []
        self.floors: dict[int, list[report.Figures]] = {}
        self.errors: list[str] = []
        self._options = options
        self._cores = Cores()
        self.cores = self._cores.describe()
        self._cases = self._chosen()
        self._generator = Path()
        self._done = 0
        self._total = 0
        self._measured: dict[tuple[str, str], list[report.Figures]] = {}

    def measure(self) -> None:
        """Measure everything.

        Raises:
            BenchmarkError: a server or the load generator cannot be run.
            EngineError: the broker cannot.
        """
        self._generator = build()
        self._cores.take_others()
        say(self.cores)
        with ExitStack() as stack:
            bootstrap = self._options.kafka or self._broker(stack)
            servers = self._servers(bootstrap, stack)
            self._total = self._options.rounds * sum(
                1 if case.against else len(servers) for case in self._cases
            )
            if not self._options.smoke:
                self._warm_up(servers)
            for number in range(self._options.rounds):
                self._round(number, servers, bootstrap)
        self.results = self._results([server.name for server in servers])

    def _chosen(self) -> list[Case]:
        options = self._options
        idle = min(options.idle, _SMOKE_IDLE if options.smoke else options.idle, _file_limit())
        if idle < options.idle and not options.smoke:
            say(f"{idle} idle connections, as no more files may be open (ulimit -Hn)")
        cases = [c for c in all_cases(idle) if not options.only or c.name in options.only]
        if options.rate:
            cases = [case.at_rate(options.rate) for case in cases]
        if options.connections:
            cases = [case.with_connections(options.connections) for case in cases]
        return [case.small() for case in cases] if options.smoke else cases

    def _broker(self, stack: ExitStack) -> str:
        say("starting Kafka")
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="raccoon-bench-kafka-"))
        return stack.enter_context(broker(Path(directory), self._options.smoke)).bootstrap

    def _servers(self, bootstrap: str, stack: ExitStack) -> list[Server]:
        options = self._options
        servers: list[Server] = []

        def have(server: Server) -> None:
            stack.callback(server.stop)
            servers.append(server)

        say("starting twistd raccoon")
        have(ours(bootstrap, self._cores, options.env))
        for text in options.other:
            have(OtherServer(text, self._cores))
        for text in options.other_command:
            say(f"starting {text}")
            have(by_command(text, bootstrap, self._cores))
        unlike(servers)
        return servers

    def _warm_up(self, servers: list[Server]) -> None:
        """Let the broker compile what it runs, and the servers make their connections."""
        say("warming up")
        case = next(case for case in all_cases(0) if case.name == "ws-pipelined")
        for server in servers:
            self._generate(case, server, _BROKER_WARM_UP)

    def _round(self, number: int, servers: list[Server], bootstrap: str) -> None:
        say(f"round {number + 1} of {self._options.rounds}")
        for events in sorted({case.events for case in self._cases if case.events}):
            figures = report.floor_figures(self._produce(bootstrap, events), events)
            self.floors.setdefault(events, []).append(figures)
            say(
                f"  bare producer, {events} events: {figures['events_s']:,.0f} events/s, "
                f"{figures['cpu_us_event']:.2f} µs an event"
            )
        # In turn, and each first as often as the others: hours and neighbours change the machine.
        turn = number % len(servers)
        for case in self._cases:
            for server in servers[turn:] + servers[:turn]:
                if server is servers[0] or not case.against:
                    self._measure(case, server)

    def _measure(self, case: Case, server: Server) -> None:
        if case.idle:
            server.restart()
        found = self._generate(case, server)
        if case.idle:
            server.restart()  # its memory is not what it was
        self._done += 1
        if case.idle:
            figures = report.idle_figures(found)
        else:
            figures = report.load_figures(found, case.events)
        what = report.in_brief(figures)
        if found["errors"]:
            what += f", {found['errors']} ERRORS: {found['first_error']}"
            self.errors.append(f"{case.name}, {server.name}: {found['first_error']}")
        self._measured.setdefault((case.name, server.name), []).append(figures)
        say(f"  [{self._done}/{self._total}] {case.title}, {server.name}: {what}")

    def _generate(self, case: Case, server: Server, seconds: float | None = None) -> dict[str, Any]:
        smoke = self._options.smoke
        seconds = seconds or self._options.seconds
        flags: dict[str, object] = {
            "protocol": case.protocol,
            "address": server.grpc if case.over_grpc else server.http,
            "pid": server.pid,
            "connections": case.connections,
            "in-flight": case.in_flight,
            "events": case.events,
            "size": floor.SIZE,
            "rate": case.rate,
            "warm-up": f"{0.1 if smoke else _WARM_UP}s",
            "duration": f"{seconds}s",
        }
        if smoke:
            few = int(case.rate * _SMOKE_RATE_SECONDS) or _SMOKE_REQUESTS
            flags |= {"requests": few, "duration": "20s", "hold": "100ms"}
        if case.method:
            flags["method"] = case.method
        return generate(self._generator, flags, seconds + _GRACE_SECONDS)

    def _produce(self, bootstrap: str, events: int) -> dict[str, Any]:
        seconds = _SMOKE_SECONDS if self._options.smoke else self._options.seconds
        command = [sys.executable, "-m", floor.__name__, bootstrap, TOPIC, str(events)]
        with self._cores.of_server():
            return answer_of([*command, str(seconds)], seconds + _GRACE_SECONDS)

    def _results(self, names: list[str]) -> list[dict[str, Any]]:
        return [
            {
                "case": case.name,
                "title": case.title,
                "what": case.describe(),
                "events": case.events,
                "idle": case.idle,
                "against": case.against,
                "server": name,
                "median": report.medians(self._measured[case.name, name]),
                "rounds": self._measured[case.name, name],
            }
            for case in self._cases
            for name in names
            if (case.name, name) in self._measured
        ]


def _file_limit() -> int:
    """How many connections a process can have, once it may open as many files as it can."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard - 200


def say(line: str) -> None:
    """Tell how far it is."""
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stderr.flush()
