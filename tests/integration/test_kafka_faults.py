"""What Kafka does wrong, and what the service makes of it."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc

from raccoon.proto.raccoon_pb2 import SendEventRequest
from raccoon.proto.raccoon_pb2_grpc import EventServiceStub
from tests.engines.kafka import KafkaBroker
from tests.integration.case import SharedCase
from tests.integration.clients import (
    BAD_REQUEST,
    CODECS,
    ID_HEADER,
    Answer,
    Events,
    grpc_channel,
    protobuf_request,
)
from tests.integration.daemon import Daemon
from tests.integration.load import Load
from tests.integration.waiting import wait_until

_PROMPT_SECONDS = 2
# How long librdkafka believes that a topic may still come to be; its own default is 30 s.
_UNKNOWN_TOPIC_MS = 3000


class KafkaFaultTests(SharedCase):
    """One broker that makes no topic by itself; each test has a service of its own."""

    broker: KafkaBroker

    @classmethod
    def share_setup(cls) -> None:
        cls.broker = cls.share_broker(auto_create=False)

    def start(self, **settings: object) -> Daemon:
        """A service that acknowledges after delivery, to the topic of the event's type."""
        return self.start_daemon(
            {
                "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": self.broker.bootstrap,
                "PUBLISHER_KAFKA_CLIENT_RECONNECT_BACKOFF_MAX_MS": 500,
                "EVENT_ACK": 1,
                "EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "%s",
                **settings,
            }
        )

    def send_in_background(
        self, daemon: Daemon, requests: dict[str, Events]
    ) -> dict[str, tuple[Answer, float]]:
        """Send each request at once, on a connection of its own; each answer and its seconds."""

        def send(guid: str) -> tuple[Answer, float]:
            with CODECS["rest-protobuf"](daemon, guid) as client:
                began = time.monotonic()
                answer = client.send(guid, requests[guid])
                return answer, time.monotonic() - began

        with ThreadPoolExecutor(len(requests)) as pool:
            return dict(zip(requests, pool.map(send, requests), strict=True))

    def test_absent_at_start(self) -> None:
        """Without Kafka it starts, says so, answers /ping, and delivers once Kafka is there."""
        self.broker.create_topic("late")
        self.broker.kill()
        try:
            daemon = self.start()
            wait_until(
                lambda: "is unreachable; retrying" in daemon.log(), "a line that Kafka is absent"
            )
            self.assertEqual(daemon.metric("destination_reachable_current"), 0)
            answers: list[Answer] = []

            def send(codec: str) -> None:
                with CODECS[codec](daemon, codec) as client:
                    answers.append(client.send(codec, [("late", codec.encode())]))

            threads = [
                threading.Thread(target=send, args=(codec,), daemon=True) for codec in CODECS
            ]
            for thread in threads:
                thread.start()
            wait_until(lambda: daemon.metric("events_rx_total") == len(CODECS), "the requests")
            with grpc_channel(daemon) as channel:
                self.give_up_waiting(channel)
            self.assertTrue(daemon.ping(timeout=1))
            self.assertEqual(answers, [])
        finally:
            self.broker.start()
        for thread in threads:
            thread.join(20)
        self.assertTrue(all(answer.ok for answer in answers), answers)
        self.assertEqual({answer.guid for answer in answers}, set(CODECS))
        stored = Counter(payload for _, payload in self.broker.read(["late"]))
        self.assertEqual(
            stored, Counter([codec.encode() for codec in CODECS] + [b"cancelled", b"expired"])
        )
        wait_until(lambda: daemon.metric("destination_reachable_current") == 1, "reachable again")
        self.assertEqual(daemon.log().count("is unreachable; retrying"), 1, daemon.log())
        self.assertNotIn("Traceback", daemon.log())
        self.assertEqual(daemon.stop(), 0, daemon.log())

    def give_up_waiting(self, channel: grpc.Channel) -> None:
        """Two gRPC calls whose clients go before the answer: one cancels, one is out of time."""
        stub = EventServiceStub(channel)
        for guid in ("cancelled", "expired"):
            request = SendEventRequest.FromString(protobuf_request(guid, [("late", guid.encode())]))
            timeout = 1 if guid == "expired" else 30
            call = stub.SendEvent.future(
                request, timeout=timeout, metadata=((ID_HEADER.lower(), guid),)
            )
            if guid == "cancelled":
                time.sleep(0.5)
                call.cancel()
            else:
                with self.assertRaises(grpc.RpcError) as caught:
                    call.result()
                self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)

    def test_killed_under_load(self) -> None:
        """Kafka is killed and comes back: every acknowledged event is there, and it goes on."""
        self.broker.create_topic("killed")
        daemon = self.start()
        load = Load(daemon, "killed")
        load.start()
        self.addCleanup(load.stop)
        wait_until(lambda: load.requests() > 300, "300 acknowledged requests", timeout=30)
        self.broker.kill()
        time.sleep(1)
        self.assertTrue(daemon.ping(timeout=1))
        self.broker.start()
        before = Counter(load.by_codec)
        wait_until(
            lambda: all(load.by_codec[codec] > before[codec] + 10 for codec in CODECS),
            "each codec's requests acknowledged again",
            timeout=30,
        )
        load.stop()
        self.assertEqual(daemon.stop(), 0, daemon.log())
        stored = Counter(payload for _, payload in self.broker.read(["killed"]))
        self.assertEqual(Counter(load.acknowledged) - stored, Counter())
        self.assertNotIn("Traceback", daemon.log())

    def test_topic_does_not_exist(self) -> None:
        """A missing topic fails the requests for it by name, and delays no other."""
        self.broker.create_topic("there")
        daemon = self.start(
            PUBLISHER_KAFKA_CLIENT_TOPIC_METADATA_PROPAGATION_MAX_MS=_UNKNOWN_TOPIC_MS
        )
        requests: dict[str, Events] = {f"good-{i}": [("there", b"%d" % i)] for i in range(20)}
        requests["bad"] = [("missing", b"never")]
        requests["mixed"] = [("there", b"half"), ("missing", b"never")]
        answers = self.send_in_background(daemon, requests)
        for guid, (answer, took) in answers.items():
            if guid.startswith("good"):
                self.assertTrue(answer.ok, answer)
                self.assertLess(took, _PROMPT_SECONDS, guid)
            else:
                self.assertEqual(answer.code, BAD_REQUEST, answer)
                self.assertIn("topic missing does not exist", answer.reason)
                self.assertEqual(answer.guid, guid)
        self.assertIn("1 of 1 events failed", answers["bad"][0].reason)
        self.assertIn("1 of 2 events failed", answers["mixed"][0].reason)
        self.assertEqual(daemon.metric("kafka_unknown_topic_failure_total", topic="missing"), 2)
        stored = Counter(payload for _, payload in self.broker.read(["there"]))
        self.assertEqual(stored, Counter([b"%d" % i for i in range(20)] + [b"half"]))

    def test_message_too_large_for_the_client(self) -> None:
        """An event over librdkafka's message.max.bytes fails its own request only."""
        self.broker.create_topic("client-limit")
        daemon = self.start()
        self.check_too_large(daemon, "client-limit", 1_500_000)

    def test_message_too_large_for_the_topic(self) -> None:
        """An event over the topic's max.message.bytes fails its own request only."""
        self.broker.create_topic(
            "topic-limit", partitions=1, config={"max.message.bytes": "100000"}
        )
        # Enough time to gather in one batch what was sent at once.
        daemon = self.start(PUBLISHER_KAFKA_CLIENT_LINGER_MS=100)
        self.check_too_large(daemon, "topic-limit", 150_000)

    def check_too_large(self, daemon: Daemon, topic: str, size: int) -> None:
        """Send one large event among small ones."""
        requests: dict[str, Events] = {f"good-{i}": [(topic, b"%d" % i)] for i in range(20)}
        requests["large"] = [(topic, b"beside"), (topic, b"x" * size)]
        answers = self.send_in_background(daemon, requests)
        large = answers.pop("large")[0]
        self.assertEqual(large.code, BAD_REQUEST, large)
        self.assertIn("too large for Kafka", large.reason)
        failed = {guid: answer for guid, (answer, _) in answers.items() if not answer.ok}
        self.assertEqual(failed, {})
        self.assertIn("1 of 2 events failed", large.reason)
        self.assertEqual(daemon.metric("kafka_message_too_large_total", topic=topic), 1)
        stored = Counter(payload for _, payload in self.broker.read([topic]))
        self.assertEqual(stored, Counter([b"%d" % i for i in range(20)] + [b"beside"]))
