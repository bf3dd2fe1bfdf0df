"""How the service is started, and what it says where it cannot be."""

from __future__ import annotations

import os
import re
import signal
import socket
from functools import partial
from typing import ClassVar

from twisted.trial.unittest import SynchronousTestCase

from raccoon.config import OPTIONS
from raccoon.proto.raccoon_pb2 import SendEventRequest
from tests.integration.clients import CODECS
from tests.integration.daemon import PROJECT, Daemon
from tests.integration.waiting import wait_until

_TAC = ("-n", "-y", str(PROJECT / "raccoon.tac"))
_UNKNOWN_OPTION: dict[str, object] = {
    "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": "127.0.0.1:9",
    "PUBLISHER_KAFKA_CLIENT_NO_SUCH_OPTION": "1",
}
# A line of the log that is no failure.
_NEWS = re.compile(r"\S+Z (info|warn) ")
_NOTHING_LOST = "no accepted event was lost"


class RunningTests(SynchronousTestCase):
    """The ways to run it, with the log publisher."""

    def daemon(self, settings: dict[str, object] | None = None, *arguments: str) -> Daemon:
        """A service that is killed at the test's end; in the foreground unless told otherwise."""
        daemon = Daemon(settings, arguments or ("-n", "raccoon"))
        self.addCleanup(daemon.kill)
        return daemon

    def check_serves(self, daemon: Daemon) -> None:
        """Send an event in every encoding."""
        for codec in CODECS:
            with CODECS[codec](daemon, codec) as client:
                answer = client.send(codec, [("click", b'{"of":"%s"}' % codec.encode())])
            self.assertTrue(answer.ok, answer)
            self.assertEqual(answer.guid, codec)
            wait_until(partial(daemon.logged, f'{{"of":"{codec}"}}'), "its log line")

    def test_daemonised(self) -> None:
        """Without -n it goes to the background, serves events, and stops by its pid file."""
        daemon = self.daemon(None, "raccoon")
        daemon.daemonise()
        self.check_serves(daemon)
        os.kill(int(daemon.pid_file.read_text()), signal.SIGTERM)
        wait_until(lambda: not daemon.alive(), "the end of the process")
        self.assertIn(_NOTHING_LOST, daemon.log())
        self.assertFalse(daemon.pid_file.exists())
        self.assertFalse(daemon.ping())

    def test_tac_file(self) -> None:
        """`twistd -y raccoon.tac` serves events by the environment's configuration."""
        daemon = self.daemon(None, *_TAC)
        daemon.start()
        self.check_serves(daemon)
        self.assertEqual(daemon.stop(), 0, daemon.log())

    def test_flags_go_before_the_environment(self) -> None:
        """A port given by a flag is the one served, whatever the environment says."""
        daemon = self.daemon({"SERVER_WEBSOCKET_PORT": 1})
        daemon.arguments = ("-n", "raccoon", f"--server.websocket.port={daemon.http_port}")
        daemon.start()
        self.check_serves(daemon)

    def test_sighup(self) -> None:
        """SIGHUP is told to change nothing, and the service goes on."""
        daemon = self.daemon()
        daemon.start()
        daemon.send_signal(signal.SIGHUP)
        wait_until(lambda: "SIGHUP" in daemon.log(), "a line about it")
        self.check_serves(daemon)
        self.assertTrue(daemon.alive())
        self.assertEqual(daemon.stop(), 0)

    def test_check_config(self) -> None:
        """--check-config prints each option with its source, no secret, and starts nothing."""
        settings: dict[str, object] = {
            "EVENT_ACK": 1,
            "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": "127.0.0.1:9",
            "PUBLISHER_KAFKA_CLIENT_SASL_PASSWORD": "open-sesame",
        }
        done = self.daemon(settings, "-n", "raccoon", "--check-config").run()
        self.assertEqual(done.returncode, 0, done.stdout)
        lines = done.stdout.splitlines()
        self.assertIn("EVENT_ACK=1  # environment", lines)
        self.assertIn("WORKER_POOL_SIZE=5  # default", lines)
        self.assertNotIn("open-sesame", done.stdout)
        self.assertEqual(len(lines), len(OPTIONS) + 2)

    def test_log_publisher(self) -> None:
        """The log publisher shows JSON, protobuf and hex events, one line each."""
        daemon = self.daemon({"PUBLISHER_TYPE": "log"})
        daemon.start()
        protobuf = SendEventRequest(req_guid="inner").SerializeToString()
        with CODECS["rest-protobuf"](daemon, "client") as client:
            answer = client.send(
                "guid",
                [
                    ("json", b'{"a":\n1, "b": "line\\nbreak"}'),
                    ("protobuf", protobuf),
                    ("hex", b"\xff\x00\n"),
                ],
            )
        self.assertTrue(answer.ok)
        wait_until(lambda: "type=hex" in daemon.log(), "the last event")
        lines = [line for line in daemon.log().splitlines() if "topic=clickstream-" in line]
        self.assertEqual(len(lines), 3, lines)
        shown = {
            "json": ('{"a":1,"b":"line\\nbreak"}', "size=28"),
            "protobuf": ('1: "inner"', f"size={len(protobuf)}"),
            "hex": ("ff000a", "size=3"),
        }
        for line, (kind, words) in zip(lines, shown.items(), strict=True):
            for word in (f"topic=clickstream-{kind}-log", f"type={kind}", *words):
                self.assertIn(word, line)


class RefusalTests(SynchronousTestCase):
    """Configurations that cannot be used: a non-zero exit code and one clear line."""

    settings: ClassVar[dict[str, object]] = {}

    def check(self, settings: dict[str, object], *words: str) -> None:
        """Run it in the foreground and look for the words in the one line."""
        self.check_run(Daemon({**self.settings, **settings}), *words)

    def check_background(self, settings: dict[str, object], *words: str) -> None:
        """Run it in the background and look for the words in one line of its log.

        What twistd itself says on the terminal is the first 100 bytes of it.
        """
        daemon = Daemon({**self.settings, **settings}, ["raccoon"])
        self.addCleanup(daemon.kill)
        done = daemon.run()
        self.assertNotEqual(done.returncode, 0, done.stdout)
        # twistd's command ends when it knows of the failure, and the process behind it cleans up.
        wait_until(lambda: not daemon.pid_file.exists(), "the end of the pid file")
        log = (daemon.directory / "twistd.log").read_text()
        self.assertNotIn("Traceback", done.stdout + log)
        telling = [line for line in log.splitlines() if not _NEWS.match(line)]
        self.assertEqual(len(telling), 1, log)
        for word in words:
            self.assertIn(word, telling[0])

    def check_run(self, daemon: Daemon, *words: str) -> None:
        """Run it and look for the words in the one line that is not news of a start."""
        self.addCleanup(daemon.kill)
        done = daemon.run()
        self.assertNotEqual(done.returncode, 0, done.stdout)
        self.assertNotIn("Traceback", done.stdout)
        telling = [
            line
            for line in done.stdout.splitlines()
            if not _NEWS.match(line) and not line.endswith("the configuration cannot be used:")
        ]
        self.assertEqual(len(telling), 1, done.stdout)
        for word in words:
            self.assertIn(word, telling[0])
        self.assertFalse(daemon.ping(timeout=1))
        self.assertFalse(daemon.pid_file.exists())

    def take_port(self) -> int:
        """A port that somebody else listens on."""
        listener = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.addCleanup(listener.close)
        port: int = listener.getsockname()[1]
        return port

    def test_http_port_taken(self) -> None:
        """A taken HTTP port is named."""
        port = self.take_port()
        self.check({"SERVER_WEBSOCKET_PORT": port}, "SERVER_WEBSOCKET_PORT", str(port), "in use")

    def test_http_port_taken_in_the_background(self) -> None:
        """Without -n a taken HTTP port ends the command with a failure, and its log names it."""
        port = self.take_port()
        self.check_background(
            {"SERVER_WEBSOCKET_PORT": port}, "SERVER_WEBSOCKET_PORT", str(port), "in use"
        )

    def test_unknown_librdkafka_option_in_the_background(self) -> None:
        """Without -n an option that librdkafka does not know is in the log, in its words."""
        self.check_background(_UNKNOWN_OPTION, "No such configuration property", "no.such.option")

    def test_grpc_port_taken(self) -> None:
        """A taken gRPC port is named."""
        port = self.take_port()
        self.check({"SERVER_GRPC_PORT": port}, "SERVER_GRPC_PORT", str(port), "taken")

    def test_metrics_port_taken(self) -> None:
        """A taken port of the metrics is named."""
        port = self.take_port()
        self.check({"METRIC_PROMETHEUS_PORT": port}, "METRIC_PROMETHEUS_PORT", str(port), "in use")

    def test_bad_option_value(self) -> None:
        """An option's bad value is told with its name and what was expected."""
        self.check({"WORKER_POOL_SIZE": "many"}, "WORKER_POOL_SIZE", "'many'", "whole number")

    def test_bad_option_value_of_the_tac_file(self) -> None:
        """`twistd -y raccoon.tac` tells a bad value as clearly."""
        self.check_run(Daemon({"EVENT_ACK": "3"}, _TAC), "EVENT_ACK", "'3'", "one of 0, 1, 2")

    def test_every_bad_value_is_told_at_once(self) -> None:
        """Two bad values are two lines of one run."""
        daemon = Daemon({"EVENT_ACK": "3", "SERVER_GRPC_PORT": "x"})
        self.addCleanup(daemon.kill)
        done = daemon.run()
        self.assertEqual(done.returncode, 1)
        told = [line for line in done.stdout.splitlines() if "from the environment" in line]
        self.assertEqual(
            [line.partition(":")[0] for line in told], ["SERVER_GRPC_PORT", "EVENT_ACK"]
        )

    def test_unknown_publisher(self) -> None:
        """A publisher that is not installed is told with those that are."""
        self.check({"PUBLISHER_TYPE": "carrier-pigeon"}, "carrier-pigeon", "kafka", "log")

    def test_unknown_librdkafka_option(self) -> None:
        """An option that librdkafka does not know is refused in its words."""
        self.check(_UNKNOWN_OPTION, "No such configuration property", "no.such.option")

    def test_bad_librdkafka_value(self) -> None:
        """A librdkafka option's bad value is refused in its words."""
        self.check(
            {
                "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": "127.0.0.1:9",
                "PUBLISHER_KAFKA_CLIENT_SOCKET_TIMEOUT_MS": "soon",
            },
            "socket.timeout.ms",
        )


class WorkersRefusalTests(RefusalTests):
    """The same where several processes serve."""

    settings: ClassVar[dict[str, object]] = {"SERVER_WORKERS": 2}

    def test_bad_number_of_workers(self) -> None:
        """A number of workers that is none is told with what was expected."""
        self.check({"SERVER_WORKERS": "all"}, "SERVER_WORKERS", "'all'", "auto")
