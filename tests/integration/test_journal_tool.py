"""`raccoon-journal` beside a running service."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.engines.kafka import KafkaBroker
from tests.integration.case import SharedCase
from tests.integration.clients import CODECS, Events
from tests.integration.daemon import Daemon, environment
from tests.integration.load import Load
from tests.integration.waiting import wait_until

COMMAND = str(Path(sys.executable).with_name("raccoon-journal"))
_SECONDS = 20
_LOAD_SECONDS = 4
# How long librdkafka believes that a topic may still come to be; its own default is 30 s.
_UNKNOWN_TOPIC_MS = 1000


class JournalToolTests(SharedCase):
    """One broker that makes no topic by itself; each test has a service of its own."""

    broker: KafkaBroker

    @classmethod
    def share_setup(cls) -> None:
        cls.broker = cls.share_broker(auto_create=False)
        cls.broker.create_topic("there")

    def start(self, **settings: object) -> Daemon:
        """A service that acknowledges what is on disk, to the topic of the event's type."""
        return self.start_daemon(
            {
                "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": self.broker.bootstrap,
                "PUBLISHER_KAFKA_CLIENT_RECONNECT_BACKOFF_MAX_MS": 500,
                "PUBLISHER_KAFKA_CLIENT_TOPIC_METADATA_PROPAGATION_MAX_MS": _UNKNOWN_TOPIC_MS,
                "EVENT_ACK": 2,
                "EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "%s",
                **settings,
            }
        )

    def send(self, daemon: Daemon, codec: str, guid: str, events: Events) -> None:
        with CODECS[codec](daemon, f"client-{guid}") as client:
            answer = client.send(guid, events)
            self.assertTrue(answer.ok, answer)

    def tool(self, daemon: Daemon, *arguments: str, code: int = 0) -> str:
        """What the command writes in the service's working directory."""
        done = subprocess.run(
            [COMMAND, *arguments],
            cwd=daemon.directory,
            env=environment({}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
        self.assertEqual(code, done.returncode, f"{arguments}: {done.stdout}{done.stderr}")
        return done.stdout

    def export(self, daemon: Daemon, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.tool(daemon, "export", *arguments).splitlines()]

    def payloads(self, lines: list[dict[str, Any]]) -> list[bytes]:
        return sorted(base64.b64decode(line["payload"]) for line in lines)

    def letters(self, daemon: Daemon) -> list[str]:
        return self.tool(daemon, "list").splitlines()[1:]

    def test_letters_are_replayed(self) -> None:
        """Letters are listed, shown and exported; once their topic exists they arrive there."""
        daemon = self.start()
        self.send(daemon, "rest-json", "mixed", [("there", b"half"), ("late", b'{"a": 1}')])
        self.send(daemon, "websocket-binary", "bad", [("late", b"\xff\x00"), ("late", b"")])
        self.send(daemon, "rest-json", "good", [("there", b"whole")])
        wait_until(lambda: len(self.letters(daemon)) == 2, "two dead letters", _SECONDS)

        for line in self.letters(daemon):
            self.assertIn("topic late does not exist", line)
        lines = self.export(daemon)
        self.assertEqual(self.payloads(lines), sorted([b"half", b'{"a": 1}', b"\xff\x00", b""]))
        self.assertEqual(
            [(line["req_guid"], line["index"]) for line in lines if line["failed"]],
            [(line["req_guid"], line["index"]) for line in lines if line["type"] == "late"],
        )
        mixed = next(line for line in lines if line["req_guid"] == "mixed")
        self.assertEqual(mixed["conn_id"], "client-mixed")
        self.assertLess(abs(mixed["received_at"] - time.time()), 60)
        shown = self.tool(daemon, "show", mixed["letter"])
        self.assertIn("event 0: there, 4 bytes, text: delivered\n  half", shown)
        self.assertIn('event 1: late, 8 bytes, json: not delivered\n  {"a":1}', shown)
        status = self.tool(daemon, "status")
        self.assertIn("server        has it open", status)
        self.assertIn("dead letters  2\n", status)

        self.broker.create_topic("late")
        self.assertIn("the server sends them", self.tool(daemon, "replay", "--all"))
        wait_until(lambda: len(self.broker.read(["late"])) == 3, "the events in Kafka", _SECONDS)
        wait_until(
            lambda: "dead letters  none" in self.tool(daemon, "status"), "no letters", _SECONDS
        )
        wait_until(lambda: "waiting       nothing" in self.tool(daemon, "status"), "nothing waits")
        self.assertEqual(
            sorted(value for _, value in self.broker.read(["late"])),
            sorted([b'{"a": 1}', b"\xff\x00", b""]),
        )
        # A letter is sent as it was, also what of it had arrived: its events keep their indexes.
        there = [value for _, value in self.broker.read(["there"])]
        self.assertEqual([there.count(b"half"), there.count(b"whole")], [2, 1])

    def test_letters_are_purged(self) -> None:
        """Purged letters are gone, also after a restart; a stop leaves no files of SQLite's own."""
        daemon = self.start()
        for number in range(3):
            self.send(daemon, "grpc", f"{number}", [("never", b"%d" % number)])
        wait_until(lambda: len(self.letters(daemon)) == 3, "three dead letters", _SECONDS)
        self.tool(daemon, "purge", "--all", code=2)
        self.tool(daemon, "purge", "1", "--yes")
        self.assertEqual([line.split()[0] for line in self.letters(daemon)], ["2", "3"])
        self.tool(daemon, "replay", "4", code=1)
        self.assertEqual(daemon.stop(), 0, daemon.log())
        journal = daemon.directory / "raccoon-journal"
        self.assertEqual(
            sorted(path.name for path in journal.iterdir()), ["dead-letters.db", "lock"]
        )
        self.assertIn("none has it open", self.tool(daemon, "status"))
        self.tool(daemon, "purge", "2", "--yes")
        daemon.start()
        self.assertEqual([line.split()[0] for line in self.letters(daemon)], ["3"])

    def test_what_waits(self) -> None:
        """While Kafka is away all acknowledged events are exported, also from a killed service."""
        daemon = self.start()
        self.broker.kill()
        try:
            sent = [b"waits-%d" % number for number in range(20)]
            for payload in sent:
                self.send(daemon, "rest-protobuf", "guid", [("there", payload)])
            self.assertEqual(self.payloads(self.export(daemon, "--waiting")), sorted(sent))
            self.assertIn("20 requests with 20 events", self.tool(daemon, "status"))
            daemon.stop(signal.SIGKILL)
            self.assertEqual(self.payloads(self.export(daemon, "--waiting")), sorted(sent))
            self.assertEqual(len(self.tool(daemon, "list", "--waiting").splitlines()), 21)
            daemon.start()
        finally:
            self.broker.start()
        wait_until(
            lambda: "waiting       nothing" in self.tool(daemon, "status"), "delivery", _SECONDS
        )
        values = Counter(value for _, value in self.broker.read(["there"]))
        self.assertEqual([payload for payload in sent if not values[payload]], [])
        self.assertNotIn("damaged", daemon.log())

    def test_beside_load(self) -> None:
        """Under load every command succeeds, and costs the service no event and no segment."""
        self.broker.create_topic("load")
        daemon = self.start(JOURNAL_SEGMENT_BYTES=1 << 20, JOURNAL_MAX_BYTES=64 << 20)
        load = Load(daemon, "load")
        load.start()
        runs = 0
        until = time.monotonic() + _LOAD_SECONDS
        while time.monotonic() < until:
            for arguments in (
                ("status",),
                ("export", "--waiting"),
                ("list", "--waiting"),
                ("list",),
            ):
                self.tool(daemon, *arguments)
                runs += 1
        load.stop()
        self.assertGreater(runs, 3)
        self.assertEqual(daemon.stop(), 0, daemon.log())
        # Where the machine was slow the stop has left some for the next start.
        there = {value for _, value in self.broker.read(["load"])}
        there.update(self.payloads(self.export(daemon, "--waiting")))
        self.assertGreater(len(load.acknowledged), 1000)
        lost = [payload for payload in load.acknowledged if payload not in there]
        self.assertEqual([], lost[:5], f"{len(lost)} lost; {daemon.log()[-3000:]}")
        self.assertEqual([], self.letters(daemon))
        for trouble in ("damaged", "keeper failed", "Traceback"):
            self.assertNotIn(trouble, daemon.log())
