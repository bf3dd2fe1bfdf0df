"""The service and Google's Pub/Sub emulator."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.engines.pubsub import PROJECT, PubSubEmulator
from tests.integration.case import SharedCase
from tests.integration.clients import CODECS, Answer
from tests.integration.daemon import Daemon
from tests.integration.load import in_threads, payloads
from tests.integration.waiting import wait_until

_REQUESTS = 50
_EVENTS = 5
_PROMPT_SECONDS = 2


class PubSubTests(SharedCase):
    """One emulator; each test has a service of its own, which acknowledges after delivery."""

    emulator: PubSubEmulator

    @classmethod
    def share_setup(cls) -> None:
        cls.emulator = PubSubEmulator()
        cls.at_class_end(cls.emulator.kill)
        cls.emulator.start()

    def settings(self, **settings: object) -> dict[str, object]:
        return {
            "PUBLISHER_TYPE": "pubsub",
            "PUBLISHER_PUBSUB_PROJECT_ID": PROJECT,
            "PUBSUB_EMULATOR_HOST": self.emulator.host,
            "EVENT_ACK": 1,
            "EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "%s",
            **settings,
        }

    def start(self, **settings: object) -> Daemon:
        return self.start_daemon(self.settings(**settings))

    def send(self, daemon: Daemon, event_type: str, payload: bytes) -> tuple[Answer, float]:
        """Send one event; the answer and its seconds."""
        with CODECS["rest-protobuf"](daemon, "client") as client:
            began = time.monotonic()
            return client.send("guid", [(event_type, payload)]), time.monotonic() - began

    def test_every_codec(self) -> None:
        """Each event of each encoding arrives once, byte for byte."""
        topics = [f"every-{codec}" for codec in CODECS]
        for topic in topics:
            self.emulator.create_topic(topic)
        daemon = self.start()
        sent: list[tuple[str, bytes]] = []
        wrong: list[Answer] = []

        def run(index: int) -> None:
            codec = list(CODECS)[index]
            source = payloads(codec, index)
            with CODECS[codec](daemon, codec) as client:
                for number in range(_REQUESTS):
                    events = [(f"every-{codec}", next(source)) for _ in range(_EVENTS)]
                    answer = client.send(str(number), events)
                    if not answer.ok:
                        wrong.append(answer)
                    sent.extend(events)

        in_threads(run, len(CODECS))
        self.assertEqual(wrong, [])
        taken = self.emulator.read(topics, _REQUESTS * _EVENTS)
        self.assertEqual(Counter(taken), Counter(sent))
        for topic in topics:
            self.assertEqual(
                daemon.metric("pubsub_messages_delivered_total", topic=topic), _REQUESTS * _EVENTS
            )
        self.assertEqual(daemon.stop(), 0)
        self.assertIn("no accepted event was lost", daemon.log())

    def test_unknown_topic(self) -> None:
        """An event of a topic that does not exist is told so at once; others arrive."""
        self.emulator.create_topic("known")
        daemon = self.start()
        answer, seconds = self.send(daemon, "missing", b"1")
        self.assertIn("topic missing does not exist", answer.reason)
        self.assertLess(seconds, _PROMPT_SECONDS)
        self.assertTrue(self.send(daemon, "known", b"2")[0].ok)
        self.assertEqual(self.emulator.read(["known"], 1), [("known", b"2")])
        self.assertEqual(daemon.metric("pubsub_unknown_topic_failure_total", topic="missing"), 1)
        self.assertIsNone(self.emulator.topic("missing"))

    def test_auto_create(self) -> None:
        """With auto-create a topic is made with its retention, and again when it was deleted."""
        daemon = self.start(
            PUBLISHER_PUBSUB_TOPIC_AUTOCREATE="true", PUBLISHER_PUBSUB_TOPIC_RETENTION_MS=600_000
        )
        self.assertTrue(self.send(daemon, "made", b"1")[0].ok)
        topic = self.emulator.topic("made")
        self.assertEqual(topic.message_retention_duration.total_seconds(), 600)
        self.emulator.subscribe("made")
        self.emulator.delete_topic("made")
        self.assertTrue(self.send(daemon, "made", b"2")[0].ok)
        self.assertIsNotNone(self.emulator.topic("made"))

    def test_absent_at_start(self) -> None:
        """Without Pub/Sub it starts, says so, answers /ping, and delivers once it is there."""
        self.emulator.kill()
        try:
            daemon = self.start(PUBLISHER_PUBSUB_TOPIC_AUTOCREATE="true")
            wait_until(
                lambda: "is unreachable; retrying" in daemon.log(), "a line that it is absent"
            )
            self.assertEqual(daemon.metric("destination_reachable_current"), 0)
            with ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(self.send, daemon, "late", b"1")
                wait_until(lambda: daemon.metric("events_waiting_current") == 1, "an event waits")
                self.assertTrue(daemon.ping())
                self.emulator.start()
                self.assertTrue(waiting.result(30)[0].ok)
        finally:
            self.emulator.kill()
            self.emulator.start()
        self.assertEqual(daemon.metric("pubsub_messages_delivered_total"), 1)

    def test_gone_and_back(self) -> None:
        """Events sent while Pub/Sub is gone fail at their deadline; later ones arrive."""
        self.emulator.create_topic("back")
        daemon = self.start(PUBLISHER_PUBSUB_PUBLISH_TIMEOUT_MS=1000)
        self.assertTrue(self.send(daemon, "back", b"1")[0].ok)
        self.emulator.kill()
        try:
            answer, seconds = self.send(daemon, "back", b"2")
            self.assertIn("Pub/Sub is unreachable", answer.reason)
            self.assertLess(seconds, 1 + _PROMPT_SECONDS)
            wait_until(lambda: "is unreachable; retrying" in daemon.log(), "a line of it")
            self.assertEqual(daemon.metric("pubsub_unreachable_failure_total"), 1)
        finally:
            self.emulator.start()
        self.emulator.create_topic("back")
        wait_until(lambda: self.send(daemon, "back", b"3")[0].ok, "an event is delivered", 5)
        self.assertIn(("back", b"3"), self.emulator.read(["back"], 1))

    def test_order_and_metadata(self) -> None:
        """Events of a connection arrive in order, with what tells them apart."""
        self.emulator.create_topic("ordered")
        daemon = self.start(
            EVENT_PARTITION_KEY="connection",
            EVENT_METADATA_ENABLED="true",
            PUBLISHER_PUBSUB_PUBLISH_COUNT_THRESHOLD=7,
        )
        with CODECS["websocket-binary"](daemon, "anna") as client:
            for number in range(40):
                events = [("ordered", b"%d/%d" % (number, index)) for index in range(3)]
                self.assertTrue(client.send(str(number), events).ok)
        found = self.emulator.messages("ordered", 120)
        self.assertEqual(
            [message.data for message in found],
            [b"%d/%d" % (number, index) for number in range(40) for index in range(3)],
        )
        self.assertEqual({message.ordering_key for message in found}, {"--default--/anna"})
        for message in found:
            self.assertEqual(
                b"%s/%s"
                % (
                    message.attributes["req_guid"].encode(),
                    message.attributes["event_index"].encode(),
                ),
                message.data,
            )

    def test_stop_with_events_left(self) -> None:
        """Stopped while Pub/Sub is gone, it says exactly how many events are undelivered."""
        self.emulator.kill()
        try:
            daemon = self.start(EVENT_ACK=0, WORKER_BUFFER_FLUSH_TIMEOUT_MS=500)
            with CODECS["rest-json"](daemon, "client") as client:
                for _ in range(20):
                    self.assertTrue(client.send("guid", [("left", b"1")] * 7).ok)
            self.assertEqual(daemon.stop(), 0)
            self.assertIn("; 140 accepted events were not delivered", daemon.log())
        finally:
            self.emulator.start()

    def test_credentials_that_cannot_be_used(self) -> None:
        """A credentials file that is not there stops the start with one line."""
        daemon = Daemon(
            self.settings(PUBSUB_EMULATOR_HOST="", PUBLISHER_PUBSUB_CREDENTIALS="/no/file")
        )
        self.addCleanup(daemon.kill)
        done = daemon.run()
        self.assertEqual(done.returncode, 1)
        self.assertIn(
            "cannot start: PUBLISHER_PUBSUB_CREDENTIALS: /no/file: No such file or directory",
            done.stdout,
        )
        self.assertNotIn("Traceback", done.stdout)
