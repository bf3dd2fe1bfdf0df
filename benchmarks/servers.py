"""The servers that are measured, the broker, and the cores that each may use."""

from __future__ import annotations

import argparse
import http.client
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from benchmarks.errors import BenchmarkError
from tests.engines.kafka import KafkaBroker
from tests.engines.ports import free_port
from tests.integration.daemon import TWISTD, environment

EVENT_TYPE = "bench"
TOPIC = f"clickstream-{EVENT_TYPE}-log"
_START_SECONDS = 30
_STOP_SECONDS = 20
_LOG_TAIL = 500

# What every server that is started gets; the names are those of the Go server too.
SETTINGS = {
    "PUBLISHER_TYPE": "kafka",
    "PUBLISHER_KAFKA_CLIENT_LINGER_MS": "5",
    "EVENT_ACK": "1",
    "WORKER_BUFFER_CHANNEL_SIZE": "1000",
    "SERVER_WEBSOCKET_CONN_ID_HEADER": "X-User-ID",
    "METRIC_PROMETHEUS_ENABLED": "true",
}

# A broker that is measured against wants its code compiled well, and its disk not filled.
_JVM = ("-Xms1g", "-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
_RETENTION = {
    "log.segment.bytes": 64 << 20,
    "log.retention.bytes": 128 << 20,
    "log.retention.check.interval.ms": 5000,
    "log.segment.delete.delay.ms": 1000,
}


class Cores:
    """The first core for the server under test, the others for all else; all for all with one."""

    def __init__(self) -> None:
        self._all = os.sched_getaffinity(0)
        first, *others = sorted(self._all)
        self.pinned = bool(others)
        self.server = {first}
        self.others = set(others) or self._all

    def describe(self) -> str:
        """One line of who runs where."""
        if not self.pinned:
            return "nothing pinned: there is one core for all"
        others = ", ".join(map(str, sorted(self.others)))
        return f"server on core {min(self.server)}, load generator and broker on core {others}"

    def take_others(self) -> None:
        """Move this process, and all that it starts from now on, away from the server's core."""
        os.sched_setaffinity(0, self.others)

    @contextmanager
    def of_server(self) -> Iterator[None]:
        """What is started within runs on the server's core."""
        os.sched_setaffinity(0, self.server)
        try:
            yield
        finally:
            os.sched_setaffinity(0, self.others)

    def pin(self, pid: int) -> None:
        """Move a process that runs already to the server's core, with all its threads."""
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(ProcessLookupError):
                os.sched_setaffinity(int(task), self.server)


class Server(Protocol):
    """A server that can be measured."""

    name: str
    http: str
    grpc: str
    pid: int

    def restart(self) -> None:
        """Have it as it is at its start, if it was started here."""

    def stop(self) -> None:
        """End it, if it was started here."""


class StartedServer:
    """A server that a command starts, on free ports, on the server's core.

    Args:
        name: for the table.
        command: and its arguments; SETTINGS and ports are in its environment.
        bootstrap: of the broker.
        extra: more of its environment.

    Raises:
        BenchmarkError: it ended, or does not answer in 30 seconds.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        bootstrap: str,
        cores: Cores,
        extra: Mapping[str, str],
    ) -> None:
        self.name = name
        http_port, grpc_port = free_port(), free_port()
        self.http = f"127.0.0.1:{http_port}"
        self.grpc = f"127.0.0.1:{grpc_port}"
        self._directory = Path(tempfile.mkdtemp(prefix="raccoon-bench-"))
        self._command = command
        self._cores = cores
        self._environment = environment(
            {
                **SETTINGS,
                "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": bootstrap,
                "SERVER_WEBSOCKET_PORT": http_port,
                "SERVER_GRPC_PORT": grpc_port,
                "METRIC_PROMETHEUS_PORT": free_port(),
                **extra,
            }
        )
        self._start()

    def restart(self) -> None:
        """End it and start it again, on the same ports."""
        self._end()
        self._start()

    def stop(self) -> None:
        """End it."""
        self._end()
        shutil.rmtree(self._directory, ignore_errors=True)

    def _start(self) -> None:
        log = self._directory / "log"
        try:
            with open(log, "wb") as output, self._cores.of_server():
                self._process = subprocess.Popen(
                    self._command,
                    cwd=self._directory,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C is for the benchmark, which stops it then
                )
        except OSError as error:
            shutil.rmtree(self._directory)
            raise BenchmarkError(f"{self.name}: {error}") from None
        self.pid = self._process.pid
        deadline = time.monotonic() + _START_SECONDS
        while not _answers(self.http):
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = " ".join(log.read_text(errors="replace").split())[-_LOG_TAIL:]
                self.stop()
                raise BenchmarkError(f"{self.name} did not start: {said}")
            time.sleep(0.05)

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class OtherServer:
    """A server that runs already, from a text like `http=HOST:PORT,grpc=HOST:PORT,pid=PID`.

    It is moved to the server's core while it is measured.

    Raises:
        BenchmarkError: the text is not of this form, or there is no such server.
    """

    def __init__(self, text: str, cores: Cores) -> None:
        parts = dict(part.partition("=")[::2] for part in text.split(","))
        self.name = parts.pop("name", "other")
        if set(parts) != {"http", "grpc", "pid"} or not parts["pid"].isdigit():
            raise BenchmarkError(
                f"--other {text}: expected http=HOST:PORT,grpc=HOST:PORT,pid=PID[,name=NAME]"
            )
        self.http, self.grpc, self.pid = parts["http"], parts["grpc"], int(parts["pid"])
        try:
            self._before = os.sched_getaffinity(self.pid)
            cores.pin(self.pid)
        except (OSError, FileNotFoundError) as error:
            raise BenchmarkError(f"--other {text}: process {self.pid}: {error.strerror}") from None
        if not _answers(self.http):
            raise BenchmarkError(f"--other {text}: http://{self.http}/ping does not answer pong")

    def restart(self) -> None:
        """It goes on."""

    def stop(self) -> None:
        """It goes on, on the cores that it had."""
        with suppress(OSError):
            for task in os.listdir(f"/proc/{self.pid}/task"):
                os.sched_setaffinity(int(task), self._before)


def ours(bootstrap: str, cores: Cores, extra: Mapping[str, str]) -> StartedServer:
    """The daemon of this project."""
    return StartedServer(
        "raccoon", [TWISTD, "-n", "--pidfile=", "raccoon"], bootstrap, cores, extra
    )


def by_command(text: str, bootstrap: str, cores: Cores) -> StartedServer:
    """A server from a text like `NAME=COMMAND`.

    Raises:
        BenchmarkError: the text is not of this form, or the command does not give a server.
    """
    name, _, command = text.partition("=")
    if not name.isalnum() or not command.strip():
        raise BenchmarkError(
            f"--other-command {text}: expected NAME=COMMAND, the name of letters and digits"
        )
    return StartedServer(name, shlex.split(command), bootstrap, cores, {})


def add_env(parser: argparse.ArgumentParser, about: str) -> None:
    """Add `--env NAME=VALUE`, which may be given again; `env` holds pairs of both."""
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        type=_name_and_value,
        metavar="NAME=VALUE",
        help=about,
    )


def _name_and_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("expected NAME=VALUE")
    return name, value


def unlike(servers: Sequence[Server]) -> None:
    """Check that each has a name of its own.

    Raises:
        BenchmarkError: two have the same.
    """
    names = [server.name for server in servers]
    if len(set(names)) < len(names):
        raise BenchmarkError(f"servers need names of their own: {', '.join(names)}")


def broker(directory: Path, quick: bool) -> KafkaBroker:
    """A broker of its own for the benchmark; `quick` starts sooner and does less."""
    if quick:
        return KafkaBroker(directory)
    return KafkaBroker(directory, jvm=_JVM, properties=_RETENTION)


def _answers(address: str) -> bool:
    try:
        connection = http.client.HTTPConnection(address, timeout=5)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().read() == b"pong"
        finally:
            connection.close()
    except (OSError, http.client.HTTPException):
        return False
