"""Tests of raccoon.metrics.registry."""

from __future__ import annotations

import re
import threading

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from raccoon.interfaces import IMetrics
from raccoon.metrics.names import CLIENT_LABELS, COUNTER, GAUGE, HISTOGRAM, METRICS
from raccoon.metrics.registry import Metrics

TOPIC = {"topic", "conn_group", "event_type"}

# Names, kinds and labels that dashboards of existing deployments rely on.
RELIED_ON: dict[str, tuple[str, set[str]]] = {
    "server_ping_failure_total": (COUNTER, {"conn_group"}),
    "server_pong_failure_total": (COUNTER, {"conn_group"}),
    "connections_count_current": (GAUGE, {"conn_group"}),
    "user_connection_success_total": (COUNTER, {"conn_group"}),
    "user_connection_failure_total": (COUNTER, {"conn_group", "reason"}),
    "user_session_duration_milliseconds": (HISTOGRAM, {"conn_group"}),
    "conn_close_err_count": (COUNTER, set()),
    "batches_read_total": (COUNTER, {"status", "reason", "conn_group"}),
    "events_rx_total": (COUNTER, {"conn_group", "event_type"}),
    "events_rx_bytes_total": (COUNTER, {"conn_group", "event_type"}),
    "events_duplicate_total": (COUNTER, {"conn_group", "reason"}),
    "batch_idle_in_channel_milliseconds": (HISTOGRAM, {"worker"}),
    "kafka_producebulk_tt_ms": (HISTOGRAM, set()),
    "event_processing_duration_milliseconds": (HISTOGRAM, {"conn_group"}),
    "worker_processing_duration_milliseconds": (HISTOGRAM, {"worker"}),
    "server_processing_latency_milliseconds": (HISTOGRAM, {"conn_group"}),
    "ack_event_rtt_ms": (HISTOGRAM, set()),
    "event_rtt_ms": (HISTOGRAM, set()),
    "kafka_messages_delivered_total": (COUNTER, TOPIC),
    "kafka_messages_undelivered_total": (COUNTER, TOPIC),
    "kafka_unknown_topic_failure_total": (COUNTER, TOPIC),
    "server_go_routines_count_current": (GAUGE, set()),
}


def samples(metrics: Metrics) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """What is exposed: a value by its name and labels."""
    found = {}
    for line in metrics.expose().decode().splitlines():
        if line.startswith("#"):
            continue
        match = re.fullmatch(r"([a-z_]+)(?:\{(.*)\})? (\S+)", line)
        assert match is not None, line
        labels = frozenset(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
        assert (match[1], labels) not in found, line
        found[match[1], labels] = float(match[3])
    return found


def record_everything(metrics: Metrics) -> None:
    """Give every metric of the table one series."""
    for metric in METRICS:
        labels = tuple(f"a-{label}" for label in metric.labels)
        if metric.kind == HISTOGRAM:
            metrics.observe(metric.name, 1, labels)
        elif metric.kind == GAUGE:
            metrics.gauge(metric.name, 1, labels)
        else:
            metrics.count(metric.name, 1, labels)


class NameTests(SynchronousTestCase):
    """The names that are exposed."""

    def setUp(self) -> None:
        self.metrics = Metrics()
        record_everything(self.metrics)
        self.lines = self.metrics.expose().decode().splitlines()

    def test_relied_on(self) -> None:
        """Every metric that dashboards rely on is exposed under its name and labels."""
        exposed: dict[str, set[str]] = {}
        for name, series in samples(self.metrics):
            exposed.setdefault(name, set()).update(label for label, _ in series)
        for name, (kind, labels) in RELIED_ON.items():
            if kind == HISTOGRAM:
                self.assertEqual(labels | {"le"}, exposed.get(f"{name}_bucket"), name)
                self.assertEqual(labels, exposed.get(f"{name}_count"), name)
                self.assertEqual(labels, exposed.get(f"{name}_sum"), name)
            else:
                self.assertEqual(labels, exposed.get(name), name)

    def test_nothing_else(self) -> None:
        """Every exposed name is one of the table: no _created, no suffix that is not its own."""
        expected = set()
        for metric in METRICS:
            suffixes = ("_bucket", "_count", "_sum") if metric.kind == HISTOGRAM else ("",)
            expected |= {metric.name + suffix for suffix in suffixes}
        self.assertEqual(expected, {name for name, _ in samples(self.metrics)})

    def test_unsuffixed_counter(self) -> None:
        """conn_close_err_count is exposed without _total."""
        self.metrics.count("conn_close_err_count", 2)
        self.assertEqual(3, samples(self.metrics)["conn_close_err_count", frozenset()])
        self.assertFalse([line for line in self.lines if "conn_close_err_count_total" in line])

    def test_types(self) -> None:
        """Each metric's type is declared under the name of its samples."""
        for line in (
            "# TYPE batches_read_total counter",
            "# TYPE connections_count_current gauge",
            "# TYPE event_rtt_ms histogram",
        ):
            self.assertIn(line, self.lines)

    def test_buckets(self) -> None:
        """The buckets of durations and sessions are those that dashboards expect, and finer."""
        buckets: dict[str, list[float]] = {}
        for name, labels in samples(self.metrics):
            bound = dict(labels).get("le")
            if bound is not None:
                buckets.setdefault(name.removesuffix("_bucket"), []).append(float(bound))
        relied_on = {5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, float("inf")}
        session = {1000, 10_000, 100_000, 600_000, 3_600_000, float("inf")}
        self.assertEqual(session, set(buckets.pop("user_session_duration_milliseconds")))
        self.assertTrue(buckets)
        for name, bounds in buckets.items():
            self.assertEqual(set(), relied_on - set(bounds), name)
            self.assertEqual([], [b for b in bounds if b not in relied_on and b > 5], name)


class RecordTests(SynchronousTestCase):
    """Recording."""

    def setUp(self) -> None:
        self.metrics = Metrics()

    def value(self, name: str, **labels: str) -> float | None:
        return samples(self.metrics).get((name, frozenset(labels.items())))

    def test_interface(self) -> None:
        """It is an IMetrics."""
        verifyObject(IMetrics, self.metrics)

    def test_count(self) -> None:
        """Counts of the same labels add up, apart from those of others."""
        for value in (1, 2):
            self.metrics.count("events_rx_total", value, ("web", "click"))
        self.metrics.count("events_rx_total", 5, ("app", "click"))
        self.assertEqual(3, self.value("events_rx_total", conn_group="web", event_type="click"))
        self.assertEqual(5, self.value("events_rx_total", conn_group="app", event_type="click"))

    def test_count_all(self) -> None:
        """Several counters at once count as each by itself would."""
        click, view = ("web", "click"), ("web", "view")
        self.metrics.count_all(
            [("events_rx_total", 1, click), ("events_rx_bytes_total", 200, click)]
        )
        self.metrics.count_all([("events_rx_total", 2, click), ("events_rx_total", 3, view)])
        self.assertEqual(3, self.value("events_rx_total", conn_group="web", event_type="click"))
        self.assertEqual(3, self.value("events_rx_total", conn_group="web", event_type="view"))
        labels = {"conn_group": "web", "event_type": "click"}
        self.assertEqual(200, self.value("events_rx_bytes_total", **labels))

    def test_gauge(self) -> None:
        """A gauge is where it was set last."""
        self.metrics.gauge("destination_reachable_current", 1)
        self.metrics.gauge("destination_reachable_current", 0)
        self.assertEqual(0, self.value("destination_reachable_current"))

    def test_adjust(self) -> None:
        """A gauge goes up and down."""
        for value in (1, 1, -1):
            self.metrics.adjust("connections_count_current", value, ("web",))
        self.assertEqual(1, self.value("connections_count_current", conn_group="web"))

    def test_observe(self) -> None:
        """A histogram counts each value in every bucket that reaches it, the bound included."""
        for value in (0.5, 5, 7, 6000):
            self.metrics.observe("event_rtt_ms", value)
        for bound, count in (("1", 1), ("2.5", 1), ("5", 2), ("10", 3), ("5000", 3), ("+Inf", 4)):
            self.assertEqual(count, self.value("event_rtt_ms_bucket", le=bound), bound)
        self.assertEqual(4, self.value("event_rtt_ms_count"))
        self.assertEqual(6012.5, self.value("event_rtt_ms_sum"))

    def test_observe_all(self) -> None:
        """Values together fall into the buckets into which each by itself does."""
        values = (7, 0.5, 5, 6000, 1, 5000, 5001, -1, 5)
        for value in values:
            self.metrics.observe("event_rtt_ms", value)
        for several in (values, values[:5], values[5:], ()):
            self.metrics.observe_all("ack_event_rtt_ms", several)
        one = self.metrics.snapshot().histograms["event_rtt_ms"][()]
        twice = self.metrics.snapshot().histograms["ack_event_rtt_ms"][()]
        self.assertEqual([2 * count for count in one], twice)

    def test_counters_start_at_zero(self) -> None:
        """A counter or gauge without labels is exposed before it first counts."""
        self.assertEqual(0, self.value("events_failed_total"))
        self.assertEqual(0, self.value("conn_close_err_count"))

    def test_label_values_are_escaped(self) -> None:
        """Quotes, backslashes and line breaks in a label do not break the format."""
        self.metrics.count("events_rx_total", 1, ('a"b\\c\nd', "click"))
        found = [line for line in self.metrics.expose().split(b"\n") if b"events_rx_total{" in line]
        self.assertEqual(
            [rb'events_rx_total{conn_group="a\"b\\c\nd",event_type="click"} 1.0'], found
        )

    def test_unknown_name(self) -> None:
        """A name that is not in the table is an error."""
        self.assertRaises(KeyError, self.metrics.count, "events_total", 1)

    def test_wrong_number_of_labels(self) -> None:
        """Too few or too many labels are an error where they are counted, not in the scrape."""
        for labels in (("web",), ("web", "click", "x")):
            self.assertRaises(ValueError, self.metrics.count, "events_rx_total", 1, labels)
        self.metrics.expose()

    def test_threads(self) -> None:
        """Counts from several threads are all counted."""

        def count() -> None:
            for _ in range(2000):
                self.metrics.count("events_delivered_total", 1)
                self.metrics.observe("event_rtt_ms", 1)

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(8000, self.value("events_delivered_total"))
        self.assertEqual(8000, self.value("event_rtt_ms_count"))


class BoundTests(SynchronousTestCase):
    """Labels whose values clients choose."""

    def setUp(self) -> None:
        self.metrics = Metrics(label_values=3)

    def values(self, name: str, label: str) -> dict[str, float]:
        """The exposed values of a metric, summed by one label."""
        found: dict[str, float] = {}
        for (sample, labels), value in samples(self.metrics).items():
            if sample == name:
                key = dict(labels)[label]
                found[key] = found.get(key, 0) + value
        return found

    def test_client_labels(self) -> None:
        """The labels that clients choose are the four that are bounded."""
        self.assertEqual({"conn_group", "event_type", "topic", "stream"}, CLIENT_LABELS)

    def test_other(self) -> None:
        """Past the bound a new value reads `other`; nothing is lost, known values go on."""
        for _ in range(2):
            for number in range(10):
                self.metrics.count("user_connection_success_total", 1, (f"g{number}",))
        self.assertEqual(
            {"g0": 2, "g1": 2, "g2": 2, "other": 14},
            self.values("user_connection_success_total", "conn_group"),
        )

    def test_bound_is_for_all_metrics(self) -> None:
        """A label has the same values in every metric."""
        for number in range(10):
            self.metrics.count("user_connection_success_total", 1, (f"g{number}",))
        self.metrics.adjust("connections_count_current", 1, ("g0",))
        self.metrics.adjust("connections_count_current", 1, ("late",))
        self.assertEqual(
            {"g0": 1, "other": 1}, self.values("connections_count_current", "conn_group")
        )

    def test_histograms(self) -> None:
        """Histograms are bounded as counters are."""
        for number in range(10):
            self.metrics.observe("server_processing_latency_milliseconds", 1, (f"g{number}",))
        self.assertEqual(
            {"g0": 1, "g1": 1, "g2": 1, "other": 7},
            self.values("server_processing_latency_milliseconds_count", "conn_group"),
        )

    def test_long_values(self) -> None:
        """A value of excessive length reads `other`."""
        self.metrics.count("user_connection_success_total", 1, ("g" * 5000,))
        self.assertEqual({"other": 1}, self.values("user_connection_success_total", "conn_group"))

    def test_our_own_labels(self) -> None:
        """A label whose values are ours is not bounded."""
        for number in range(10):
            self.metrics.observe("batch_idle_in_channel_milliseconds", 1, (f"worker-{number}",))
        found = self.values("batch_idle_in_channel_milliseconds_count", "worker")
        self.assertEqual({f"worker-{number}" for number in range(10)}, set(found))

    def test_series(self) -> None:
        """The combinations of labels of one metric are bounded, too; nothing is lost."""
        metrics = self.metrics = Metrics(label_values=20)
        for group in range(20):
            for event_type in range(20):
                metrics.count("events_rx_total", 1, (f"g{group}", f"t{event_type}"))
        found = {
            labels: value
            for (name, labels), value in samples(metrics).items()
            if name == "events_rx_total"
        }
        self.assertEqual(101, len(found))
        self.assertEqual(400, sum(found.values()))
        other = frozenset({("conn_group", "other"), ("event_type", "other")})
        self.assertEqual(300, found[other])

    def test_series_keep_our_own_labels(self) -> None:
        """Past the bound of series a label whose values are ours keeps them."""
        self.metrics = Metrics(label_values=1)
        reasons = [f"reason-{number}" for number in range(7)]
        for reason in reasons:
            self.metrics.count("user_connection_failure_total", 1, ("web", reason))
        self.assertEqual(
            dict.fromkeys(reasons, 1), self.values("user_connection_failure_total", "reason")
        )

    def test_a_gauge_comes_back_to_zero(self) -> None:
        """What went up under `other` comes down under `other`."""
        groups = [f"g{number}" for number in range(10)]
        for value in (1, -1):
            for group in groups:
                self.metrics.adjust("connections_count_current", value, (group,))
        self.assertEqual({0}, set(self.values("connections_count_current", "conn_group").values()))
