"""Tests of raccoon.worker."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from raccoon.collector import Collector
from raccoon.config import EventSettings, WorkerSettings
from raccoon.errors import Overloaded, PublishError
from raccoon.interfaces import ILingeringPublisher
from raccoon.supervision import Supervisor
from raccoon.worker import _LINGER as PACE
from raccoon.worker import Slots, WorkerService
from tests.fakes import FakeMetrics, FakePublisher, PublishByHand, ThreadlessClock, make_request

START = 1000.0


@implementer(ILingeringPublisher)
class LingeringPublisher(FakePublisher):
    """Has groups 20 ms apart, or of 100 bytes besides their first request, and never over 5000."""

    linger = 0.02
    enough_bytes = 100
    group_bytes = 5000
    parallel = 100


class WorkerTestCase(SynchronousTestCase):
    """A worker whose publishes end when the test says so."""

    def setUp(self) -> None:
        self.start_worker()

    def start_worker(
        self,
        pool_size: int = 2,
        group_max: int = 10,
        ack: int = 1,
        publisher: FakePublisher | str = "kafka",
        queue: int = 1000,
    ) -> None:
        self.clock = ThreadlessClock()
        self.clock.advance(START)
        self.metrics = FakeMetrics()
        self.publish = PublishByHand()
        settings = WorkerSettings(
            pool_size=pool_size, group_max_requests=group_max, buffer_channel_size=queue
        )
        self.supervisor = Supervisor(self.metrics, self.clock.seconds)
        self.collector = Collector(
            settings, EventSettings(ack=ack), self.metrics, self.clock, self.supervisor
        )
        self.worker = WorkerService(
            self.clock,
            self.collector,
            self.publish,
            FakePublisher(publisher) if isinstance(publisher, str) else publisher,
            settings,
            self.metrics,
            self.supervisor,
        )
        self.worker.startService()

    def collect(self, *guids: str, **fields: Any) -> list[Deferred[None]]:
        return [self.collector.collect(make_request(guid, **fields)) for guid in guids]

    def turn(self, seconds: float = PACE) -> None:
        """Let time pass; twice, for what the first call schedules."""
        self.clock.advance(seconds)
        self.clock.advance(0)

    def finish(self, index: int, outcome: Any = None) -> None:
        """End a publish with this outcome for each request."""
        self.publish.pending[index].callback([outcome] * len(self.publish.groups[index]))


class SlotTests(SynchronousTestCase):
    """How many publishes are under way."""

    def test_names(self) -> None:
        """Each has a name of its own, and what waits has the first that is given back."""
        slots = Slots(2, lambda: 100)
        first, second = (self.successResultOf(slots.acquire()) for _ in range(2))
        self.assertEqual({"worker-0", "worker-1"}, {first, second})
        waiting = slots.acquire()
        self.assertNoResult(waiting)
        slots.release(first)
        self.assertEqual(first, self.successResultOf(waiting))

    def test_fewer_at_once(self) -> None:
        """No more are taken than are worth it now, but always one."""
        most = 1
        slots = Slots(3, lambda: most)
        first = self.successResultOf(slots.acquire())
        waiting = slots.acquire()
        self.assertNoResult(waiting)
        slots.release(first)
        second = self.successResultOf(waiting)
        most = 2
        third = self.successResultOf(slots.acquire())
        most = 0
        waiting = slots.acquire()
        slots.release(second)
        self.assertNoResult(waiting)
        slots.release(third)
        self.successResultOf(waiting)

    def test_cancelled(self) -> None:
        """A name is not given to who does not wait for it any more."""
        slots = Slots(1, lambda: 1)
        first = self.successResultOf(slots.acquire())
        waiting = slots.acquire()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        slots.release(first)
        self.assertEqual(first, self.successResultOf(slots.acquire()))


class GroupTests(WorkerTestCase):
    """Which requests travel together."""

    def test_alone(self) -> None:
        """A request that comes alone is published in the same turn of the reactor."""
        self.collect("a")
        self.turn(0)
        self.assertEqual([["a"]], self.publish.guids)

    def test_one_turn(self) -> None:
        """What comes in during one turn of the reactor is one group, in order."""
        self.collect("a", "b", "c")
        self.assertEqual([], self.publish.guids)
        self.turn(0)
        self.assertEqual([["a", "b", "c"]], self.publish.guids)

    def test_pace(self) -> None:
        """The next group is launched its pace after the last, with all that came."""
        self.collect("a")
        self.turn(0)
        self.collect("b")
        self.turn(PACE / 2)
        self.collect("c")
        self.assertEqual([["a"]], self.publish.guids)
        self.turn(PACE / 2)
        self.assertEqual([["a"], ["b", "c"]], self.publish.guids)

    def test_linger_of_the_publisher(self) -> None:
        """A publisher's own linger is kept between groups; after a pause nothing waits."""
        self.start_worker(publisher=LingeringPublisher())
        self.collect("a")
        self.turn(0)
        self.collect("b")
        self.turn(0.019)
        self.collect("c")
        self.assertEqual([["a"]], self.publish.guids)
        self.turn(0.001)
        self.assertEqual([["a"], ["b", "c"]], self.publish.guids)

    def test_full_batch(self) -> None:
        """Several requests that make up a batch do not wait for the linger."""
        self.start_worker(publisher=LingeringPublisher())
        self.collect("a")
        self.turn(0)
        self.collect(*"bcdefgh", events=[("click", b"x" * 16)])
        self.collect("i")
        self.turn(0)
        self.assertEqual([["a"]], self.publish.guids)
        self.collect("j", events=[("click", b"xx")])
        self.turn(0)
        self.assertEqual([["a"], [*"bcdefghij"]], self.publish.guids)
        self.finish(0)
        self.collect("k")
        self.turn(0.019)
        self.assertEqual(2, len(self.publish.groups))
        self.turn(0.001)
        self.assertEqual([["a"], [*"bcdefghij"], ["k"]], self.publish.guids)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_group_of_bytes(self) -> None:
        """A group is no larger than the publisher sends at once, but for one large request."""
        self.start_worker(publisher=LingeringPublisher())
        self.collect("a", "b", events=[("click", b"x" * 5000)])
        self.collect(*"cdefg", events=[("click", b"x" * 900)] * 2)
        for number in range(4):
            self.turn(0.02)
            self.finish(number)
        self.turn(0.02)
        self.assertEqual([["a"], ["b"], ["c", "d"], ["e", "f"], ["g"]], self.publish.guids)

    def test_queue_that_fills(self) -> None:
        """Once a quarter of the queue is taken nothing waits for the linger."""
        self.start_worker(publisher=LingeringPublisher(), queue=8)
        self.collect("a")
        self.turn(0)
        self.collect("b", "c")
        self.turn(0)
        self.assertEqual([["a"]], self.publish.guids)
        self.collect("d")
        self.turn(0)
        self.assertEqual([["a"], ["b", "c", "d"]], self.publish.guids)

    def test_group_that_is_full(self) -> None:
        """A group of as many as there may be does not wait for the linger."""
        self.start_worker(publisher=LingeringPublisher(), group_max=3)
        self.collect("a")
        self.turn(0)
        self.collect("b", "c", "d", "e")
        self.turn(0)
        self.assertEqual([["a"], ["b", "c", "d"]], self.publish.guids)

    def test_clock_set_back(self) -> None:
        """A clock that is set back makes nothing wait for it to come round."""
        self.collect("a")
        self.turn(0)
        self.clock.rightNow -= 3600
        self.collect("b")
        self.turn()
        self.assertEqual([["a"], ["b"]], self.publish.guids)

    def test_no_pace_after_a_pause(self) -> None:
        """After a pause a request is launched at once again."""
        self.collect("a")
        self.turn(0)
        self.turn(1)
        self.collect("b")
        self.turn(0)
        self.assertEqual([["a"], ["b"]], self.publish.guids)

    def test_bound(self) -> None:
        """A group holds at most group_max_requests; the next takes the rest."""
        self.start_worker(group_max=2)
        self.collect("a", "b", "c")
        self.turn(0)
        self.assertEqual([["a", "b"]], self.publish.guids)
        self.turn()
        self.assertEqual([["a", "b"], ["c"]], self.publish.guids)

    def test_slots(self) -> None:
        """No more publishes are in flight than there are slots; what waits goes with the next."""
        for guid in "abcd":
            self.collect(guid)
            self.turn()
        self.assertEqual([["a"], ["b"]], self.publish.guids)
        self.finish(0)
        self.turn()
        self.assertEqual([["a"], ["b"], ["c", "d"]], self.publish.guids)

    def test_slots_come_back(self) -> None:
        """A slot is free again after a publish that failed, however it failed."""
        self.start_worker(pool_size=1)
        for index, end in enumerate(
            (
                lambda done: done.callback([PublishError(1, 1, ["no"])]),
                lambda done: done.errback(ValueError("no")),
                lambda done: done.callback([]),
                lambda done: done.callback([Future()]),
            )
        ):
            (answer,) = self.collect(str(index))
            answer.addErrback(lambda _: None)
            self.turn()
            self.assertEqual(index + 1, len(self.publish.groups))
            end(self.publish.pending[index])
        self.collect("last")
        self.turn()
        self.assertEqual(["last"], self.publish.guids[-1])
        self.flushLoggedErrors(ValueError)

    def test_worker_label_is_a_slot(self) -> None:
        """The label `worker` takes as many values as there are slots."""
        for _ in range(5):
            self.collect("a", "b")
            self.turn()
            self.collect("c")
            self.turn()
            for index in (-1, -2):
                self.finish(index)
        labels = {
            labels
            for name, _, labels in self.metrics.observations
            if name == "worker_processing_duration_milliseconds"
        }
        self.assertEqual({("worker-0",), ("worker-1",)}, labels)


class OutcomeTests(WorkerTestCase):
    """What becomes of a request."""

    def launch(self, *guids: str, **fields: Any) -> list[Deferred[None]]:
        answers = self.collect(*guids, **fields)
        self.turn()
        self.assertEqual([list(guids)], self.publish.guids)
        return answers

    def test_each_its_own(self) -> None:
        """Each request of a group has its own outcome."""
        delivered, failed, late = self.launch("a", "b", "c")
        error = PublishError(1, 1, ["no"])
        straggler: Future[PublishError | None] = Future()
        self.publish.pending[0].callback([None, error, straggler])
        self.assertIsNone(self.successResultOf(delivered))
        self.assertIs(error, self.failureResultOf(failed, PublishError).value)
        self.assertNoResult(late)

    def test_straggler(self) -> None:
        """A request whose outcome is a Future is settled on the reactor when that has a result."""
        (answer,) = self.launch("a")
        straggler: Future[PublishError | None] = Future()
        self.publish.pending[0].callback([straggler])
        straggler.set_result(None)
        self.assertNoResult(answer)
        self.turn()
        self.assertIsNone(self.successResultOf(answer))

    def test_straggler_that_fails(self) -> None:
        """A straggler's PublishError fails its request."""
        (answer,) = self.launch("a")
        straggler: Future[PublishError | None] = Future()
        self.publish.pending[0].callback([straggler])
        straggler.set_result(PublishError(1, 1, ["timed out"]))
        self.turn()
        self.failureResultOf(answer, PublishError)

    def test_straggler_that_is_done(self) -> None:
        """A Future that has its result already settles its request."""
        (answer,) = self.launch("a")
        straggler: Future[PublishError | None] = Future()
        straggler.set_result(None)
        self.publish.pending[0].callback([straggler])
        self.turn()
        self.assertIsNone(self.successResultOf(answer))

    def test_straggler_that_raises(self) -> None:
        """A Future that holds an exception, or is cancelled, fails its request and no other."""
        raising, cancelled, fine = self.launch("a", "b", "c")
        outcomes: list[Future[PublishError | None]] = [Future(), Future(), Future()]
        self.publish.pending[0].callback(outcomes)
        outcomes[0].set_exception(ValueError("broken"))
        outcomes[1].cancel()
        outcomes[2].set_result(None)
        self.turn()
        self.assertIsNone(self.successResultOf(fine))
        self.assertIn("broken", str(self.failureResultOf(raising, PublishError).value))
        self.failureResultOf(cancelled, PublishError)
        self.assertEqual(0, self.collector.unsettled_requests)

    def test_publisher_that_raises(self) -> None:
        """What a publisher raises fails every request of the group, and is logged."""
        answers = self.launch("a", "b", events=[("t", b"")] * 3)
        self.publish.pending[0].errback(ValueError("driver broke"))
        for answer in answers:
            error = self.failureResultOf(answer, PublishError).value
            self.assertEqual("3 of 3 events failed: driver broke", str(error))
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.assertEqual(6, self.metrics.total("events_failed_total"))

    def test_wrong_number_of_outcomes(self) -> None:
        """A publisher that gives too few or too many outcomes fails the whole group."""
        for outcomes in ([None], [None] * 3):
            self.start_worker()
            answers = self.launch("a", "b")
            self.publish.pending[0].callback(outcomes)
            for answer in answers:
                error = self.failureResultOf(answer, PublishError).value
                self.assertIn(f"{len(outcomes)} outcomes for 2 requests", str(error))
        self.assertEqual(2, len(self.flushLoggedErrors(ValueError)))

    def test_level_0(self) -> None:
        """At level 0 a failure is counted and settled, though the client was answered."""
        self.start_worker(ack=0)
        (answer,) = self.collect("a")
        self.assertIsNone(self.successResultOf(answer))
        self.turn()
        self.finish(0, PublishError(1, 1, ["no"]))
        self.assertEqual(1, self.metrics.total("events_failed_total"))
        self.assertEqual(0, self.collector.unsettled_requests)


class CountTests(WorkerTestCase):
    """What is counted and measured."""

    def test_delivered(self) -> None:
        """Every event of a delivered request counts as delivered."""
        self.collect("a", "b", events=[("t", b"")] * 3)
        self.turn()
        self.finish(0)
        self.assertEqual(6, self.metrics.total("events_delivered_total"))
        self.assertEqual(0, self.metrics.total("events_failed_total"))

    def test_partly_delivered(self) -> None:
        """Of a request that failed in part, each event counts as what became of it."""
        (answer,) = self.collect("a", events=[("t", b"")] * 3)
        answer.addErrback(lambda _: None)
        self.turn()
        self.finish(0, PublishError(1, 3, ["no"]))
        self.assertEqual(2, self.metrics.total("events_delivered_total"))
        self.assertEqual(1, self.metrics.total("events_failed_total"))

    def test_nothing_before_the_outcome(self) -> None:
        """Until its outcome is known an event counts neither as delivered nor as failed."""
        self.collect("a")
        self.turn()
        self.publish.pending[0].callback([Future()])
        self.assertEqual([], self.metrics.counts)

    def test_durations(self) -> None:
        """Wait, publish, and both latencies are measured in milliseconds under their labels."""
        self.collector.collect(
            make_request(sent_time=START - 1, received_at=START - 0.5, group="web")
        )
        self.turn(0.25)
        self.clock.advance(0.75)
        self.finish(0)
        worker = (self.metrics.observations[0][2][0],)
        self.assertEqual(
            {
                ("batch_idle_in_channel_milliseconds", 250.0, worker),
                ("kafka_producebulk_tt_ms", 750.0, ()),
                ("worker_processing_duration_milliseconds", 750.0, worker),
                ("server_processing_latency_milliseconds", 1500.0, ("web",)),
                ("event_processing_duration_milliseconds", 2000.0, ("web",)),
            },
            set(self.metrics.observations),
        )

    def test_without_sent_time(self) -> None:
        """Without a sent_time there is no duration from it."""
        self.collect("a")
        self.turn()
        self.finish(0)
        self.assertEqual([], self.metrics.observed("event_processing_duration_milliseconds"))

    def test_straggler_is_measured_at_its_end(self) -> None:
        """The latency of a straggler runs to its own outcome, not to its group's."""
        straggler: Future[PublishError | None] = Future()
        self.collect("a", received_at=START)
        self.turn(0)
        self.publish.pending[0].callback([straggler])
        self.clock.advance(3)
        straggler.set_result(None)
        self.turn(0)
        self.assertEqual([3000.0], self.metrics.observed("server_processing_latency_milliseconds"))

    def test_installed_publisher(self) -> None:
        """A publish by a publisher that is not one of ours is measured as `other`."""
        self.start_worker(publisher="pigeon")
        self.collect("a")
        self.turn()
        self.finish(0)
        self.assertEqual(1, len(self.metrics.observed("other_producebulk_tt_ms")))


class DrainTests(WorkerTestCase):
    """The orderly end."""

    def test_nothing_to_do(self) -> None:
        """With nothing admitted a drain ends at once."""
        self.assertEqual(0, self.successResultOf(self.worker.drain(5)))
        self.assertFalse(self.worker.running)

    def test_publishes_what_waits(self) -> None:
        """What was admitted is published and settled before the drain ends."""
        answers = self.collect("a", "b")
        draining = self.worker.drain(5)
        self.turn()
        self.assertNoResult(draining)
        self.finish(0)
        self.assertEqual(0, self.successResultOf(draining))
        for answer in answers:
            self.assertIsNone(self.successResultOf(answer))

    def test_waits_for_stragglers(self) -> None:
        """A straggler holds the drain until it is settled."""
        straggler: Future[PublishError | None] = Future()
        self.collect("a")
        self.turn()
        self.publish.pending[0].callback([straggler])
        draining = self.worker.drain(5)
        self.turn()
        self.assertNoResult(draining)
        straggler.set_result(None)
        self.turn()
        self.assertEqual(0, self.successResultOf(draining))

    def test_deadline(self) -> None:
        """Past the deadline what waits fails, counted to the event; what is under way goes on."""
        self.start_worker(pool_size=1)
        (under_way,) = self.collect("a")
        self.turn()
        waiting = self.collect("b", "c", events=[("t", b"")] * 2)
        draining = self.worker.drain(5)
        self.turn(4.9)
        self.assertNoResult(draining)
        self.turn(0.2)
        self.assertEqual(4, self.successResultOf(draining))
        for answer in waiting:
            error = self.failureResultOf(answer, PublishError).value
            self.assertEqual("2 of 2 events failed: the server is shutting down", str(error))
        self.assertEqual(4, self.metrics.total("events_failed_total"))
        self.assertNoResult(under_way)
        self.finish(0)
        self.assertIsNone(self.successResultOf(under_way))
        self.assertEqual([["a"]], self.publish.guids)
        self.assertEqual(0, self.collector.unsettled_requests)

    def test_request_that_waits_for_the_pace(self) -> None:
        """A request that was taken off the queue but not launched is abandoned like the rest."""
        self.collect("a")
        self.turn(0)
        answers = self.collect("b")
        draining = self.worker.drain(PACE / 2)
        answers += self.collect("c")
        self.turn(PACE / 2)
        self.assertEqual(2, self.successResultOf(draining))
        for answer in answers:
            self.failureResultOf(answer, PublishError)
        self.turn(1)
        self.assertEqual([["a"]], self.publish.guids)

    def test_refuses_afterwards(self) -> None:
        """After a drain nothing is admitted that nobody would publish."""
        self.successResultOf(self.worker.drain(5))
        (answer,) = self.collect("a")
        self.failureResultOf(answer, Overloaded)

    def test_leaves_nothing_scheduled(self) -> None:
        """After a drain no call of the worker's is scheduled, and no error was logged."""
        self.collect("a")
        draining = self.worker.drain(5)
        self.turn()
        self.finish(0)
        self.successResultOf(draining)
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertEqual([], self.flushLoggedErrors())

    def test_stop_before_start(self) -> None:
        """A worker that never started stops."""
        worker = WorkerService(
            self.clock,
            self.collector,
            self.publish,
            FakePublisher(),
            WorkerSettings(),
            self.metrics,
            self.supervisor,
        )
        stop: Callable[[], object] = worker.stopService
        self.assertIsNone(stop())


class FaultTests(WorkerTestCase):
    """Faults of ours: each request has an outcome, and the loop goes on."""

    def test_loop(self) -> None:
        """A loop that fails is told, fails what it has in hand, and begins anew."""
        waited = self.worker._company

        def broken() -> Deferred[None]:
            raise ValueError("boom")

        self.worker._company = broken  # type: ignore[method-assign]
        (acknowledged,) = self.collect("a")
        self.clock.advance(0)
        error = self.failureResultOf(acknowledged, PublishError).value
        self.assertIn("boom", str(error))
        self.assertEqual(["the worker failed: boom"], self.supervisor.reasons())
        self.assertEqual(1, self.metrics.total("events_failed_total"))
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.worker._company = waited  # type: ignore[method-assign]
        (acknowledged,) = self.collect("b")
        self.clock.pump([0.1, 0.1, 0.1])
        self.assertEqual([["b"]], self.publish.guids)
        self.publish.pending[0].callback([None])
        self.successResultOf(acknowledged)
        self.assertEqual([], self.supervisor.reasons())

    def test_loop_that_stops(self) -> None:
        """One that is to begin anew does not when the service has stopped meanwhile."""

        def broken() -> Deferred[None]:
            raise ValueError("boom")

        self.worker._company = broken  # type: ignore[method-assign]
        self.collect("a")[0].addErrback(lambda _: None)
        self.clock.advance(0)
        self.worker.stopService()
        self.assertEqual([], self.clock.getDelayedCalls())
        self.flushLoggedErrors(ValueError)

    def test_settling(self) -> None:
        """Where outcomes cannot be settled, whoever waits for an answer is told of a failure."""

        def broken(requests: object) -> int:
            raise ValueError("boom")

        acknowledged = self.collect("a", "b")
        self.turn()
        self.collector.delivered = broken  # type: ignore[method-assign]
        self.publish.pending[0].callback([None, None])
        for waiting in acknowledged:
            self.failureResultOf(waiting, PublishError)
        self.assertEqual(["settling a group failed: boom"], self.supervisor.reasons())
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_settling_late(self) -> None:
        """So is who waits for an outcome that came later."""
        future: Future[PublishError | None] = Future()

        def broken(requests: object) -> int:
            raise ValueError("boom")

        (acknowledged,) = self.collect("a")
        self.turn()
        self.publish.pending[0].callback([future])
        self.collector.delivered = broken  # type: ignore[method-assign]
        future.set_result(None)
        self.clock.advance(0)
        self.failureResultOf(acknowledged, PublishError)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_metrics(self) -> None:
        """Metrics that fail hold up no outcome."""

        def broken(*_: object) -> None:
            raise ValueError("boom")

        self.patch(self.metrics, "observe_all", broken)
        (acknowledged,) = self.collect("a")
        self.turn()
        self.publish.pending[0].callback([None])
        self.successResultOf(acknowledged)
        self.assertEqual(["the worker's metrics failed: boom"], self.supervisor.reasons())
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
