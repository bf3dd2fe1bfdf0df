"""A real `twistd raccoon` in a directory of its own."""

from __future__ import annotations

import atexit
import http.client
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from raccoon.config import KAFKA_CLIENT_PREFIX, OPTIONS
from tests.engines.ports import free_port

TWISTD = str(Path(sys.executable).with_name("twistd"))
PROJECT = Path(__file__).parents[2]
_START_SECONDS = 20
_STOP_SECONDS = 30
_RUN_SECONDS = 20
_OWN_VARIABLES = {option.variable for option in OPTIONS}

Labels = frozenset[tuple[str, str]]


def environment(settings: Mapping[str, object]) -> dict[str, str]:
    """This process's environment with `settings` in the place of any option of Raccoon."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in _OWN_VARIABLES and not name.startswith(KAFKA_CLIENT_PREFIX)
    }
    return kept | {name: str(value) for name, value in settings.items()}


def process_stat(pid: int) -> list[str]:
    """What /proc says of a process behind its name, its state first; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def running(pid: int) -> bool:
    """Whether a process still runs."""
    return process_stat(pid)[:1] not in ([], ["Z"])


class Daemon:
    """One service on free ports.

    Args:
        settings: its environment beside the ports and METRIC_PROMETHEUS_ENABLED.
        arguments: of twistd; `["raccoon"]` (as the default does) to daemonise, with `-n` it
            stays in the foreground.
        under: a command that runs the one behind it, and its arguments; none for none.
    """

    def __init__(
        self,
        settings: Mapping[str, object] | None = None,
        arguments: Sequence[str] = ("-n", "raccoon"),
        under: Sequence[str] = (),
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="raccoon-"))
        self.http_port = free_port()
        self.grpc_port = free_port()
        self.metrics_port = free_port()
        self._settings = {
            "SERVER_WEBSOCKET_PORT": self.http_port,
            "SERVER_GRPC_PORT": self.grpc_port,
            "METRIC_PROMETHEUS_ENABLED": "true",
            "METRIC_PROMETHEUS_PORT": self.metrics_port,
            **(settings or {}),
        }
        self.arguments = arguments
        self.under = under
        self._process: subprocess.Popen[bytes] | None = None
        self._log = self.directory / "log"
        self.pid = 0

    def start(self) -> None:
        """Start it in the foreground; returns when /ping answers.

        Raises:
            AssertionError: it ended, or did not answer in 20 seconds; shows its log.
        """
        self.spawn()
        self._wait_for_ping()

    def spawn(self) -> None:
        """Start its process in the foreground; see `start`."""
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [*self.under, TWISTD, *self.arguments],
                cwd=self.directory,
                env=environment(self._settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pid = self._process.pid
        atexit.register(self.kill)

    def daemonise(self) -> None:
        """Start it in the background, where it writes twistd.pid and twistd.log.

        Raises:
            AssertionError: the command failed, or it does not answer in 20 seconds.
        """
        done = self.run()
        if done.returncode:
            raise AssertionError(f"exit code {done.returncode}: {done.stdout}")
        self._log = self.directory / "twistd.log"
        deadline = time.monotonic() + _START_SECONDS
        while not self.pid:
            if time.monotonic() > deadline:
                raise AssertionError("no pid file was written")
            if self.pid_file.exists():
                self.pid = int(self.pid_file.read_text() or 0)
            time.sleep(0.01)
        atexit.register(self.kill)
        self._wait_for_ping()

    def run(self) -> subprocess.CompletedProcess[str]:
        """Run the command until it ends by itself, within 20 seconds; stdout holds stderr too."""
        return subprocess.run(
            [TWISTD, *self.arguments],
            cwd=self.directory,
            env=environment(self._settings),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_RUN_SECONDS,
            check=False,
        )

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self, timeout: float = _STOP_SECONDS) -> int:
        """The exit code of a service in the foreground, once it ended.

        Raises:
            AssertionError: it did not end within `timeout` seconds; shows its log.
        """
        assert self._process is not None
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {timeout} s:\n{self.log()}") from None

    def stop(self, number: int = signal.SIGTERM, timeout: float = _STOP_SECONDS) -> int:
        """Send it a signal and wait for its end; returns the exit code."""
        self.send_signal(number)
        return self.wait(timeout)

    def crash(self) -> None:
        """End it at once (SIGKILL); its directory and ports stay for another `start`."""
        atexit.unregister(self.kill)
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def kill(self) -> None:
        """End it at once and remove its directory; for a test's end."""
        atexit.unregister(self.kill)
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        elif self.pid and self.alive():
            os.kill(self.pid, signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def alive(self) -> bool:
        """Whether its process still runs."""
        if self._process is not None:
            return self._process.poll() is None
        return running(self.pid)

    def child(self) -> int:
        """The process that the command of `under` runs, or 0 if it is gone."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        return int((children.read_text() if children.exists() else "").split(" ")[0] or 0)

    @property
    def pid_file(self) -> Path:
        """Where a service in the background writes its pid."""
        return self.directory / "twistd.pid"

    @property
    def journal(self) -> Path:
        """The directory of its journal, where it has one."""
        return self.directory / str(self._settings.get("JOURNAL_DIR", "raccoon-journal"))

    def log(self) -> str:
        """All that it wrote so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def logged(self, text: str) -> bool:
        """Whether its log has this."""
        return text in self.log()

    def ping(self, timeout: float = 5) -> bool:
        """Whether /ping answers pong."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=timeout)
        try:
            connection.request("GET", "/ping")
            response = connection.getresponse()
            return (response.status, response.read()) == (200, b"pong")
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def scrape(self) -> str:
        """The metrics as Prometheus reads them."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=10)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def metrics(self) -> dict[tuple[str, Labels], float]:
        """Every sample of the scrape by its name and labels."""
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(self.scrape())
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples of a name that have these labels among theirs."""
        wanted = set(labels.items())
        return sum(
            value
            for (sample, found), value in self.metrics().items()
            if sample == name and wanted <= found
        )

    def processor_time(self) -> float:
        """Seconds of processor time that its process took so far."""
        fields = process_stat(self.pid)
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> int:
        """Bytes of memory that its process holds."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def _wait_for_ping(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self.ping():
            if not self.alive() or time.monotonic() > deadline:
                log = self.log()
                self.kill()
                raise AssertionError(f"did not start:\n{log}")
            time.sleep(0.02)
