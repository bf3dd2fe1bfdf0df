"""Tests of raccoon.metrics.statsd."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from raccoon.metrics.names import METRICS
from raccoon.metrics.statsd import (
    DATAGRAM_BYTES,
    KEPT,
    SampledMetrics,
    StatsdSender,
    StatsdService,
    datagrams,
    tagged,
)
from raccoon.supervision import Supervisor
from tests.fakes import FakeObserver, ThreadlessClock

TABLE = {metric.name: metric for metric in METRICS}
RX = TABLE["events_rx_total"]
LATENCY = "server_processing_latency_milliseconds"
PERIOD = 10.0


class FakeSocket:
    """Keeps datagrams, or refuses each in its turn."""

    def __init__(self) -> None:
        self.datagrams: list[bytes] = []
        self.errors: list[OSError | None] = []
        self.closed = False

    def send(self, datagram: bytes) -> int:
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        self.datagrams.append(datagram)
        return len(datagram)

    def close(self) -> None:
        self.closed = True

    def take(self) -> list[str]:
        """The lines that came since the last call."""
        lines = [line for datagram in self.datagrams for line in datagram.decode().split("\n")]
        self.datagrams.clear()
        return lines


class Network:
    """One name with one address."""

    def __init__(self) -> None:
        self.socket = FakeSocket()
        self.asked: list[tuple[str, int]] = []
        self.address: Any = ("192.0.2.1", 8125)
        self.opened: list[Any] = []

    def resolve(self, host: str, port: int) -> tuple[int, Any]:
        self.asked.append((host, port))
        if self.address is None:
            raise socket.gaierror(-2, "Name or service not known")
        return socket.AF_INET, self.address

    def open(self, family: int, address: Any) -> FakeSocket:
        self.opened.append((family, address))
        return self.socket

    def sender(self, address: str = "statsd.test:8125") -> StatsdSender:
        return StatsdSender(address, self.resolve, self.open)


class SampleTests(SynchronousTestCase):
    """What is kept of histograms."""

    def setUp(self) -> None:
        self.metrics = SampledMetrics(label_values=3)

    def test_few(self) -> None:
        """Up to the bound every value is kept, in order, by its series."""
        for value in (1.5, 2.5):
            self.metrics.observe(LATENCY, value, ("web",))
        self.metrics.observe(LATENCY, 7, ("app",))
        taken = self.metrics.take_samples()[LATENCY]
        self.assertEqual({("web",): [2, 1.5, 2.5], ("app",): [1, 7]}, taken)

    def test_taken_once(self) -> None:
        """What was taken is not there again."""
        self.metrics.observe(LATENCY, 1, ("web",))
        self.metrics.take_samples()
        self.assertEqual({}, self.metrics.take_samples()[LATENCY])

    def test_many(self) -> None:
        """Past the bound some of all values are kept, and how many there were."""
        for value in range(100 * KEPT):
            self.metrics.observe("event_rtt_ms", value)
        count, *kept = self.metrics.take_samples()["event_rtt_ms"][()]
        self.assertEqual(100 * KEPT, count)
        self.assertEqual(KEPT, len(kept))
        # By chance alone neither would be so once in 10^20 runs.
        self.assertLess(min(kept), 30 * KEPT)
        self.assertGreater(max(kept), 70 * KEPT)

    def test_histogram_too(self) -> None:
        """The histogram counts as it does without StatsD."""
        for value in range(2 * KEPT):
            self.metrics.observe(LATENCY, value, ("web",))
        (values,) = self.metrics.snapshot().histograms[LATENCY].values()
        self.assertEqual(2 * KEPT, sum(values[1:]))
        self.assertEqual(sum(range(2 * KEPT)), values[0])

    def test_bound(self) -> None:
        """Series are bounded as all are."""
        for number in range(100):
            self.metrics.observe(LATENCY, 1, (f"g{number}",))
        taken = self.metrics.take_samples()[LATENCY]
        self.assertEqual({("g0",), ("g1",), ("g2",), ("other",)}, set(taken))
        self.assertEqual(97, taken["other",][0])


class NameTests(SynchronousTestCase):
    """Names with tags."""

    def test_tags(self) -> None:
        """Labels follow the name as Telegraf's tags."""
        self.assertEqual(
            "events_rx_total,conn_group=web,event_type=click", tagged(RX, ("web", "click"))
        )

    def test_no_labels(self) -> None:
        """A metric without labels is its name."""
        self.assertEqual("event_rtt_ms", tagged(TABLE["event_rtt_ms"], ()))

    def test_empty_value(self) -> None:
        """A tag without a value is left out."""
        self.assertEqual("events_rx_total,event_type=click", tagged(RX, ("", "click")))
        self.assertEqual("events_rx_total", tagged(RX, ("", "")))

    def test_unsafe(self) -> None:
        """No character of a value can end the tag, the name or the line."""
        for unsafe in ",=:|@# \t\n\r\x00\x1f\x7f\u2028\u00a0":
            self.assertEqual(
                "events_rx_total,conn_group=a_b,event_type=click",
                tagged(RX, (f"a{unsafe}b", "click")),
                repr(unsafe),
            )

    def test_other_characters(self) -> None:
        """Other characters stay."""
        self.assertEqual(
            "events_rx_total,conn_group=--default--,event_type=é.ж/7",
            tagged(RX, ("--default--", "é.ж/7")),
        )


class DatagramTests(SynchronousTestCase):
    """How lines are put together."""

    def test_together(self) -> None:
        """Lines travel together, in order."""
        self.assertEqual([b"a\nb\nc"], list(datagrams("abc")))

    def test_none(self) -> None:
        """No lines are no datagram."""
        self.assertEqual([], list(datagrams([])))

    def test_size(self) -> None:
        """No datagram is over the bound, and none is cut before it must be; bytes are counted."""
        lines = [f"{number:03}{'é' * 58}" for number in range(100)]
        sent = list(datagrams(lines))
        self.assertEqual(lines, [line for d in sent for line in d.decode().split("\n")])
        self.assertTrue(all(len(datagram) <= DATAGRAM_BYTES for datagram in sent))
        self.assertTrue(all(len(datagram) > DATAGRAM_BYTES - 120 for datagram in sent[:-1]))

    def test_exact(self) -> None:
        """A datagram may be filled to its last byte."""
        half = "x" * (DATAGRAM_BYTES // 2)
        rest = "y" * (DATAGRAM_BYTES - len(half) - 1)
        self.assertEqual(1, len(list(datagrams([half, rest]))))
        self.assertEqual(2, len(list(datagrams([half, rest + "y"]))))


class SendTests(SynchronousTestCase):
    """What is sent of a snapshot."""

    def setUp(self) -> None:
        self.metrics = SampledMetrics()
        self.network = Network()
        self.sender = self.network.sender()

    def lines(self, kind: str) -> list[str]:
        """The lines of one kind that a flush sends."""
        self.sender.send(self.metrics.snapshot(), self.metrics.take_samples())
        return [line for line in self.network.socket.take() if line.split("|")[1] == kind]

    def test_counter(self) -> None:
        """Of a counter what was added since the last time is sent, and nothing for nothing."""
        self.metrics.count("events_rx_total", 3, ("web", "click"))
        self.assertEqual(["events_rx_total,conn_group=web,event_type=click:3|c"], self.lines("c"))
        self.assertEqual([], self.lines("c"))
        self.metrics.count("events_rx_total", 2, ("web", "click"))
        self.metrics.count("events_rx_total", 1, ("web", "view"))
        self.assertEqual(
            [
                "events_rx_total,conn_group=web,event_type=click:2|c",
                "events_rx_total,conn_group=web,event_type=view:1|c",
            ],
            self.lines("c"),
        )

    def test_large_counter(self) -> None:
        """No digit of a large number is lost."""
        self.metrics.count("events_delivered_total", 123_456_789_012)
        self.assertEqual(["events_delivered_total:123456789012|c"], self.lines("c"))

    def test_gauge(self) -> None:
        """Every gauge is sent each time."""
        self.metrics.gauge("events_waiting_current", 7)
        self.metrics.gauge("queue_fullness_current", 0.25)
        for _ in range(2):
            lines = self.lines("g")
            self.assertIn("events_waiting_current:7|g", lines)
            self.assertIn("queue_fullness_current:0.250000|g", lines)

    def test_small_gauge(self) -> None:
        """A small number has no exponent."""
        self.metrics.gauge("queue_fullness_current", 4.4e-5)
        self.assertIn("queue_fullness_current:0.000044|g", self.lines("g"))

    def test_gauges_of_one_name(self) -> None:
        """Gauges whose labels give the same tags are one, or the last would hide the others."""
        self.metrics.gauge("connections_count_current", 2, ("a b",))
        self.metrics.gauge("connections_count_current", 3, ("a:b",))
        lines = [line for line in self.lines("g") if line.startswith("connections_count")]
        self.assertEqual(["connections_count_current,conn_group=a_b:5|g"], lines)

    def test_timing(self) -> None:
        """Each value of a histogram is a timing."""
        for value in (1.25, 3):
            self.metrics.observe(LATENCY, value, ("web",))
        series = f"{LATENCY},conn_group=web"
        self.assertEqual([f"{series}:1.250|ms", f"{series}:3.000|ms"], self.lines("ms"))
        self.assertEqual([], self.lines("ms"))

    def test_sampled_timings(self) -> None:
        """Where not all values were kept, the rates of those add up to the number of all."""
        for count in (KEPT + 1, 3 * KEPT - 1, 49 * KEPT, 12_345):
            for _ in range(count):
                self.metrics.observe("event_rtt_ms", 5)
            lines = self.lines("ms")
            self.assertEqual(KEPT, len(lines))
            self.assertEqual(count, sum(map(as_telegraf_counts, lines)))
            self.assertEqual(count, round(sum(map(as_statsd_counts, lines))))

    def test_every_metric(self) -> None:
        """Each metric of the table can be sent, and each line is name, tags, value and kind."""
        for metric in METRICS:
            labels = tuple(f"a {label}" for label in metric.labels)
            {"counter": self.metrics.count, "gauge": self.metrics.gauge}.get(
                metric.kind, self.metrics.observe
            )(metric.name, 1, labels)
        self.sender.send(self.metrics.snapshot(), self.metrics.take_samples())
        names = set()
        for line in self.network.socket.take():
            self.assertRegex(line, r"^[a-z_]+(,[a-z_]+=[^,=:|@#\s]+)*:[0-9.]+\|(c|g|ms)$")
            names.add(line.split(":")[0].split(",")[0])
        self.assertEqual(set(TABLE), names)

    def test_without_a_host(self) -> None:
        """An address without a host is localhost; brackets of IPv6 are taken off."""
        for address, asked in ((":8125", ("localhost", 8125)), ("[::1]:9", ("::1", 9))):
            network = Network()
            network.sender(address).send(self.metrics.snapshot(), self.metrics.take_samples())
            self.assertEqual([asked], network.asked)


class FailureTests(SynchronousTestCase):
    """Addresses and receivers that are not there."""

    def setUp(self) -> None:
        self.metrics = SampledMetrics()
        self.network = Network()
        self.sender = self.network.sender()
        self.metrics.count("events_delivered_total", 3)

    def flush(self) -> None:
        self.sender.send(self.metrics.snapshot(), self.metrics.take_samples())

    def test_unknown_name(self) -> None:
        """While a name is not known nothing is sent; afterwards the counters catch up."""
        self.network.address = None
        self.assertRaises(OSError, self.flush)
        self.metrics.count("events_delivered_total", 4)
        self.network.address = ("192.0.2.1", 8125)
        self.flush()
        self.assertIn("events_delivered_total:7|c", self.network.socket.take())

    def test_same_address(self) -> None:
        """One socket serves as long as the name has the same address."""
        self.flush()
        self.flush()
        self.assertEqual(1, len(self.network.opened))

    def test_new_address(self) -> None:
        """A name that gets another address is followed."""
        self.flush()
        before, self.network.socket = self.network.socket, FakeSocket()
        self.network.address = ("192.0.2.2", 8125)
        self.flush()
        self.assertTrue(before.closed)
        self.assertEqual((socket.AF_INET, ("192.0.2.2", 8125)), self.network.opened[-1])

    def test_refused(self) -> None:
        """A refusal is of the datagram before: this one is sent again, and the flush goes on."""
        self.network.socket.errors = [ConnectionRefusedError("refused")]
        self.assertRaises(ConnectionRefusedError, self.flush)
        self.assertIn("events_delivered_total:3|c", self.network.socket.take())

    def test_close(self) -> None:
        """The socket is closed."""
        self.flush()
        self.sender.close()
        self.assertTrue(self.network.socket.closed)


class InlinePool:
    """A pool whose one thread runs when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []
        self.started = self.stopped = False

    def start(self) -> None:
        self.started = True

    def stop(self) -> None:
        self.stopped = True

    def callInThreadWithCallback(
        self, on_result: Callable[[bool, Any], None], call: Callable[..., Any], *args: Any
    ) -> None:
        def run() -> None:
            try:
                result = call(*args)
            except Exception:
                on_result(False, Failure())
            else:
                on_result(True, result)

        self.waiting.append(run)

    def run(self) -> None:
        waiting, self.waiting = self.waiting, []
        for call in waiting:
            call()


class ServiceTests(SynchronousTestCase):
    """When it sends."""

    def setUp(self) -> None:
        self.clock = ThreadlessClock()
        self.metrics = SampledMetrics()
        self.network = Network()
        self.pool = InlinePool()
        self.supervisor = Supervisor(self.metrics, self.clock.seconds)
        self.service = StatsdService(
            self.clock,
            self.metrics.snapshot,
            self.metrics,
            self.network.sender(),
            "statsd.test:8125",
            PERIOD,
            self.supervisor,
            self.pool,
        )
        self.observer = FakeObserver()
        globalLogPublisher.addObserver(self.observer)
        self.addCleanup(globalLogPublisher.removeObserver, self.observer)

    @property
    def logged(self) -> list[str]:
        """What was logged, without its fields."""
        return [event.get("log_format", "") for event in self.observer.events]

    def run_pool(self) -> None:
        self.pool.run()
        self.clock.advance(0)

    def delivered(self) -> list[str]:
        return [line for line in self.network.socket.take() if "events_delivered_total" in line]

    def test_each_period(self) -> None:
        """It sends once a period, in a thread."""
        self.service.startService()
        self.metrics.count("events_delivered_total", 1)
        self.clock.advance(PERIOD - 0.1)
        self.assertEqual([], self.pool.waiting)
        self.clock.advance(0.1)
        self.assertEqual([], self.delivered())
        self.run_pool()
        self.assertEqual(["events_delivered_total:1|c"], self.delivered())
        self.metrics.count("events_delivered_total", 2)
        self.clock.advance(PERIOD)
        self.run_pool()
        self.assertEqual(["events_delivered_total:2|c"], self.delivered())

    def test_slow(self) -> None:
        """While one flush lasts no other begins: nothing piles up."""
        self.service.startService()
        self.clock.pump([PERIOD] * 10)
        self.assertEqual(1, len(self.pool.waiting))
        self.run_pool()
        self.clock.advance(PERIOD)
        self.assertEqual(1, len(self.pool.waiting))

    def test_nothing_before_the_start(self) -> None:
        """No thread is there before the start, and none where it never came."""
        self.assertFalse(self.pool.started)
        self.successResultOf(self.service.close())
        self.assertEqual([], self.pool.waiting)

    def test_last_counts(self) -> None:
        """What is counted until it is closed is sent, also past the stop."""
        self.service.startService()
        self.service.stopService()
        self.metrics.count("events_delivered_total", 5)
        closing = self.service.close()
        self.run_pool()
        self.successResultOf(closing)
        self.assertEqual(["events_delivered_total:5|c"], self.delivered())
        self.assertTrue(self.pool.stopped)
        self.assertTrue(self.network.socket.closed)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_close_does_not_wait_for_long(self) -> None:
        """A thread that hangs does not hold the end, and the log says so."""
        self.service.startService()
        self.service.stopService()
        closing = self.service.close()
        self.clock.advance(2)
        self.successResultOf(closing)
        self.assertFalse(self.pool.stopped)
        self.assertEqual(1, sum("could not be sent" in line for line in self.logged))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_one_line(self) -> None:
        """A failure is logged once until it is over, and stops nothing."""
        self.service.startService()
        self.network.address = None
        for _ in range(20):
            self.clock.advance(PERIOD)
            self.run_pool()
        self.assertEqual(1, sum("retrying" in line for line in self.logged))
        self.network.address = ("192.0.2.1", 8125)
        self.metrics.count("events_delivered_total", 1)
        for _ in range(2):
            self.clock.advance(PERIOD)
            self.run_pool()
        self.assertEqual(["events_delivered_total:1|c"], self.delivered())
        self.assertEqual(1, sum("is sent to again" in line for line in self.logged))

    def test_values_that_cannot_be_taken(self) -> None:
        """A send that fails before it begins does not end those that follow."""

        def broken() -> Any:
            raise OSError(24, "too many open files")

        self.service.startService()
        take = self.service._take
        self.service._take = broken
        self.clock.advance(PERIOD)
        self.assertEqual(1, len(self.supervisor.reasons()))
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))
        self.service._take = take
        self.clock.advance(PERIOD)
        self.run_pool()
        self.assertEqual([], self.supervisor.reasons())


def as_telegraf_counts(line: str) -> int:
    """How often Telegraf takes the value of a timing: as long as that is below 1/rate."""
    _, _, rate = line.partition("|@")
    if not rate:
        return 1
    taken = 0
    while taken < 1 / float(rate):
        taken += 1
    return taken


def as_statsd_counts(line: str) -> float:
    """What StatsD adds to a timing's count."""
    _, _, rate = line.partition("|@")
    return 1 / float(rate or 1)
