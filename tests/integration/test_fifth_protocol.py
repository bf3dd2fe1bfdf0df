"""A protocol of somebody else's, in a file of its own: what it takes, and that it works."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.edges.bodies import json_body
from tests.engines.ports import free_port
from tests.integration.daemon import Daemon

LINES = Path(__file__).with_name("lines.py")
OK, BAD_REQUEST = 1, 2


class FifthProtocolTests(SynchronousTestCase):
    """Requests in lines over TCP, by tests/integration/lines.py."""

    def setUp(self) -> None:
        port = free_port()
        self.daemon = Daemon(
            {"LINES_PORT": port, "EVENT_ACK": 1, "PUBLISHER_TYPE": "log"},
            arguments=("-n", "--pidfile=", "-y", str(LINES)),
        )
        self.addCleanup(self.daemon.kill)
        self.daemon.start()
        self.connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.addCleanup(self.connection.close)
        self.answers = self.connection.makefile("rb")
        self.addCleanup(self.answers.close)

    def test_size(self) -> None:
        """It takes fewer than 100 lines."""
        self.assertLess(len(LINES.read_text(encoding="utf-8").splitlines()), 100)

    def test_works(self) -> None:
        """Requests are collected, refused, counted and answered as on any protocol."""
        self.connection.sendall(json_body("a", [("click", b"1"), ("click", b"2")]) + b"\n{\n")
        answers = {one["code"]: one for one in map(json.loads, [self.line(), self.line()])}
        good, bad = answers[OK], answers[BAD_REQUEST]
        self.assertEqual({"req_guid": "a"}, good["data"])
        self.assertIn("cannot deserialize request: not JSON", bad["reason"])
        self.assertEqual(2, self.daemon.metric("events_delivered_total"))
        self.assertEqual(1, self.daemon.metric("batches_read_total", reason="serde"))
        self.assertIn(f"lines 0.0.0.0:{self.daemon_port()}", self.daemon.log())
        self.assertEqual(0, self.daemon.stop())
        self.assertIn("no accepted event was lost", self.daemon.log())

    def line(self) -> bytes:
        """The next answer."""
        return self.answers.readline()

    def daemon_port(self) -> int:
        """Where it listens."""
        port: int = self.connection.getpeername()[1]
        return port
