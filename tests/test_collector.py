"""Tests of raccoon.collector."""

from __future__ import annotations

from functools import partial

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from raccoon.collector import Collector
from raccoon.config import EventSettings, WorkerSettings
from raccoon.errors import Overloaded, PublishError
from raccoon.interfaces import ICollector, IJournal
from raccoon.queue import RequestQueue
from raccoon.request import CollectRequest, Requests
from raccoon.supervision import Supervisor
from tests.fakes import FakeJournal, FakeMetrics, make_request

FAILED = PublishError(1, 1, ["no broker"])


class CollectorTestCase(SynchronousTestCase):
    """A collector of four requests."""

    def make(self, ack: int = 1, max_requests: int = 4, max_bytes: int = 1 << 20) -> Collector:
        self.clock = Clock()
        self.metrics = FakeMetrics()
        settings = WorkerSettings(buffer_channel_size=max_requests, buffer_max_bytes=max_bytes)
        return Collector(
            settings,
            EventSettings(ack=ack),
            self.metrics,
            self.clock,
            Supervisor(self.metrics, self.clock.seconds),
        )

    def assert_refused(self, collected: Deferred[None]) -> None:
        self.failureResultOf(collected, Overloaded)


class RequestTests(SynchronousTestCase):
    """What a request is charged with."""

    def test_size(self) -> None:
        """A request is charged with payloads, and for itself, each event and each type."""
        empty, one, two, types, full = (
            make_request(events=events).size
            for events in (
                [],
                [("t", b"")],
                [("t", b"")] * 2,
                [("t", b""), ("u", b"")],
                [("t", b"x" * 1000), ("u", b"")],
            )
        )
        self.assertGreater(empty, 0)
        self.assertGreater(two, one)
        self.assertEqual(types - two, (one - empty) - (two - one))
        self.assertGreater(types, two)
        self.assertEqual(1000, full - types)

    def test_by_type(self) -> None:
        """A request knows the events of each type, in order."""
        self.assertEqual({}, make_request(events=[]).by_type)
        self.assertEqual(
            {"a": [b"1", b"2"]}, make_request(events=[("a", b"1"), ("a", b"2")]).by_type
        )
        mixed = [("a", b"1"), ("b", b"2"), ("a", b"3")]
        self.assertEqual({"a": [b"1", b"3"], "b": [b"2"]}, make_request(events=mixed).by_type)


class QueueTests(SynchronousTestCase):
    """RequestQueue."""

    def test_take(self) -> None:
        """Up to so many are taken at once, oldest first; the rest stays."""
        queue = RequestQueue(10)
        requests = [make_request(str(n)) for n in range(3)]
        for request in requests:
            queue.put(request)
        self.assertEqual(requests[:2], queue.take(2))
        self.assertEqual(requests[2:], queue.take(5))
        self.assertEqual([], queue.take(5))

    def test_enough_requests(self) -> None:
        """It is told once when so many wait; one that somebody waited for does not count."""
        queue, told = RequestQueue(2), []
        taken = queue.get()
        queue.when_enough(1000, lambda: told.append("enough"))
        for count in (0, 0, 1, 1):
            queue.put(make_request())
            self.assertEqual(count, len(told))
        self.successResultOf(taken)
        queue.when_enough(1000, lambda: told.append("already"))
        self.assertEqual(["enough", "already"], told)

    def test_enough_bytes(self) -> None:
        """It is told when several wait with so many bytes, whichever way others have left."""
        queue, told = RequestQueue(100), []
        requests = [make_request(events=[("t", b"x" * 500)]) for _ in range(3)]
        for request in requests:
            queue.put(request)
        first = self.successResultOf(queue.get())
        queue.put_back(first)
        self.assertEqual(requests, queue.take(3))
        queue.when_enough(200, lambda: told.append("enough"))
        for _ in range(8):
            queue.put(make_request(events=[("t", b"x" * 24)]))
        self.assertEqual([], told)
        queue.put(make_request(events=[("t", b"x" * 8)]))
        self.assertEqual(["enough"], told)

    def test_few_are_not_enough(self) -> None:
        """A few requests are not enough, however large."""
        queue, told = RequestQueue(100), []
        queue.when_enough(200, lambda: told.append("enough"))
        for _ in range(7):
            queue.put(make_request(events=[("t", b"x" * 1000)]))
        self.assertEqual([], told)
        queue.put(make_request())
        self.assertEqual(["enough"], told)

    def test_many_at_once(self) -> None:
        """Many that are added at once are as many that are added one by one."""
        requests = [make_request(events=[("t", b"x" * size)]) for size in (30, 20, 10)]
        for waits in (False, True):
            queue = RequestQueue(100)
            told: list[str] = []
            got = queue.get() if waits else None
            queue.put_all(Requests.of(requests))
            if got is not None:
                self.assertIs(requests[0], self.successResultOf(got))
                queue.put_back(requests[0])
            self.assertEqual(requests, queue.pending)
            queue.when_enough(90, partial(told.append, "enough"))
            queue.put_all(Requests.of([make_request(events=[("t", b"")])] * 5))
            queue.put_all(Requests.of([make_request(events=[("t", b"x" * 29)])]))
            self.assertEqual([], told)
            queue.put_all(Requests.of([make_request(events=[("t", b"x")])]))
            self.assertEqual(["enough"], told)

    def test_enough_is_asked_no_more(self) -> None:
        """Who asks again, or no more, is not told of what was asked before."""
        queue, told = RequestQueue(1), []
        queue.when_enough(1, lambda: told.append("a"))
        queue.when_enough(1, lambda: told.append("b"))
        queue.put(make_request())
        queue.when_enough(0, None)
        queue.put(make_request())
        self.assertEqual(["b"], told)


class AdmissionTests(CollectorTestCase):
    """Who is let in."""

    def test_interface(self) -> None:
        """It is an ICollector."""
        verifyObject(ICollector, self.make())

    def test_admitted(self) -> None:
        """A request that is let in waits in the queue and is counted as unsettled."""
        collector = self.make()
        self.clock.advance(5)
        request = make_request(events=[("t", b"ab"), ("t", b"c")])
        collector.collect(request)
        self.assertEqual([request], collector.queue.pending)
        self.assertEqual(5, request.queued_at)
        self.assertEqual(
            (1, 2, request.size),
            (
                collector.unsettled_requests,
                collector.unsettled_events,
                collector.unsettled_bytes,
            ),
        )

    def test_readmitted(self) -> None:
        """So is what the journal brings back, whatever the bounds are."""
        collector = self.make(max_requests=1, max_bytes=1)
        requests = [make_request(events=[("t", b"ab"), ("t", b"c")]) for _ in range(3)]
        collector.readmit(Requests.of(requests))
        self.assertEqual(requests, collector.queue.pending)
        self.assertEqual((3, 6), (collector.unsettled_requests, collector.unsettled_events))
        self.assertEqual(3 * requests[0].size, collector.unsettled_bytes)
        for request in collector.queue.take(3):
            self.assertEqual(2, collector.delivered([request]))
        self.assertEqual(
            (0, 0, 0),
            (
                collector.unsettled_requests,
                collector.unsettled_events,
                collector.unsettled_bytes,
            ),
        )

    def test_by_count(self) -> None:
        """As many requests as the bound allows may wait; the next is refused and not kept."""
        collector = self.make(max_requests=2)
        for _ in range(2):
            self.assertNoResult(collector.collect(make_request()))
        self.assert_refused(collector.collect(make_request()))
        self.assertEqual(2, len(collector.queue.pending))
        self.assertEqual(2, collector.unsettled_requests)

    def test_count_is_of_those_that_wait(self) -> None:
        """A request that a worker has taken leaves its place to another."""
        collector = self.make(max_requests=1)
        collector.collect(make_request())
        collector.queue.take(1)
        self.assertNoResult(collector.collect(make_request()))

    def test_by_bytes(self) -> None:
        """Requests fill the bound of bytes to the last byte; one byte more is refused."""
        request = make_request(events=[("t", b"x" * 1000)])
        collector = self.make(max_bytes=2 * request.size)
        collector.collect(request)
        self.assert_refused(collector.collect(make_request(events=[("t", b"x" * 1001)])))
        self.assertNoResult(collector.collect(make_request(events=[("t", b"x" * 1000)])))
        self.assert_refused(collector.collect(make_request(events=[("t", b"")])))

    def test_bytes_are_held_until_settled(self) -> None:
        """The bytes of a request count until its outcome is known, not until it is taken."""
        request = make_request()
        collector = self.make(max_bytes=request.size)
        collector.collect(request)
        collector.queue.take(1)
        self.assert_refused(collector.collect(make_request()))
        collector.delivered([request])
        self.assertNoResult(collector.collect(make_request()))

    def test_refusals_are_counted(self) -> None:
        """Each refusal is counted, and so are its events."""
        collector = self.make(max_requests=1)
        collector.collect(make_request())
        self.assertEqual([], self.metrics.counts)
        self.assert_refused(collector.collect(make_request(events=[("t", b"")] * 3)))
        self.assertEqual(
            [
                ("requests_refused_total", 1, ("overloaded",)),
                ("events_refused_total", 3, ("overloaded",)),
            ],
            self.metrics.counts,
        )

    def test_a_request_without_events(self) -> None:
        """A request without events is acknowledged at once, as there is nothing to publish."""
        collector = self.make(max_requests=1)
        collector.collect(make_request())
        self.assertIsNone(self.successResultOf(collector.collect(make_request(events=[]))))
        self.assertEqual(1, collector.unsettled_requests)

    def test_closed(self) -> None:
        """After close every request is refused; those admitted are still settled."""
        collector = self.make()
        request = make_request()
        acknowledged = collector.collect(request)
        collector.close()
        self.assert_refused(collector.collect(make_request()))
        collector.delivered([request])
        self.assertIsNone(self.successResultOf(acknowledged))


class AcknowledgementTests(CollectorTestCase):
    """When a client is answered."""

    def test_level_0(self) -> None:
        """At level 0 a request is acknowledged when it is accepted."""
        collector = self.make(ack=0)
        request = make_request()
        self.assertIsNone(self.successResultOf(collector.collect(request)))
        self.assertEqual(1, collector.unsettled_requests)
        collector.failed(request, FAILED)
        self.assertEqual(0, collector.unsettled_requests)

    def test_level_1_delivered(self) -> None:
        """At level 1 a request is acknowledged when it is delivered, not before."""
        collector = self.make()
        request = make_request()
        acknowledged = collector.collect(request)
        self.assertNoResult(acknowledged)
        collector.delivered([request])
        self.assertIsNone(self.successResultOf(acknowledged))

    def test_level_1_failed(self) -> None:
        """At level 1 a request that is not delivered fails with the publisher's error."""
        collector = self.make()
        request = make_request()
        acknowledged = collector.collect(request)
        collector.failed(request, FAILED)
        self.assertIs(FAILED, self.failureResultOf(acknowledged, PublishError).value)

    def test_each_its_own(self) -> None:
        """The outcome of one request is no other's."""
        collector = self.make()
        requests = [make_request(str(n)) for n in range(2)]
        acknowledged = [collector.collect(request) for request in requests]
        collector.failed(requests[1], FAILED)
        self.assertNoResult(acknowledged[0])
        self.failureResultOf(acknowledged[1], PublishError)

    def test_client_that_waits_no_more(self) -> None:
        """An acknowledgement that was cancelled does not keep its request from being settled."""
        collector = self.make()
        request = make_request()
        acknowledged = collector.collect(request)
        acknowledged.cancel()
        self.failureResultOf(acknowledged, CancelledError)
        collector.delivered([request])
        self.assertEqual(0, collector.unsettled_requests)

    def test_on_failed(self) -> None:
        """on_failed is told of a failure at both levels, of a success at neither."""
        for ack in (0, 1):
            told: list[PublishError] = []
            collector = self.make(ack=ack)
            failing, fine = (make_request(on_failed=told.append) for _ in range(2))
            for request in (failing, fine):
                collector.collect(request).addErrback(lambda _: None)
            collector.failed(failing, FAILED)
            collector.delivered([fine])
            self.assertEqual([FAILED], told)

    def test_on_failed_comes_first(self) -> None:
        """on_failed is called before the client is answered, so that its retry goes through."""
        order: list[str] = []
        collector = self.make()
        request = make_request(on_failed=lambda _: order.append("on_failed"))
        collector.collect(request).addErrback(lambda _: order.append("answered"))
        collector.failed(request, FAILED)
        self.assertEqual(["on_failed", "answered"], order)


class RoomTests(CollectorTestCase):
    """when_room."""

    def fill(self, collector: Collector, count: int) -> list[CollectRequest]:
        requests = [make_request(str(n)) for n in range(count)]
        for request in requests:
            collector.collect(request)
        return requests

    def take_and_settle(self, collector: Collector, request: CollectRequest) -> None:
        (taken,) = collector.queue.take(1)
        self.assertIs(request, taken)
        collector.delivered([request])

    def test_at_half_of_the_requests(self) -> None:
        """It calls once half of the queue is free again, and only once."""
        collector = self.make()
        requests = self.fill(collector, 4)
        called: list[int] = []
        collector.when_room(lambda: called.append(1))
        self.take_and_settle(collector, requests[0])
        self.assertEqual([], called)
        self.take_and_settle(collector, requests[1])
        self.assertEqual([1], called)
        self.take_and_settle(collector, requests[2])
        self.assertEqual([1], called)

    def test_at_half_of_the_bytes(self) -> None:
        """It waits until half of the bytes are free, too."""
        collector = self.make(max_requests=100, max_bytes=4 * make_request().size)
        requests = [make_request(str(n)) for n in range(4)]
        for request in requests:
            collector.collect(request).addErrback(lambda _: None)
        collector.queue.take(4)
        called: list[int] = []
        collector.when_room(lambda: called.append(1))
        collector.delivered([requests[0]])
        self.assertEqual([], called)
        collector.failed(requests[1], FAILED)
        self.assertEqual([1], called)

    def test_every_waiter(self) -> None:
        """Every waiter is called, in the order they came."""
        collector = self.make(max_requests=2)
        (request, _) = self.fill(collector, 2)
        called: list[str] = []
        collector.when_room(lambda: called.append("a"))
        collector.when_room(lambda: called.append("b"))
        self.take_and_settle(collector, request)
        self.assertEqual(["a", "b"], called)

    def test_waiter_that_waits_again(self) -> None:
        """A waiter that is called may wait again for the next time."""
        collector = self.make(max_requests=2)
        requests = self.fill(collector, 2)
        called: list[int] = []

        def resume() -> None:
            called.append(1)
            self.fill(collector, 1)
            if len(called) < 2:
                collector.when_room(resume)

        collector.when_room(resume)
        self.take_and_settle(collector, requests[0])
        self.assertEqual([1], called)
        self.take_and_settle(collector, requests[1])
        self.assertEqual([1, 1], called)

    def test_where_there_is_room(self) -> None:
        """Where nothing is to be settled, as after a request too large to fit, it does call."""
        collector = self.make(max_bytes=1024)
        self.assert_refused(collector.collect(make_request(events=[("t", b"x" * 2048)])))
        called: list[int] = []
        collector.when_room(lambda: called.append(1))
        self.assertEqual([1], called)

    def test_forgotten(self) -> None:
        """A client that is gone waits no more, and nothing of it is kept."""
        collector = self.make(max_requests=2)
        (request, _) = self.fill(collector, 2)
        called: list[str] = []
        for name in "abc":
            forget = collector.when_room(partial(called.append, name))
            if name == "b":
                forget()
                forget()
        self.assertEqual(2, len(collector._room_waiters))
        self.take_and_settle(collector, request)
        self.assertEqual(["a", "c"], called)

    def test_a_few_at_a_time(self) -> None:
        """Many that wait go on over several turns of the reactor, in their order."""
        collector = self.make(max_requests=2)
        (request, _) = self.fill(collector, 2)
        called: list[int] = []
        for number in range(40):
            collector.when_room(partial(called.append, number))
        self.take_and_settle(collector, request)
        self.assertEqual(list(range(16)), called)
        collector.when_room(partial(called.append, 40))
        self.assertEqual(16, len(called), "who comes now waits behind them")
        self.clock.advance(0)
        self.assertEqual(list(range(41)), called)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_no_longer_than_there_is_room(self) -> None:
        """Those that go on and fill the queue again leave the others waiting."""
        collector = self.make(max_requests=2)
        requests = self.fill(collector, 2)
        called: list[int] = []

        def resume(number: int) -> None:
            called.append(number)
            requests.extend(self.fill(collector, 1))

        for number in range(3):
            collector.when_room(partial(resume, number))
        self.take_and_settle(collector, requests[0])
        self.assertEqual([0], called)
        self.take_and_settle(collector, requests[1])
        self.assertEqual([0, 1], called)

    def test_waiter_that_raises(self) -> None:
        """One that fails holds up no other."""
        collector = self.make(max_requests=2)
        (request, _) = self.fill(collector, 2)
        called: list[int] = []

        def broken() -> None:
            raise ValueError("boom")

        collector.when_room(broken)
        collector.when_room(lambda: called.append(1))
        self.take_and_settle(collector, request)
        self.assertEqual([1], called)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_closed(self) -> None:
        """A collector that is closed wakes nobody."""
        collector = self.make(max_requests=2)
        (request, _) = self.fill(collector, 2)
        called: list[int] = []
        for number in range(40):
            collector.when_room(partial(called.append, number))
        self.take_and_settle(collector, request)
        collector.close()
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertEqual(16, len(called))


class IdleTests(CollectorTestCase):
    """when_idle."""

    def test_at_once(self) -> None:
        """It fires at once where nothing is unsettled."""
        self.assertIsNone(self.successResultOf(self.make().when_idle()))

    def test_after_the_last(self) -> None:
        """It fires for everyone who waits when the last request is settled."""
        collector = self.make()
        requests = [make_request(str(n)) for n in range(2)]
        for request in requests:
            collector.collect(request)
        waiting = [collector.when_idle(), collector.when_idle()]
        collector.delivered([requests[0]])
        self.assertNoResult(waiting[0])
        collector.delivered([requests[1]])
        for idle in waiting:
            self.assertIsNone(self.successResultOf(idle))

    def test_level_0_counts(self) -> None:
        """A request that was acknowledged at level 0 is not settled by that."""
        collector = self.make(ack=0)
        collector.collect(make_request())
        self.assertNoResult(collector.when_idle())

    def test_cancelled(self) -> None:
        """One who waits no more does not keep others from being told."""
        collector = self.make()
        request = make_request()
        collector.collect(request)
        given_up, idle = collector.when_idle(), collector.when_idle()
        given_up.cancel()
        self.failureResultOf(given_up, CancelledError)
        collector.delivered([request])
        self.assertIsNone(self.successResultOf(idle))


class JournalTests(CollectorTestCase):
    """With a journal."""

    def make(
        self,
        ack: int = 2,
        max_requests: int = 4,
        max_bytes: int = 1 << 20,
        group_max: int = 1000,
    ) -> Collector:
        self.clock = Clock()
        self.metrics = FakeMetrics()
        self.journal = FakeJournal()
        settings = WorkerSettings(
            buffer_channel_size=max_requests,
            buffer_max_bytes=max_bytes,
            group_max_requests=group_max,
        )
        return Collector(
            settings,
            EventSettings(ack=ack),
            self.metrics,
            self.clock,
            Supervisor(self.metrics),
            self.journal,
        )

    def test_interface(self) -> None:
        """The fake is an IJournal."""
        verifyObject(IJournal, FakeJournal())

    def test_level_2(self) -> None:
        """At level 2 each request is in the journal and on its way; who answers is the journal."""
        collector = self.make()
        request = make_request()
        acknowledged = collector.collect(request)
        self.assertNoResult(acknowledged)
        self.assertEqual([(request, True)], self.journal.added)
        self.assertEqual([request], collector.queue.pending)
        self.assertIs(acknowledged, request.acknowledged)

    def test_level_2_delivered_first(self) -> None:
        """One that is delivered before it is written is answered by that."""
        collector = self.make()
        request = make_request()
        acknowledged = collector.collect(request)
        self.assertEqual(1, collector.delivered([request]))
        self.successResultOf(acknowledged)
        self.assertEqual([request], self.journal.done)

    def test_delivered_without_it(self) -> None:
        """The journal is told of what it has, and of nothing else."""
        for ack in (0, 1):
            collector = self.make(ack=ack)
            requests = [make_request(str(number)) for number in range(3)]
            answers = [collector.collect(request) for request in requests]
            requests[1].entry = self.journal
            self.assertEqual(3, collector.delivered(requests))
            self.assertEqual([requests[1]], self.journal.done)
            for answer in answers:
                self.successResultOf(answer)

    def test_level_2_no_room_in_memory(self) -> None:
        """What finds no room in memory is in the journal alone."""
        size = make_request().size
        for max_bytes, room in ((size, 1 << 30), (1 << 20, size)):
            collector = self.make(max_bytes=max_bytes)
            self.journal.room = room
            for _ in range(2):
                self.assertNoResult(collector.collect(make_request()))
            self.assertEqual([True, False], [in_memory for _, in_memory in self.journal.added])
            self.assertEqual(1, len(collector.queue.pending))
            self.assertEqual(1, collector.unsettled_requests)

    def test_level_2_many(self) -> None:
        """At level 2 bytes alone are bounded; what is enough for a group depends on groups."""
        collector = self.make(max_requests=4, group_max=40)
        told: list[int] = []
        collector.queue.when_enough(1 << 20, lambda: told.append(len(collector.queue.pending)))
        for _ in range(20):
            collector.collect(make_request())
        self.assertEqual(
            [(request, True) for request in collector.queue.pending], self.journal.added
        )
        self.assertEqual(20, len(self.journal.added))
        self.assertEqual([10], told)
        used = 20 * make_request().size
        self.assertEqual(used / (1 << 20), collector.fullness())

    def test_level_2_holds_nobody_back(self) -> None:
        """Whatever is full: a client whose request the journal refused is told so each time."""
        collector = self.make(max_bytes=make_request().size)
        collector.collect(make_request())
        self.assertEqual(1.0, collector.fullness())
        self.journal.full = "the journal is full"
        called: list[int] = []
        collector.when_room(lambda: called.append(1))
        self.assertEqual([1], called)

    def test_level_2_full(self) -> None:
        """What the journal cannot take is refused with its reason, and counted so."""
        collector = self.make()
        self.journal.full = "the journal is full"
        error = self.failureResultOf(collector.collect(make_request()), Overloaded).value
        self.assertEqual("overloaded, retry: the journal is full", str(error))
        self.assertEqual(1, self.metrics.total("requests_refused_total", ("journal",)))
        self.assertEqual(1, self.metrics.total("events_refused_total", ("journal",)))
        self.assertEqual([], self.journal.added)

    def test_level_2_failed(self) -> None:
        """A delivery that failed is the journal's affair; its events are not failed."""
        collector = self.make()
        told: list[PublishError] = []
        request = make_request(on_failed=told.append)
        acknowledged = collector.collect(request)
        self.assertEqual((0, 0), collector.failed(request, FAILED))
        self.assertNoResult(acknowledged)
        self.assertEqual(([request], []), (self.journal.kept, told))

    def test_level_2_failed_for_good(self) -> None:
        """Where the journal cannot keep it, its client is told."""
        collector = self.make()
        self.journal.keeps = False
        request = make_request()
        acknowledged = collector.collect(request)
        self.assertEqual((0, 1), collector.failed(request, FAILED))
        self.failureResultOf(acknowledged, PublishError)

    def test_failed_in_part_for_ever(self) -> None:
        """Of a request of which some events can never be delivered the others were."""
        for ack in (0, 2):
            collector = self.make(ack=ack)
            request = make_request(events=[("t", b"")] * 3)
            collector.collect(request)
            error = PublishError(1, 3, ["too large"], {"t": 1})
            self.assertEqual((2, 0), collector.failed(request, error))

    def test_closed(self) -> None:
        """After close every request is refused, whatever the level."""
        for ack in (0, 1, 2):
            collector = self.make(ack=ack)
            collector.close()
            self.assert_refused(collector.collect(make_request()))
            self.assertEqual([], self.journal.added)

    def test_level_0(self) -> None:
        """At level 0 the journal has what the queue has no room for, and what failed."""
        collector = self.make(ack=0, max_requests=1)
        first, second = make_request(), make_request()
        self.successResultOf(collector.collect(first))
        self.assertEqual([], self.journal.added)
        self.assertNoResult(collector.collect(second))
        self.assertEqual([(second, False)], self.journal.added)
        self.assertEqual((0, 0), collector.failed(first, FAILED))
        self.assertEqual([first], self.journal.kept)

    def test_level_1(self) -> None:
        """At level 1 a full queue refuses; what failed is kept, and its client told."""
        collector = self.make(ack=1, max_requests=1)
        told: list[PublishError] = []
        request = make_request(on_failed=told.append)
        acknowledged = collector.collect(request)
        self.assert_refused(collector.collect(make_request()))
        self.assertEqual((0, 0), collector.failed(request, FAILED))
        self.failureResultOf(acknowledged, PublishError)
        self.assertEqual(([request], [FAILED], []), (self.journal.kept, told, self.journal.added))
