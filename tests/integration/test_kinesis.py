"""A real service on moto's Kinesis."""

from __future__ import annotations

import time
from collections import Counter
from itertools import islice
from typing import Any

from tests.engines.kinesis import KinesisServer
from tests.engines.kinesis_proxy import KinesisProxy
from tests.integration.case import SharedCase
from tests.integration.clients import BAD_REQUEST, CODECS
from tests.integration.daemon import Daemon
from tests.integration.load import Load, in_threads, payloads
from tests.integration.waiting import wait_until

_MIB = 1 << 20


class KinesisTests(SharedCase):
    """One Kinesis; each test has a service and streams of its own."""

    server: KinesisServer

    @classmethod
    def share_setup(cls) -> None:
        cls.server = KinesisServer()
        cls.at_class_end(cls.server.kill)
        cls.server.start()

    def start(self, engine: KinesisServer | KinesisProxy, **settings: object) -> Daemon:
        """A service that acknowledges after delivery, to the stream of the event's type."""
        return self.start_daemon(
            {
                **engine.environment(),
                "PUBLISHER_TYPE": "kinesis",
                "EVENT_ACK": 1,
                "EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "%s",
                "PUBLISHER_KINESIS_STREAM_PROBE_INTERVAL_MS": 100,
                **settings,
            }
        )

    def proxy(self, failing: float = 0.0) -> KinesisProxy:
        """A proxy before the Kinesis."""
        proxy = KinesisProxy(self.server, failing)
        self.addCleanup(proxy.stop)
        proxy.start()
        return proxy

    def stored(self, stream: str) -> Counter[bytes]:
        """What a stream holds."""
        return Counter(data for _, data in self.server.read([stream]))

    def assert_stopped_well(self, daemon: Daemon) -> None:
        """It ends in an orderly way, and had no trouble that it did not know."""
        self.assertEqual(daemon.stop(), 0, daemon.log())
        self.assertIn("no accepted event was lost", daemon.log())
        self.assertNotIn("Traceback", daemon.log())

    def test_byte_for_byte(self) -> None:
        """Events of every protocol and codec arrive in their streams, once, byte for byte."""
        for stream in ("first", "second"):
            self.server.create_stream(stream)
        daemon = self.start(self.server)
        sent: dict[str, list[bytes]] = {"first": [], "second": []}
        for codec in CODECS:
            source = payloads(codec)
            with CODECS[codec](daemon, codec) as client:
                for _ in range(20):
                    events = [("first", next(source)), ("second", next(source)), ("first", b"")]
                    answer = client.send("guid", events)
                    self.assertTrue(answer.ok, answer)
                    for stream, data in events:
                        sent[stream].append(data)
        for stream, expected in sent.items():
            self.assertEqual(self.stored(stream), Counter(expected))
        delivered = daemon.metric("kinesis_messages_delivered_total")
        self.assertEqual(delivered, sum(map(len, sent.values())))
        self.assert_stopped_well(daemon)

    def test_missing_stream(self) -> None:
        """A stream that does not exist fails the requests for it by its name."""
        self.server.create_stream("there")
        daemon = self.start(self.server)
        with CODECS["grpc"](daemon, "client") as client:
            answer = client.send("mixed", [("there", b"1"), ("missing", b"2")])
            self.assertEqual(answer.code, BAD_REQUEST)
            self.assertIn("1 of 2 events failed: stream missing does not exist", answer.reason)
            self.assertTrue(client.send("good", [("there", b"2")]).ok)
        self.assertEqual(daemon.metric("kinesis_unknown_stream_failure_total", stream="missing"), 1)
        self.assertEqual(self.stored("there"), Counter([b"1", b"2"]))
        self.assertNotIn("missing", self.server.streams())

    def test_autocreate(self) -> None:
        """Asked to, it makes missing streams as its options say, and delivers to them."""
        daemon = self.start(
            self.server,
            PUBLISHER_KINESIS_STREAM_AUTOCREATE="true",
            PUBLISHER_KINESIS_STREAM_MODE="PROVISIONED",
            PUBLISHER_KINESIS_STREAM_SHARDS=3,
        )
        names = [f"made-{i}" for i in range(12)]
        with CODECS["rest-json"](daemon, "client") as client:
            answer = client.send("guid", [(name, name.encode()) for name in names])
        self.assertTrue(answer.ok, answer)
        for name in names:
            self.assertEqual(self.stored(name), Counter([name.encode()]))
            self.assertEqual(self.server.stream(name)["OpenShardCount"], 3)

    def test_too_large(self) -> None:
        """An event that is too large fails its own request, in other words than throttling."""
        self.server.create_stream("large")
        daemon = self.start(self.server)
        with CODECS["rest-protobuf"](daemon, "client") as client:
            answer = client.send("guid", [("large", b"beside"), ("large", b"x" * (_MIB + 1))])
        self.assertEqual(answer.code, BAD_REQUEST)
        self.assertIn("1 of 2 events failed: event too large for stream large", answer.reason)
        self.assertEqual(daemon.metric("kinesis_message_too_large_total", stream="large"), 1)
        self.assertEqual(daemon.metric("kinesis_stream_throughput_exceeded_total"), 0)
        self.assertEqual(self.stored("large"), Counter([b"beside"]))

    def test_throttled(self) -> None:
        """A stream that takes no more until the deadline fails by that name."""
        self.server.create_stream("busy")
        proxy = self.proxy()
        proxy.answers = ["ProvisionedThroughputExceededException"] * 1000
        daemon = self.start(proxy, PUBLISHER_KINESIS_PUBLISH_TIMEOUT_MS=1000)
        with CODECS["websocket-binary"](daemon, "client") as client:
            answer = client.send("guid", [("busy", b"1")])
        self.assertIn(
            "1 of 1 events failed: stream busy takes no more for now"
            " (ProvisionedThroughputExceededException)",
            answer.reason,
        )
        self.assertEqual(
            daemon.metric("kinesis_stream_throughput_exceeded_total", stream="busy"), 1
        )

    def test_partition_key(self) -> None:
        """With a key a client's events are in one shard, in the order it sent them."""
        self.server.create_stream("keyed", 4)
        daemon = self.start(self.server, EVENT_PARTITION_KEY="connection")
        sent: dict[str, list[bytes]] = {}

        def send(index: int) -> None:
            codec = list(CODECS)[index % len(CODECS)]
            name = f"{codec}-{index}"
            source = payloads(name, index)
            sent[f"--default--/{name}"] = events = list(islice(source, 300))
            with CODECS[codec](daemon, name) as client:
                for start in range(0, len(events), 5):
                    part = [("keyed", data) for data in events[start : start + 5]]
                    assert client.send("guid", part).ok

        in_threads(send, 10)
        stored: dict[str, list[bytes]] = {}
        shards: dict[str, set[str]] = {}
        for shard, key, data in self.server.records("keyed"):
            stored.setdefault(key, []).append(data)
            shards.setdefault(key, set()).add(shard)
        self.assertEqual(stored, sent)
        self.assertEqual({len(found) for found in shards.values()}, {1})

    def test_absent_at_start(self) -> None:
        """Without Kinesis it starts, says so, and delivers once Kinesis is there."""
        self.server.create_stream("late")
        proxy = self.proxy()
        proxy.stop()
        daemon = self.start(proxy)
        wait_until(
            lambda: "is unreachable; retrying" in daemon.log(), "a line that Kinesis is absent"
        )
        self.assertEqual(daemon.metric("destination_reachable_current"), 0)
        answers: list[Any] = []

        def send(index: int) -> None:
            codec = list(CODECS)[index]
            with CODECS[codec](daemon, codec) as client:
                if index == 0:
                    proxy.start()
                answers.append(client.send(codec, [("late", codec.encode())]))

        in_threads(send, len(CODECS))
        self.assertTrue(all(answer.ok for answer in answers), answers)
        self.assertEqual(self.stored("late"), Counter(codec.encode() for codec in CODECS))
        wait_until(lambda: daemon.metric("destination_reachable_current") == 1, "reachable again")
        self.assertEqual(daemon.log().count("is unreachable; retrying"), 1, daemon.log())
        self.assert_stopped_well(daemon)

    def test_gone_and_back_under_load(self) -> None:
        """Kinesis is gone for a while: what was acknowledged is there, and it goes on."""
        self.server.create_stream("gone")
        proxy = self.proxy()
        daemon = self.start(proxy)
        load = Load(daemon, "gone")
        load.start()
        self.addCleanup(load.stop)
        wait_until(lambda: load.requests() > 300, "300 acknowledged requests", timeout=30)
        proxy.stop()
        wait_until(lambda: daemon.metric("destination_reachable_current") == 0, "unreachable")
        time.sleep(1)
        self.assertTrue(daemon.ping(timeout=1))
        proxy.start()
        before = Counter(load.by_codec)
        wait_until(
            lambda: all(load.by_codec[codec] > before[codec] + 10 for codec in CODECS),
            "each codec's requests acknowledged again",
            timeout=30,
        )
        load.stop()
        self.assert_stopped_well(daemon)
        self.assertEqual(Counter(load.acknowledged) - self.stored("gone"), Counter())

    def test_one_in_a_hundred_fails(self) -> None:
        """With 1% of the records failing nothing is lost, and only those are sent again."""
        self.check_failing("one-percent", 0.01)

    def test_a_third_fails(self) -> None:
        """With 30% of the records failing nothing is lost, and only those are sent again."""
        self.check_failing("thirty-percent", 0.3)

    def check_failing(self, stream: str, failing: float) -> None:
        """Send 5,000 events by all codecs, and compare what was sent with what was refused."""
        self.server.create_stream(stream, 4)
        proxy = self.proxy(failing)
        daemon = self.start(proxy)
        events: list[bytes] = []

        def send(index: int) -> None:
            codec = list(CODECS)[index % len(CODECS)]
            source = payloads(f"{stream}-{index}", index)
            with CODECS[codec](daemon, str(index)) as client:
                for _ in range(10):
                    part = list(islice(source, 50))
                    assert client.send("guid", [(stream, data) for data in part]).ok
                    events.extend(part)

        in_threads(send, 10)
        self.assertEqual(len(events), 5000)
        self.assertEqual(self.stored(stream), Counter(events))
        refused = proxy.refused.total()
        self.assertGreater(refused, 0.5 * failing * len(events))
        self.assertEqual(proxy.sent, Counter(events) + proxy.refused)
        self.assertEqual(daemon.metric("kinesis_records_sent_again_total"), refused)
        self.assertEqual(daemon.metric("kinesis_messages_delivered_total"), len(events))
        self.assert_stopped_well(daemon)

    def test_frozen_at_the_end(self) -> None:
        """What a Kinesis that does not answer holds at the stop is counted to the event."""
        server = KinesisServer()
        self.addCleanup(server.kill)
        server.start()
        server.create_stream("frozen")
        daemon = self.start(server, EVENT_ACK=0, WORKER_BUFFER_FLUSH_TIMEOUT_MS=1000)
        with CODECS["rest-json"](daemon, "client") as client:
            self.assertTrue(client.send("guid", [("frozen", b"before")]).ok)
            wait_until(lambda: daemon.metric("events_delivered_total") == 1, "the first event")
            server.freeze()
            for _ in range(30):
                self.assertTrue(client.send("guid", [("frozen", b"after")] * 7).ok)
        self.assertEqual(daemon.stop(timeout=10), 0, daemon.log())
        self.assertIn("s; 210 accepted events were not delivered", daemon.log())

    def test_refused_options(self) -> None:
        """Without a region, or with a credentials file of no use, it ends with one clear line."""
        region = {**self.server.environment(), "PUBLISHER_TYPE": "kinesis", "AWS_REGION": ""}
        self.check_refused(region, "cannot start: PUBLISHER_KINESIS_AWS_REGION: missing")
        credentials = {
            **self.server.environment(),
            "PUBLISHER_TYPE": "kinesis",
            "PUBLISHER_KINESIS_CREDENTIALS": "/nowhere/credentials",
        }
        line = "cannot start: PUBLISHER_KINESIS_CREDENTIALS: /nowhere/credentials: "
        self.check_refused(credentials, line)

    def check_refused(self, settings: dict[str, str], line: str) -> None:
        """The start fails with this line and no traceback."""
        daemon = Daemon(settings)
        self.addCleanup(daemon.kill)
        done = daemon.run()
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertEqual(done.stdout.count(line), 1, done.stdout)
        self.assertNotIn("Traceback", done.stdout)
