"""The benchmark through its command, in its short form."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from benchmarks.cases import all_cases
from tests.engines.kafka import KafkaBroker
from tests.integration.case import SharedCase
from tests.integration.daemon import PROJECT

_SECONDS = 120


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return run("benchmarks", "--smoke", *arguments)


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module to its end."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )


class WholeTests(SynchronousTestCase):
    """The whole benchmark, with a broker of its own."""

    def test_every_case(self) -> None:
        """Every case is measured without an error, and the tables, the JSON and the page say so."""
        output, page = Path(self.mktemp()).resolve(), Path(self.mktemp()).resolve()
        page.write_text((PROJECT / "docs" / "performance.md").read_text())
        done = bench("--json", str(output), "--markdown", str(page))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        found = json.loads(output.read_text())
        results = {result["case"]: result for result in found["results"]}
        self.assertEqual(list(results), [case.name for case in all_cases(1)])
        for result in results.values():
            figures = result["median"]
            self.assertEqual(figures["errors"], 0, result)
            self.assertGreater(figures["connections" if result["idle"] else "requests"], 100)
            self.assertIn(result["title"], done.stdout)
            self.assertIn(f"| {result['title']} | raccoon |", page.read_text())
        floor = found["floor"]["median"]
        self.assertEqual(set(floor), {"10", "100"})
        for figures in floor.values():
            self.assertEqual(figures["errors"], 0)
            self.assertGreater(figures["events_s"], 0)


class OutageTests(SynchronousTestCase):
    """A short outage of Kafka."""

    def test_outage(self) -> None:
        """What came meanwhile is drained beside new requests, and the command says how fast."""
        done = run(
            "benchmarks.outage", "--requests=9000", "--rate=3000", "--beside=500", "--rounds=1"
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertRegex(done.stderr, r"round 1 of 1: .* beside \d+ new ones/s \(p50 [\d.]+ ms\)")
        found = re.search(r"([\d,]+)/s drained, ([\d.]+) times as fast", done.stdout)
        assert found is not None, done.stdout
        self.assertGreater(int(found[1].replace(",", "")), 3000)
        self.assertGreater(float(found[2]), 1)

    def test_bad_options(self) -> None:
        """What cannot be measured is refused with its reason."""
        for option in ("--rounds=0", "--rate=-1", "--env=EVENT_ACK"):
            done = run("benchmarks.outage", option)
            self.assertEqual(done.returncode, 2, done.stdout)
            self.assertRegex(done.stderr, "numbers must be above 0|expected NAME=VALUE")


class _Liar(http.server.BaseHTTPRequestHandler):
    """Answers every request with success, under a guid that nobody sent."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(b"pong")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b'{"status":1,"code":1,"data":{"req_guid":"0000000000000000"}}')

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


class OtherServerTests(SharedCase):
    """Servers that run already, beside ours, on a broker that runs already."""

    broker: KafkaBroker

    @classmethod
    def share_setup(cls) -> None:
        cls.broker = cls.share_broker()

    def test_in_turn_with_ours(self) -> None:
        """It gets the same requests as ours; the table has both and the ratios."""
        daemon = self.start_daemon(
            {
                "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": self.broker.bootstrap,
                "EVENT_ACK": 1,
            }
        )
        output = Path(self.mktemp()).resolve()
        addresses = f"http=127.0.0.1:{daemon.http_port},grpc=127.0.0.1:{daemon.grpc_port}"
        done = bench(
            f"--kafka={self.broker.bootstrap}",
            f"--other={addresses},pid={daemon.pid},name=second",
            "--only=ws-proto",
            "--env=EVENT_ACK=0",
            "--json",
            str(output),
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("EVENT_ACK=0", done.stdout.partition("\n\n")[0].splitlines()[-1])
        found = json.loads(output.read_text())
        self.assertEqual("0", found["settings"]["EVENT_ACK"])
        results = found["results"]
        self.assertEqual([result["server"] for result in results], ["raccoon", "second"])
        self.assertIn("raccoon / second", done.stdout)
        answered = sum(result["median"]["requests"] for result in results[1:])
        self.assertGreaterEqual(daemon.metric("events_delivered_total"), 10 * answered)

    def test_wrong_answers_are_errors(self) -> None:
        """A success with a guid that was not sent counts as an error, and the exit code tells."""
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Liar) as server:
            serving = threading.Thread(target=server.serve_forever)
            serving.start()
            cores = os.sched_getaffinity(0)
            try:
                done = bench(
                    f"--kafka={self.broker.bootstrap}",
                    f"--other=http=127.0.0.1:{server.server_port},grpc=none,pid={os.getpid()},name=liar",
                    "--only=rest-json",
                )
            finally:
                server.shutdown()
                serving.join()
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertIn(
            "error: rest-json, liar: an answer has the guid 0000000000000000", done.stdout
        )
        self.assertIn("\n300 errors\n", done.stdout)
        self.assertEqual(os.sched_getaffinity(0), cores)
