"""deploy/ on a real Prometheus."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.engines.ports import free_port
from tests.integration.case import SharedCase
from tests.integration.clients import CODECS
from tests.integration.daemon import Daemon
from tests.integration.waiting import wait_until
from tests.test_deploy import ALERTS, CASES, metrics_of, panel_queries, rules

_CONFIGURATION = """\
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: raccoon
    static_configs: [{{targets: ["127.0.0.1:{port}"]}}]
"""
_RULES = len(rules())


def tool(name: str) -> str:
    """The path of a program of Prometheus."""
    path = shutil.which(name)
    if path is None:
        raise AssertionError(f"{name} is not installed; Debian's package prometheus has it")
    return path


class PromtoolTests(SynchronousTestCase):
    """What promtool says."""

    def promtool(self, *arguments: str) -> str:
        done = subprocess.run(
            [tool("promtool"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def test_rules_are_well_formed(self) -> None:
        """promtool finds no fault in the rules, and finds them all."""
        self.assertIn(f"{_RULES} rules found", self.promtool("check", "rules", str(ALERTS)))

    def test_rules_fire_when_they_should(self) -> None:
        """Every case of alerts_test.yml holds."""
        self.assertIn("SUCCESS", self.promtool("test", "rules", str(CASES)))


class Prometheus:
    """A Prometheus that scrapes one service, with our rules."""

    def __init__(self, target: int) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="raccoon-prometheus-")
        directory = Path(self._directory.name)
        (directory / "prometheus.yml").write_text(
            _CONFIGURATION.format(rules=ALERTS, port=target), encoding="utf-8"
        )
        self._port = free_port()
        self._log = directory / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    tool("prometheus"),
                    f"--config.file={directory / 'prometheus.yml'}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        """End it and remove its data."""
        self._process.kill()
        self._process.wait()
        self._directory.cleanup()

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its API.

        Raises:
            AssertionError: it refused; says why.
        """
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} {parameters}: {error.read().decode()}") from None

    def ready(self) -> bool:
        """Whether it answers queries; it takes some time to read its own files."""
        if self._process.poll() is not None:
            raise AssertionError(f"Prometheus ended: {self._log.read_text()}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=10):
                return True
        except OSError:
            return False

    def value(self, query: str) -> float | None:
        """The one value of a query, or None."""
        result = self.get("query", query=query)["result"]
        assert len(result) <= 1, result
        return float(result[0]["value"][1]) if result else None


class ScrapeTests(SharedCase):
    """A real Prometheus and a real service."""

    daemon: Daemon
    prometheus: Prometheus

    @classmethod
    def share_setup(cls) -> None:
        cls.daemon = cls.share_daemon({"PUBLISHER_TYPE": "log", "EVENT_ACK": 2})
        cls.prometheus = Prometheus(cls.daemon.metrics_port)
        cls.at_class_end(cls.prometheus.kill)
        wait_until(cls.prometheus.ready, "Prometheus", 30)
        for number in range(20):
            for codec, make in CODECS.items():
                with make(cls.daemon, f"{codec}-{number}") as client:
                    client.send("guid", [("click", b"1"), ("view", b"2")])
        wait_until(
            lambda: cls.prometheus.value("sum(events_rx_total)") == 200, "all events scraped", 30
        )

    def test_target(self) -> None:
        """Prometheus takes the scrape as it is: the target is up and gives every sample."""
        (target,) = self.prometheus.get("targets")["activeTargets"]
        self.assertEqual((target["health"], target["lastError"]), ("up", ""))
        self.assertEqual(self.prometheus.value("events_delivered_total"), 200)
        kept = self.prometheus.value("scrape_samples_post_metric_relabeling")
        scraped = self.prometheus.value("scrape_samples_scraped")
        self.assertEqual(kept, scraped)
        self.assertGreater(scraped or 0, 100)

    def test_rules(self) -> None:
        """Every rule is evaluated without error, and none fires on a healthy service."""

        def states() -> list[tuple[str, str, bool]]:
            groups = self.prometheus.get("rules")["groups"]
            return [
                (rule["name"], rule["health"], rule["state"] == "firing")
                for group in groups
                for rule in group["rules"]
            ]

        wait_until(lambda: all(health == "ok" for _, health, _ in states()), "evaluation")
        time.sleep(2)
        expected = [(rule["alert"], "ok", False) for rule in rules()]
        self.assertEqual(states(), expected)

    def test_dashboard(self) -> None:
        """Every query of the dashboard is answered, and those of a busy service with data."""
        wait_until(
            lambda: self.prometheus.value("sum(rate(events_rx_total[10s]))") is not None, "a rate"
        )
        empty = []
        for title, query in panel_queries():
            asked = (
                query.replace("$job", "raccoon")
                .replace("$instance", ".*")
                .replace("$__rate_interval", "1m")
            )
            if not self.prometheus.get("query", query=asked)["result"]:
                empty.append((title, metrics_of(query)))
        absent = {"kafka", "pubsub", "kinesis", "user_connection_failure", "server_ping_failure"}
        for title, used in empty:
            for name in used:
                self.assertTrue(name.startswith((*absent, "other")), f"{title}: no {name}")
