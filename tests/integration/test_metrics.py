"""Numbers one can trust: they add up, on StatsD as on Prometheus, and no client bloats them."""

from __future__ import annotations

import tempfile
import threading
import time
from collections import Counter
from functools import partial
from pathlib import Path

import grpc
from twisted.trial.unittest import SynchronousTestCase

from raccoon.metrics.names import COUNTER, GAUGE, METRICS
from tests.engines.kafka import KafkaBroker
from tests.integration.case import SharedCase
from tests.integration.clients import BAD_REQUEST, CODECS, Client, protobuf_request
from tests.integration.daemon import Daemon, Labels
from tests.integration.load import payloads
from tests.integration.raw import EVENTS, RawSocket
from tests.integration.statsd import StatsdCapture
from tests.integration.waiting import wait_until

_KINDS = {metric.name: metric.kind for metric in METRICS}
_FLUSH_MS = 200
_EVENTS = 5
# Of these a scrape and a flush at another moment cannot be the same.
_OF_THE_PROCESS = ("server_", "reactor_")
_DISTINCT = 100_000
_WARM = 20_000
_PIPELINED = 250
_GROWTH = 8 << 20
_SCRAPE_BYTES = 1 << 20
_STATSD_SERIES = 5000

PUBLISHER = '''
class NullPublisher:
    """Confirms everything, and counts it as Kafka's publisher does."""

    name = "null"
    destination = "nothing"
    reachable = True

    def __init__(self, context):
        self._context = context

    def start(self):
        pass

    def publish(self, requests):
        for request in requests:
            for event_type in request.types:
                labels = (self._context.route(event_type), request.identifier.group, event_type)
                self._context.metrics.count("kafka_messages_delivered_total", 1, labels)
        return [None] * len(requests)

    def close(self, timeout):
        return 0
'''


def sum_of(samples: dict[tuple[str, Labels], float], name: str) -> float:
    """All samples of a name together."""
    return sum(value for (found, _), value in samples.items() if found == name)


class Mixed:
    """Clients of every codec that send good, bad, empty and repeated requests until stopped.

    Attributes:
        events: how many they sent in requests that can be read.
        refused: how many of these were answered `overloaded`.
        bad: requests that were refused as bad.
    """

    def __init__(self, daemon: Daemon, event_type: str) -> None:
        self._daemon = daemon
        self._type = event_type
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self.events = self.refused = self.bad = 0
        self.by_codec: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(codec, index), daemon=True)
            for codec in CODECS
            for index in range(3)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send no more; returns once every client has its last answer."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(60)
        if self.errors:
            raise self.errors[0]

    def _run(self, codec: str, index: int) -> None:
        source = payloads(f"{codec}-{index}", index)
        number = 0
        try:
            with CODECS[codec](self._daemon, f"{codec}-{index}") as client:
                while not self._stopping.is_set():
                    number += 1
                    batch = [(self._type, next(source)) for _ in range(_EVENTS)]
                    self._send(client, codec, str(number), batch)
                    if number % 5 == 0:
                        self._send(client, codec, str(number), batch)
                    if number % 7 == 0:
                        self._send(client, codec, "", [])
                    if number % 11 == 0:
                        self._send_bad(client)
        except BaseException as error:
            self.errors.append(error)

    def _send(self, client: Client, codec: str, guid: str, batch: list[tuple[str, bytes]]) -> None:
        answer = client.send(guid, batch)
        with self._lock:
            self.events += len(batch)
            self.by_codec[codec] += 1
            if "overloaded" in answer.reason:
                self.refused += len(batch)
        if not answer.ok:
            time.sleep(0.002)

    def _send_bad(self, client: Client) -> None:
        code: int | grpc.StatusCode
        try:
            code = client.send("bad", [(self._type, b"good"), ("not a type", b"")]).code
        except grpc.RpcError as error:
            code = error.code()
        if code not in (BAD_REQUEST, grpc.StatusCode.INVALID_ARGUMENT):
            raise AssertionError(f"a bad request was answered {code}")
        with self._lock:
            self.bad += 1


class MetricsCase(SharedCase):
    """A StatsD of its own for each test."""

    def setUp(self) -> None:
        super().setUp()
        self.capture = StatsdCapture()
        self.addCleanup(self.capture.close)

    @property
    def statsd(self) -> dict[str, object]:
        """The settings that send to it."""
        return {
            "METRIC_STATSD_ENABLED": "true",
            "METRIC_STATSD_ADDRESS": self.capture.address,
            "METRIC_STATSD_FLUSH_PERIOD_MS": _FLUSH_MS,
        }

    def check_sum(self, samples: dict[tuple[str, Labels], float]) -> None:
        """It holds in this scrape, to the event."""
        terms = {
            name: sum_of(samples, f"events_{name}")
            for name in ("delivered_total", "refused_total", "failed_total", "waiting_current")
        }
        self.assertEqual(sum_of(samples, "events_rx_total"), sum(terms.values()), terms)

    def check_agreement(self, samples: dict[tuple[str, Labels], float]) -> None:
        """What StatsD was sent is what Prometheus was served."""
        counters: Counter[tuple[str, Labels]] = Counter()
        gauges: dict[tuple[str, Labels], float] = {}
        timings: Counter[tuple[str, Labels]] = Counter()
        for (name, labels), value in samples.items():
            series = frozenset((k, v.replace(" ", "_").replace(":", "_")) for k, v in labels if v)
            if _KINDS.get(name) == COUNTER:
                counters[name, series] += value  # type: ignore[assignment]
            elif _KINDS.get(name) == GAUGE and not name.startswith(_OF_THE_PROCESS):
                gauges[name, series] = value
            elif name.endswith("_count") and not name.startswith(_OF_THE_PROCESS):
                timings[name.removesuffix("_count"), series] += value  # type: ignore[assignment]
        self.assertEqual(self.capture.malformed, [])
        self.assertEqual(+self.capture.counters, +counters)
        self.assertEqual({key: self.capture.gauges.get(key) for key in gauges}, gauges)
        sent = {
            key: round(value)
            for key, value in self.capture.timings.items()
            if not key[0].startswith(_OF_THE_PROCESS)
        }
        self.assertEqual(sent, dict(+timings))

    def after_a_flush(self, daemon: Daemon) -> dict[tuple[str, Labels], float]:
        """A scrape of a service at rest, all of which StatsD has been sent."""
        samples = daemon.metrics()
        time.sleep(3 * _FLUSH_MS / 1000)
        return samples


class AgreementTests(MetricsCase):
    """The log as the destination."""

    @classmethod
    def share_setup(cls) -> None:
        """Nothing is shared."""

    def test_load_statsd_and_prometheus(self) -> None:
        """Clients, StatsD and Prometheus count alike; the last counts are sent at the stop."""
        daemon = self.start_daemon(
            {
                "PUBLISHER_TYPE": "log",
                "LOG_LEVEL": "warn",
                "EVENT_ACK": 1,
                "SERVER_WEBSOCKET_CONN_GROUP_HEADER": "X-Group",
                **self.statsd,
            }
        )
        self.check_unsafe_group(daemon)
        mixed = Mixed(daemon, "click")
        wait_until(
            lambda: len(mixed.by_codec) == len(CODECS) and mixed.by_codec.total() > 2000,
            "2,000 requests",
            timeout=40,
        )
        mixed.stop()
        wait_until(
            lambda: daemon.metric("connections_count_current") == 0, "every connection closed"
        )
        samples = self.after_a_flush(daemon)
        self.check_sum(samples)
        self.check_agreement(samples)
        self.assertEqual(self.capture.counted("events_delivered_total"), mixed.events + 1)
        self.assertEqual(sum_of(samples, "events_rx_total"), mixed.events + 1)
        with CODECS["rest-json"](daemon, "last") as client:
            self.assertTrue(client.send("last", [("click", b"last")]).ok)
            self.assertEqual(daemon.stop(), 0, daemon.log())
        self.capture.close()
        self.assertEqual(self.capture.counted("events_delivered_total"), mixed.events + 2)
        self.assertEqual(self.capture.gauges["ready_current", frozenset()], 0)
        self.assertLessEqual(self.capture.largest, 1432)
        self.assertNotIn("StatsD", daemon.log())
        self.assertNotIn("Traceback", daemon.log())

    def check_unsafe_group(self, daemon: Daemon) -> None:
        """A group that would end a tag, if it could."""
        with RawSocket(daemon.http_port) as raw:
            raw.send(post("a b:c", protobuf_request("x", [("click", b"1")])))
            self.assertTrue(raw.socket.recv(65536).startswith(b"HTTP/1.1 200"))

    def test_nobody_there(self) -> None:
        """An unknown name, or a port where nothing listens, is one line and stops nothing."""
        nobody = StatsdCapture()
        nobody.close()
        for address in ("no-such-host.invalid:8125", nobody.address):
            daemon = self.start_daemon(
                {
                    "PUBLISHER_TYPE": "log",
                    **self.statsd,
                    "METRIC_STATSD_ADDRESS": address,
                    "METRIC_STATSD_FLUSH_PERIOD_MS": 20,
                }
            )
            wait_until(partial(daemon.logged, "retrying"), "a line in the log")
            with CODECS["grpc"](daemon, "client") as client:
                self.assertTrue(client.send("a", [("click", b"1")]).ok)
            time.sleep(0.5)
            self.assertEqual(daemon.stop(), 0, daemon.log())
            lines = [line for line in daemon.log().splitlines() if "StatsD" in line]
            self.assertEqual(len(lines), 1, lines)
            self.assertIn(f"StatsD at {address}: ", lines[0])
            self.assertNotIn("Traceback", daemon.log())


class SumTests(MetricsCase):
    """Kafka as the destination, killed and back."""

    broker: KafkaBroker

    @classmethod
    def share_setup(cls) -> None:
        cls.broker = cls.share_broker()

    def test_every_scrape_adds_up(self) -> None:
        """Overload, bad requests, duplicates, Kafka gone and back: the sum holds in each scrape."""
        self.broker.create_topic("sum")
        daemon = self.start_daemon(
            {
                "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": self.broker.bootstrap,
                "PUBLISHER_KAFKA_CLIENT_DELIVERY_TIMEOUT_MS": 2000,
                "PUBLISHER_KAFKA_CLIENT_RECONNECT_BACKOFF_MAX_MS": 500,
                "EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "%s",
                "SERVER_BATCH_DEDUP_IN_CONNECTION_ENABLED": "true",
                "WORKER_POOL_SIZE": 1,
                "WORKER_BUFFER_CHANNEL_SIZE": 5,
                **self.statsd,
            }
        )
        mixed = Mixed(daemon, "sum")
        self.addCleanup(mixed._stopping.set)
        self.scrape_for(daemon, 3)
        self.broker.kill()
        self.scrape_for(daemon, 5)
        self.assertGreater(daemon.metric("events_failed_total"), 0)
        self.broker.start()
        delivered = daemon.metric("events_delivered_total")
        self.scrape_for(daemon, 3)
        wait_until(
            lambda: daemon.metric("events_delivered_total") > delivered, "deliveries again", 30
        )
        mixed.stop()
        wait_until(lambda: daemon.metric("events_waiting_current") == 0, "no event waits", 30)
        wait_until(lambda: daemon.metric("connections_count_current") == 0, "no connections")
        samples = self.after_a_flush(daemon)
        self.check_sum(samples)
        self.check_agreement(samples)
        for term in ("delivered", "refused", "failed", "in_duplicates"):
            self.assertGreater(sum_of(samples, f"events_{term}_total"), 0, term)
        received = sum_of(samples, "events_rx_total")
        self.assertEqual(received + sum_of(samples, "events_in_duplicates_total"), mixed.events)
        self.assertEqual(sum_of(samples, "events_refused_total"), mixed.refused)
        serde = daemon.metric("batches_read_total", status="failed", reason="serde")
        self.assertEqual(serde, mixed.bad)
        # An event that was given up may have been written all the same.
        stored = len(self.broker.read(["sum"]))
        self.assertGreaterEqual(stored, sum_of(samples, "events_delivered_total"))
        self.assertNotIn("Traceback", daemon.log())

    def scrape_for(self, daemon: Daemon, seconds: float) -> None:
        """Scrape without pause; every scrape adds up."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.check_sum(daemon.metrics())

    def test_left_at_shutdown(self) -> None:
        """What is left undelivered when the service stops is in its last counts, as failed."""
        self.broker.create_topic("left")
        daemon = self.start_daemon(
            {
                "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": self.broker.bootstrap,
                "EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "%s",
                "WORKER_BUFFER_CHANNEL_SIZE": 1000,
                "WORKER_BUFFER_FLUSH_TIMEOUT_MS": 2000,
                **self.statsd,
            }
        )
        with CODECS["websocket-binary"](daemon, "client") as client:
            self.assertTrue(client.send("1", [("left", b"1")]).ok)
            wait_until(lambda: daemon.metric("events_delivered_total") == 1, "a delivery")
            self.broker.kill()
            try:
                for number in range(50):
                    self.assertTrue(client.send(str(number), [("left", b"2")] * 3).ok)
                self.assertEqual(daemon.stop(), 0, daemon.log())
            finally:
                self.broker.start()
        self.capture.close()
        self.assertEqual(self.capture.counted("events_rx_total"), 151)
        self.assertEqual(self.capture.counted("events_delivered_total"), 1)
        self.assertEqual(self.capture.counted("events_failed_total"), 150)
        self.assertEqual(self.capture.gauges["events_waiting_current", frozenset()], 0)
        self.assertEqual(self.capture.gauges["events_left_at_shutdown_current", frozenset()], 150)


class HostileTests(SynchronousTestCase):
    """A client that makes up names."""

    def test_distinct_values(self) -> None:
        """100,000 types, groups and topics: small scrapes, few StatsD series, flat memory."""
        capture = StatsdCapture()
        self.addCleanup(capture.close)
        daemon = Daemon(
            {
                "PYTHONPATH": self.install_publisher(),
                "PUBLISHER_TYPE": "null",
                "LOG_LEVEL": "error",
                "SERVER_WEBSOCKET_CONN_GROUP_HEADER": "X-Group",
                "WORKER_BUFFER_CHANNEL_SIZE": 10_000,
                "METRIC_STATSD_ENABLED": "true",
                "METRIC_STATSD_ADDRESS": capture.address,
                "METRIC_STATSD_FLUSH_PERIOD_MS": 1000,
            }
        )
        self.addCleanup(daemon.kill)
        daemon.start()
        self.send(daemon, 0, _WARM)
        before = daemon.resident()
        self.send(daemon, _WARM, _DISTINCT)
        daemon.scrape()
        growth = daemon.resident() - before
        wait_until(lambda: daemon.metric("events_delivered_total") == _DISTINCT, "all delivered")
        self.assertLess(growth, _GROWTH)
        self.assertLess(len(daemon.scrape()), _SCRAPE_BYTES)
        for name in ("events_rx_total", "kafka_messages_delivered_total"):
            self.assertEqual(daemon.metric(name), _DISTINCT)
            self.assertGreater(daemon.metric(name, event_type="other"), _DISTINCT * 0.9)
        self.assertEqual(daemon.stop(), 0, daemon.log())
        capture.close()
        self.assertEqual(capture.counted("events_rx_total"), _DISTINCT)
        self.assertEqual(capture.counted("kafka_messages_delivered_total"), _DISTINCT)
        series = len(capture.counters) + len(capture.gauges) + len(capture.timings)
        self.assertLess(series, _STATSD_SERIES)
        self.assertEqual(capture.malformed, [])

    def install_publisher(self) -> str:
        """A directory that holds a package with a publisher."""
        directory = tempfile.TemporaryDirectory(prefix="raccoon-publisher-")
        self.addCleanup(directory.cleanup)
        information = Path(directory.name) / "null_post-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: null-post\n")
        (information / "entry_points.txt").write_text(
            "[raccoon.publishers]\nnull = null_post:NullPublisher\n"
        )
        (Path(directory.name) / "null_post.py").write_text(
            "from zope.interface import implementer\n"
            "from raccoon.interfaces import IPublisher\n"
            f"{PUBLISHER}\n"
            "NullPublisher = implementer(IPublisher)(NullPublisher)\n"
        )
        return directory.name

    def send(self, daemon: Daemon, first: int, last: int) -> None:
        """One event for each number, of a type and in a group that no other has."""
        with RawSocket(daemon.http_port) as raw:
            for start in range(first, last, _PIPELINED):
                numbers = range(start, min(start + _PIPELINED, last))
                raw.send(
                    b"".join(
                        post(f"group-{n}", protobuf_request("", [(f"type-{n}", b"x")]))
                        for n in numbers
                    )
                )
                answered = b""
                while answered.count(b"HTTP/1.1 200 ") < len(numbers):
                    answered += raw.socket.recv(1 << 20)


def post(group: str, body: bytes) -> bytes:
    """A REST request in a group."""
    return (
        f"POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/proto\r\n"
        f"X-User-ID: id\r\nX-Group: {group}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
