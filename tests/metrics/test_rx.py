"""Tests of raccoon.metrics.rx."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from raccoon.metrics.registry import Metrics
from raccoon.metrics.rx import count_rejected, count_request
from raccoon.request import CollectRequest
from tests.fakes import FakeMetrics, make_request


def request(events: list[tuple[str, bytes]]) -> CollectRequest:
    """A request of the group web."""
    return make_request(events=events, group="web")


class RxTests(SynchronousTestCase):
    """Counts of what was read."""

    def setUp(self) -> None:
        self.metrics = FakeMetrics()

    def test_one_type(self) -> None:
        """A request of one event type is counted with its events and their bytes."""
        count_request(self.metrics, request([("t", b"abc"), ("t", b"d")]))
        self.assertEqual(
            [
                ("batches_read_total", 1, ("success", "NA", "web")),
                ("events_rx_total", 2, ("web", "t")),
                ("events_rx_bytes_total", 4, ("web", "t")),
            ],
            self.metrics.counts,
        )

    def test_several_types(self) -> None:
        """Events of several types are counted by type."""
        count_request(self.metrics, request([("t", b"abc"), ("u", b"d"), ("t", b"")]))
        self.assertEqual(1, self.metrics.total("batches_read_total"))
        for event_type, events, size in (("t", 2, 3), ("u", 1, 1)):
            labels = ("web", event_type)
            self.assertEqual(events, self.metrics.total("events_rx_total", labels))
            self.assertEqual(size, self.metrics.total("events_rx_bytes_total", labels))

    def test_no_events(self) -> None:
        """A request without events counts as a request."""
        count_request(self.metrics, request([]))
        self.assertEqual([("batches_read_total", 1, ("success", "NA", "web"))], self.metrics.counts)

    def test_rejected(self) -> None:
        """A request that could not be read is counted by its reason."""
        count_rejected(self.metrics, "serde", "web")
        self.assertEqual(
            [("batches_read_total", 1, ("failed", "serde", "web"))], self.metrics.counts
        )

    def test_names_are_in_the_table(self) -> None:
        """All of it can be counted by the metrics that are exposed."""
        metrics = Metrics()
        count_request(metrics, request([("t", b""), ("u", b"x")]))
        count_rejected(metrics, "readerr", "web")
        exposed = metrics.expose()
        for line in (
            b'batches_read_total{conn_group="web",reason="NA",status="success"} 1.0',
            b'batches_read_total{conn_group="web",reason="readerr",status="failed"} 1.0',
            b'events_rx_bytes_total{conn_group="web",event_type="u"} 1.0',
        ):
            self.assertIn(_sorted_labels(line), map(_sorted_labels, exposed.split(b"\n")))


def _sorted_labels(line: bytes) -> tuple[bytes, ...]:
    name, _, rest = line.partition(b"{")
    labels, _, value = rest.partition(b"}")
    return (name, *sorted(labels.split(b",")), value)
