"""Tests of raccoon.processes.merging."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from raccoon.metrics.registry import Metrics
from raccoon.metrics.statsd import KEPT, SampledMetrics
from raccoon.processes.merging import Changes, Totals

RX = "events_rx_total"
LATENCY = "server_processing_latency_milliseconds"
CLICK = ("web", "click")


class Worker:
    """A process that counts, and tells over the wire."""

    def __init__(self, totals: Totals, source: int, metrics: Metrics | None = None) -> None:
        self.metrics = metrics or Metrics()
        self._totals = totals
        self._source = source
        self._changes = Changes(self.metrics)

    def tell(self) -> int:
        """Have the totals take in what changed; returns how many values that were."""
        changes = json.loads(json.dumps(self._changes.take(self.metrics.snapshot())))
        self._totals.merge(self._source, changes)
        return sum(map(len, changes.values()))


class TotalsTests(SynchronousTestCase):
    """Two workers' metrics as one."""

    def setUp(self) -> None:
        self.sums = Metrics()
        self.totals = Totals(self.sums)
        self.a, self.b = Worker(self.totals, 0), Worker(self.totals, 1)

    def value(self, name: str, labels: tuple[str, ...] = ()) -> float:
        return self.sums.snapshot().values[name][labels]

    def test_counters(self) -> None:
        """Counters are the sums of all, told in any number of pieces."""
        self.a.metrics.count(RX, 2, CLICK)
        self.a.tell()
        self.a.metrics.count(RX, 3, CLICK)
        self.b.metrics.count(RX, 10, CLICK)
        self.a.tell()
        self.b.tell()
        self.assertEqual(15, self.value(RX, CLICK))

    def test_only_changes_are_told(self) -> None:
        """What did not change is not told again."""
        self.a.metrics.count(RX, 2, CLICK)
        self.a.metrics.observe(LATENCY, 1, ("web",))
        self.a.tell()
        self.assertEqual(0, self.a.tell())
        self.a.metrics.count(RX, 1, CLICK)
        self.assertEqual(1, self.a.tell())

    def test_series_of_zero(self) -> None:
        """A series that stands at nothing is there, as it is within one process."""
        self.a.metrics.count("requests_refused_total", 0, ("overloaded",))
        self.a.tell()
        self.assertEqual(0, self.value("requests_refused_total", ("overloaded",)))

    def test_counters_of_a_restarted_worker(self) -> None:
        """What a worker counted stays when it is gone, and its successor adds to it."""
        self.a.metrics.count(RX, 2, CLICK)
        self.a.metrics.observe(LATENCY, 3, ("web",))
        self.a.tell()
        self.totals.forget(0)
        successor = Worker(self.totals, 0)
        successor.metrics.count(RX, 5, CLICK)
        successor.metrics.observe(LATENCY, 4, ("web",))
        successor.tell()
        self.assertEqual(7, self.value(RX, CLICK))
        total, *buckets = self.sums.snapshot().histograms[LATENCY]["web",]
        self.assertEqual((7, 2), (total, sum(buckets)))

    def test_histograms(self) -> None:
        """Histograms are merged bucket by bucket."""
        for worker, value in ((self.a, 2), (self.a, 40), (self.b, 40)):
            worker.metrics.observe(LATENCY, value, ("web",))
            worker.tell()
        whole = Metrics()
        for value in (2, 40, 40):
            whole.observe(LATENCY, value, ("web",))
        self.assertEqual(whole.snapshot().histograms, self.sums.snapshot().histograms)

    def test_gauges_add_up(self) -> None:
        """Gauges are the sums of where each process stands, and those of one gone are off."""
        for worker, value in ((self.a, 5), (self.b, 7), (self.a, 3)):
            worker.metrics.gauge("requests_waiting_current", value)
            worker.metrics.gauge("connections_count_current", value, ("web",))
            worker.tell()
        self.assertEqual(10, self.value("requests_waiting_current"))
        self.assertEqual(10, self.value("connections_count_current", ("web",)))
        self.totals.forget(1)
        self.assertEqual(3, self.value("requests_waiting_current"))
        self.assertEqual(3, self.value("connections_count_current", ("web",)))

    def test_gauges_that_do_not_add_up(self) -> None:
        """The whole is as full as the fullest, and ready when all are."""
        for worker, full, ready in ((self.a, 0.25, 1), (self.b, 0.5, 0)):
            worker.metrics.gauge("queue_fullness_current", full)
            worker.metrics.gauge("ready_current", ready)
            worker.metrics.gauge("connections_limit_current", 100)
            worker.tell()
        self.assertEqual(0.5, self.value("queue_fullness_current"))
        self.assertEqual(0, self.value("ready_current"))
        self.assertEqual(100, self.value("connections_limit_current"))
        self.totals.forget(1)
        self.assertEqual(0.25, self.value("queue_fullness_current"))
        self.assertEqual(1, self.value("ready_current"))
        self.totals.forget(0)
        self.assertEqual(0, self.value("ready_current"))

    def test_waiting_events_of_a_dead_worker(self) -> None:
        """What a dead worker had accepted counts as failed: the numbers add up as before."""
        self.a.metrics.count(RX, 9, CLICK)
        self.a.metrics.count("events_delivered_total", 5)
        self.a.metrics.gauge("events_waiting_current", 4)
        self.a.tell()
        self.assertEqual(4, self.totals.forget(0))
        self.assertEqual(4, self.value("events_failed_total"))
        self.assertEqual(0, self.value("events_waiting_current"))
        self.assertEqual(0, self.totals.forget(0))

    def test_label_values_are_bounded(self) -> None:
        """The bound on label values holds for the sum of all too, and nothing is left out."""
        self.sums = Metrics(label_values=3)
        self.totals = Totals(self.sums)
        for source in (0, 1):
            worker = Worker(self.totals, source, Metrics(label_values=3))
            for number in range(3):
                worker.metrics.adjust("connections_count_current", 1, (f"{source}-{number}",))
            worker.tell()
        series = self.sums.snapshot().values["connections_count_current"]
        self.assertEqual((4, 6), (len(series), sum(series.values())))
        self.totals.forget(1)
        self.assertEqual(3, sum(self.sums.snapshot().values["connections_count_current"].values()))

    def test_own_names(self) -> None:
        """Names may be chosen by their beginnings."""
        metrics = Metrics()
        metrics.gauge("server_open_files_current", 4)
        changes = Changes(metrics, ("server_",)).take(metrics.snapshot())
        names = {name for name, *_ in changes["values"]}
        self.assertIn("server_open_files_current", names)
        self.assertNotIn("ready_current", names)


class SampleTests(SynchronousTestCase):
    """Values of histograms, for StatsD."""

    def setUp(self) -> None:
        self.sums = SampledMetrics()
        self.totals = Totals(self.sums)

    def tell(self, source: int, values: list[float]) -> None:
        worker = Worker(self.totals, source, SampledMetrics())
        for value in values:
            worker.metrics.observe(LATENCY, value, ("web",))
        worker.tell()

    def taken(self) -> list[float]:
        return self.sums.take_samples()[LATENCY]["web",]

    def test_few(self) -> None:
        """All values are kept as long as they are few."""
        self.tell(0, [1, 2])
        self.tell(1, [3])
        self.assertEqual([3, 1, 2, 3], self.taken())

    def test_many(self) -> None:
        """Of many, as many of each worker are kept as it observed, and all are counted."""
        self.tell(0, [1] * 900)
        self.tell(1, [2] * 300)
        count, *kept = self.taken()
        self.assertEqual((1200, KEPT), (count, len(kept)))
        self.assertEqual((150, 50), (kept.count(1), kept.count(2)))

    def test_few_and_many(self) -> None:
        """Few values beside many are counted too."""
        self.tell(0, [1] * 5)
        self.tell(1, [2] * 1000)
        count, *kept = self.taken()
        self.assertEqual((1005, KEPT, 1), (count, len(kept), kept.count(1)))
