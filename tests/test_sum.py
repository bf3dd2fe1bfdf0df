"""The sum that holds in every scrape: received = delivered + refused + failed + waiting."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import grpc
from twisted.trial.unittest import SynchronousTestCase

from raccoon.collector import Collector
from raccoon.deserialization import ProtobufDeserializer
from raccoon.errors import PublishError
from raccoon.intake import Codec
from raccoon.metrics.names import COUNTER, METRICS
from raccoon.metrics.registry import Metrics, Snapshot
from raccoon.metrics.service import MetricsService
from raccoon.serialization import ProtobufSerializer
from raccoon.service.grpc.inbox import Inbox
from raccoon.service.grpc.servicer import EventServicer
from raccoon.supervision import Supervisor
from raccoon.worker import WorkerService
from tests.edges.bodies import NOW, json_body, protobuf_body
from tests.edges.edge import Edge, make_context
from tests.edges.http import http_request
from tests.fakes import FakePublisher, PublishByHand, ThreadlessClock, make_settings

METADATA = (("x-user-id", "phone"),)
CLICK = ("click", b"{}")


class IgnoredAnswer:
    """Of a gRPC call whose client has cancelled it: nobody reads what it is told."""

    def send(self, body: bytes) -> None:
        pass

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        pass


def total(snapshot: Snapshot, name: str) -> float:
    """All series of a metric together."""
    return sum(snapshot.values[name].values())


class SumTests(SynchronousTestCase):
    """All edges on a real collector and worker; the test ends each publish by hand."""

    def setUp(self) -> None:
        self.start()

    def start(self, ack: int = 1, **worker: Any) -> None:
        settings = make_settings(
            event={"ack": ack},
            websocket={"dedup_enabled": True},
            worker={"pool_size": 1, "buffer_channel_size": 5, **worker},
        )
        self.clock = ThreadlessClock()
        self.clock.advance(NOW)
        self.metrics = Metrics()
        self.publish = PublishByHand()
        publisher = FakePublisher()
        self.collector = Collector(
            settings.worker,
            settings.event,
            self.metrics,
            self.clock,
            Supervisor(self.metrics),
        )
        self.edge = Edge(settings, ack, self.clock, self.metrics, self.collector)
        self.addCleanup(self.edge.hang_up)
        context = make_context(settings, self.clock, self.collector, self.metrics)
        self.servicer = EventServicer(
            Inbox(self.clock, context.supervisor),
            context.intake("gRPC", requires_id=True),
            Codec(ProtobufDeserializer(settings.limits, settings.event), ProtobufSerializer()),
            context.identification,
        )
        self.worker = WorkerService(
            self.clock,
            self.collector,
            self.publish,
            publisher,
            settings.worker,
            self.metrics,
            context.supervisor,
        )
        self.worker.startService()
        self.scrape = MetricsService(
            self.clock,
            self.metrics,
            self.collector,
            publisher,
            list,
            settings.metric,
            context.supervisor,
        )

    def post(self, events: int) -> None:
        """A REST request whose answer is not waited for."""
        headers = [("Content-Type", "application/json")]
        self.edge.connect().send(
            http_request(headers=headers, body=json_body("", [CLICK] * events))
        )

    def call(self, events: int) -> None:
        """A gRPC call, as its own thread makes it."""
        self.servicer.send_event(protobuf_body("", [CLICK] * events), METADATA, IgnoredAnswer())

    def turn(self, seconds: float = 0.01) -> None:
        """The reactor turns."""
        self.clock.pump([seconds, 0, 0])

    def finish(self, *outcomes: Any) -> None:
        """End the publishes under way and those that follow, an outcome for each request."""
        left = list(outcomes)
        while left:
            count = len(self.publish.groups[-1])
            self.publish.pending[-1].callback(left[:count])
            del left[:count]
            self.turn()

    def check(
        self, delivered: int = 0, refused: int = 0, failed: int = 0, waiting: int = 0
    ) -> None:
        """Each term, and that they add up to what was received."""
        snapshot = self.scrape.take()
        terms = {
            "events_delivered_total": delivered,
            "events_refused_total": refused,
            "events_failed_total": failed,
            "events_waiting_current": waiting,
        }
        self.assertEqual(terms, {name: total(snapshot, name) for name in terms})
        received = delivered + refused + failed + waiting
        self.assertEqual(received, total(snapshot, "events_rx_total"))

    def test_nothing_yet(self) -> None:
        """It holds before the first event."""
        self.check()

    def test_delivered(self) -> None:
        """Events wait until they are confirmed, from all edges."""
        self.post(3)
        self.call(4)
        self.edge.upgrade().binary(protobuf_body("a", [CLICK] * 5))
        self.turn()
        self.check(waiting=12)
        self.finish(None, None, None)
        self.check(delivered=12)

    def test_level_0(self) -> None:
        """What was answered before it was published waits all the same."""
        self.start(ack=0)
        self.post(3)
        self.check(waiting=3)
        self.turn()
        self.finish(PublishError(1, 3, ["no"]))
        self.check(delivered=2, failed=1)

    def test_call_that_the_reactor_has_not_seen(self) -> None:
        """A gRPC call is not received before it is waiting: no scrape finds it on one side only."""
        self.call(4)
        self.check()
        self.turn()
        self.check(waiting=4)

    def test_cancelled_call(self) -> None:
        """The events of a gRPC call whose client has gone have an outcome like all others."""
        self.call(4)
        self.turn()
        self.finish(PublishError(4, 4, ["no"]))
        self.check(failed=4)

    def test_client_that_has_gone(self) -> None:
        """So have those of a client whose connection is lost."""
        client = self.edge.upgrade()
        client.binary(protobuf_body("a", [CLICK] * 2))
        client.socket.hang_up()
        self.turn()
        self.check(waiting=2)
        self.finish(None)
        self.check(delivered=2)

    def test_overload(self) -> None:
        """A refused request is received and refused, on every edge."""
        for _ in range(10):
            self.post(1)
        refused = int(total(self.scrape.take(), "events_refused_total"))
        self.assertGreater(refused, 0)
        self.check(waiting=10 - refused, refused=refused)
        self.post(2)
        self.call(3)
        self.edge.upgrade().binary(protobuf_body("a", [CLICK] * 4))
        self.clock.advance(0)
        self.check(waiting=10 - refused, refused=refused + 9)

    def test_bad_requests(self) -> None:
        """What cannot be read is no event."""
        headers = [("Content-Type", "application/json")]
        self.edge.ask(http_request(headers=headers, body=b"{"))
        self.servicer.send_event(b"\xff", METADATA, IgnoredAnswer())
        self.edge.upgrade().text(b"{")
        self.turn()
        self.check()

    def test_empty_requests(self) -> None:
        """A request without events is read and adds nothing."""
        self.post(0)
        self.call(0)
        self.turn()
        self.check()
        self.assertEqual(2, total(self.scrape.take(), "batches_read_total"))

    def test_duplicates(self) -> None:
        """A duplicate is on neither side; its events are counted by themselves."""
        client = self.edge.upgrade()
        for _ in range(3):
            client.binary(protobuf_body("a", [CLICK] * 2))
        self.turn()
        self.check(waiting=2)
        self.finish(None)
        client.text(json_body("a", [CLICK] * 2))
        self.check(delivered=2)
        self.assertEqual(6, total(self.scrape.take(), "events_in_duplicates_total"))
        self.assertEqual(3, total(self.scrape.take(), "events_duplicate_total"))

    def test_failed_in_part(self) -> None:
        """Each event of a request that failed in part counts as what became of it."""
        self.post(3)
        self.post(2)
        self.turn()
        self.finish(PublishError(1, 3, ["no"]), PublishError(2, 2, ["no"]))
        self.check(delivered=2, failed=3)

    def test_straggler(self) -> None:
        """An event whose outcome comes later waits until then."""
        later: Future[PublishError | None] = Future()
        self.post(3)
        self.turn()
        self.finish(later)
        self.check(waiting=3)
        later.set_result(PublishError(1, 3, ["no"]))
        self.turn()
        self.check(delivered=2, failed=1)

    def test_cancelled_straggler(self) -> None:
        """A cancelled outcome is a failure."""
        later: Future[PublishError | None] = Future()
        self.post(3)
        self.turn()
        self.finish(later)
        later.cancel()
        self.turn()
        self.check(failed=3)

    def test_publisher_raises(self) -> None:
        """All events of its group have failed."""
        self.post(3)
        self.turn()
        self.publish.pending[0].errback(ValueError("broken"))
        self.check(failed=3)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_publisher_breaks_its_contract(self) -> None:
        """So have they where a publisher answers what is no outcome, now or later."""
        later: Future[Any] = Future()
        self.post(3)
        self.turn()
        self.finish("delivered")
        self.check(failed=3)
        self.post(2)
        self.turn()
        self.finish(later)
        later.set_result("delivered")
        self.turn()
        self.check(failed=5)
        self.assertEqual(1, len(self.flushLoggedErrors(TypeError)))

    def test_more_failed_than_there_were(self) -> None:
        """A publisher that counts too many failures of a request fails all its events, no more."""
        self.post(3)
        self.turn()
        self.finish(PublishError(7, 3, ["no"]))
        self.check(failed=3)

    def test_shutdown(self) -> None:
        """What is left at the end of the drain has failed; what is under way goes on waiting."""
        self.post(3)
        self.turn()
        self.post(2)
        draining = self.worker.drain(5)
        self.turn(6)
        self.assertEqual(2, self.successResultOf(draining))
        self.check(failed=2, waiting=3)
        self.finish(None)
        self.check(delivered=3, failed=2)

    def test_closed(self) -> None:
        """What comes when nobody would publish it is refused."""
        self.successResultOf(self.worker.drain(5))
        self.post(2)
        self.call(3)
        self.turn()
        self.check(refused=5)


class NameTests(SynchronousTestCase):
    """The terms."""

    def test_counters(self) -> None:
        """The terms are in the table, so that a query by these names finds them."""
        counters = {metric.name for metric in METRICS if metric.kind == COUNTER}
        for term in ("rx", "delivered", "refused", "failed", "in_duplicates"):
            self.assertIn(f"events_{term}_total", counters)
