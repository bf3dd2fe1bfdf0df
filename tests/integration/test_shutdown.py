"""The end of the service: nothing acknowledged is lost, and what is left is told exactly."""

from __future__ import annotations

import re
import signal
import time
from collections import Counter

from tests.engines.kafka import KafkaBroker
from tests.integration.case import SharedCase
from tests.integration.clients import CODECS, Client
from tests.integration.daemon import Daemon
from tests.integration.load import Load, payloads
from tests.integration.waiting import wait_until

_FLUSH_SECONDS = 4
_NOTHING_LOST = "no accepted event was lost"
_LEFT = re.compile(r"\b(\d+) accepted events were not delivered")


class ShutdownTests(SharedCase):
    """One broker; each test has a service of its own."""

    broker: KafkaBroker

    @classmethod
    def share_setup(cls) -> None:
        cls.broker = cls.share_broker()

    def start(self, ack: int, **settings: object) -> Daemon:
        """A service that publishes to the topic of the event's type."""
        return self.start_daemon(
            {
                "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": self.broker.bootstrap,
                "EVENT_ACK": ack,
                "EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "%s",
                "WORKER_BUFFER_FLUSH_TIMEOUT_MS": _FLUSH_SECONDS * 1000,
                **settings,
            }
        )

    def check_under_load(self, number: signal.Signals) -> None:
        """Signal a service in the middle of load and compare Kafka with the acknowledgements."""
        daemon = self.start(1)
        topic = f"under-load-{number.name}"
        load = Load(daemon, topic)
        load.start()
        self.addCleanup(load.stop)
        wait_until(
            lambda: len(load.by_codec) == len(CODECS) and load.requests() > 500,
            "500 acknowledged requests, some of each codec",
            timeout=30,
        )
        began = time.monotonic()
        code = daemon.stop(number)
        took = time.monotonic() - began
        load.stop()
        self.assertEqual(code, 0, daemon.log())
        self.assertLess(took, _FLUSH_SECONDS)
        self.assertIn(_NOTHING_LOST, daemon.log())
        self.assertNotIn("Traceback", daemon.log())
        stored = Counter(payload for _, payload in self.broker.read([topic]))
        acknowledged = Counter(load.acknowledged)
        self.assertEqual(acknowledged - stored, Counter(), "acknowledged events are missing")
        self.assertEqual(stored.most_common(1)[0][1], 1, "an event came twice")

    def test_sigterm_under_load(self) -> None:
        """SIGTERM loses no acknowledged event, and exits with 0 within the flush timeout."""
        self.check_under_load(signal.SIGTERM)

    def test_sigint_under_load(self) -> None:
        """SIGINT loses no acknowledged event, and exits with 0 within the flush timeout."""
        self.check_under_load(signal.SIGINT)

    def test_accepted_at_level_0_is_flushed(self) -> None:
        """What was answered before it was published is delivered before the exit."""
        daemon = self.start(0, WORKER_BUFFER_CHANNEL_SIZE=10_000)
        source = payloads("flushed")
        sent: list[bytes] = []
        with CODECS["websocket-binary"](daemon, "client") as client:
            self.send(client, "flushed", 1, source, sent)  # makes the topic
            wait_until(lambda: daemon.metric("events_delivered_total") == 5, "a first delivery")
            self.send(client, "flushed", 500, source, sent)
            self.assertEqual(daemon.stop(), 0, daemon.log())
        self.assertIn(_NOTHING_LOST, daemon.log())
        stored = [payload for _, payload in self.broker.read(["flushed"])]
        self.assertEqual(Counter(stored), Counter(sent))

    def test_kafka_is_gone(self) -> None:
        """Without Kafka it exits with 0 in time, and accepted events = delivered + left."""
        self.check_without_kafka("gone", {})

    def test_kafka_is_gone_and_the_local_queue_is_full(self) -> None:
        """So it does when librdkafka's queue is full and requests wait for a worker."""
        self.check_without_kafka(
            "gone-full", {"PUBLISHER_KAFKA_CLIENT_QUEUE_BUFFERING_MAX_MESSAGES": 300}
        )

    def check_without_kafka(self, topic: str, settings: dict[str, object]) -> None:
        """Deliver some, kill Kafka, have more accepted, stop, and add up."""
        daemon = self.start(0, WORKER_BUFFER_CHANNEL_SIZE=10_000, **settings)
        source = payloads(topic)
        accepted: list[bytes] = []
        clients = [CODECS[codec](daemon, codec) for codec in ("rest-json", "grpc")]
        for client in clients:
            self.addCleanup(client.close)
            self.send(client, topic, 20, source, accepted)
        wait_until(
            lambda: daemon.metric("events_delivered_total") == len(accepted), "the first events"
        )
        delivered = list(accepted)
        self.broker.kill()
        try:
            for client in clients:
                self.send(client, topic, 100, source, accepted)
            waiting = len(accepted) - len(delivered)
            began = time.monotonic()
            code = daemon.stop()
            took = time.monotonic() - began
        finally:
            self.broker.start()
        log = daemon.log()
        self.assertEqual(code, 0, log)
        told = _LEFT.findall(log)
        self.assertEqual(told, [str(waiting)], log)
        stored = Counter(payload for _, payload in self.broker.read([topic]))
        self.assertEqual(stored, Counter(delivered))
        self.assertNotIn("Traceback", log)
        # The interpreter's own end comes on top.
        self.assertLess(took, _FLUSH_SECONDS + 0.5, log)

    def send(
        self, client: Client, topic: str, count: int, source: object, accepted: list[bytes]
    ) -> None:
        """Have `count` requests of five events accepted and note their bytes."""
        for number in range(count):
            batch = [next(source) for _ in range(5)]  # type: ignore[call-overload]
            answer = client.send(str(number), [(topic, payload) for payload in batch])
            self.assertTrue(answer.ok, answer)
            accepted += batch
