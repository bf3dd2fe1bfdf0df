"""Tests of raccoon.processes.parent."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from raccoon.config import (
    GrpcSettings,
    LimitSettings,
    MetricSettings,
    ServerSettings,
    Settings,
    WebSocketSettings,
    WorkerSettings,
    largest_request,
)
from raccoon.errors import StartError
from raccoon.processes import parent
from tests.fakes import ThreadlessClock

NOTHING_LOST = "no accepted event was lost"


class FakeClock(ThreadlessClock):
    """A Clock that runs at once what is to run when the reactor does."""

    def callWhenRunning(self, call: Any, *args: Any) -> None:
        call(*args)


class FakeSocket:
    """Bound somewhere."""

    closed = False

    def getsockname(self) -> tuple[str, int]:
        return "::", 8080

    def close(self) -> None:
        self.closed = True


class FakeProcess:
    """A worker process that does what the test has it do.

    Attributes:
        said: what the parent told it.
        log: what was done with it.
    """

    def __init__(self, reactor: Any, received: Any, ended: Any) -> None:
        self.index: int | None = None
        self.core: int | None = None
        self.started_at = reactor.seconds()
        self.serving = False
        self.silent_looks = 0
        self.left: int | None = None
        self.said: list[tuple[Any, ...]] = []
        self.log: list[str] = []
        self.reason: str | None = None
        self._received = received
        self._ended = ended

    def spawn(self, settings: int, sockets: Any) -> None:
        self.log.append("spawn")

    def begin(self, index: int, core: int | None) -> None:
        self.index, self.core = index, core
        self.log.append("begin")

    def wait(self) -> str | None:
        self.serving = self.reason is None
        return self.reason

    def listen(self) -> None:
        self.log.append("listen")

    def say(self, *message: Any) -> None:
        self.said.append(message)

    def stop(self) -> None:
        self.log.append("stop")

    def kill(self) -> None:
        self.log.append("kill")

    def tell(self, *message: Any) -> None:
        """It says something."""
        self._received(self, *message)

    def end(self, why: str = "signal SIGKILL") -> None:
        """It ends."""
        self.serving = False
        self._ended(self, why)


def counted(name: str, value: float, *labels: str) -> dict[str, Any]:
    """Changes of one value."""
    return {"values": [(name, list(labels), value)], "histograms": [], "samples": []}


class ParentTestCase(SynchronousTestCase):
    """A parent of two workers that are fakes."""

    def setUp(self) -> None:
        self.clock = FakeClock()
        self.processes: list[FakeProcess] = []
        self.sockets = [FakeSocket(), FakeSocket()]
        self.held = FakeSocket()
        self.reason: str | None = None
        self.patch(parent, "bind_http", lambda *_: self.sockets)
        self.patch(parent, "hold_grpc", lambda _, address: (address, [self.held]))
        self.patch(parent, "settings_file", lambda _: -1)
        self.patch(parent, "stop_on_signals", lambda *_: None)
        self.settings = Settings(
            server=ServerSettings(workers=2), websocket=WebSocketSettings(max_conn=2)
        )
        self.service = parent.ParentService(
            self.clock, self.settings, make_process=self.make_process
        )
        self.log: list[str] = []
        self.patch(
            parent.ParentService,
            "_logger",
            SimpleNamespace(info=self.note, warn=self.note, error=self.note, critical=self.note),
        )

    def make_process(self, *args: Any) -> Any:
        self.processes.append(FakeProcess(*args))
        self.processes[-1].reason = self.reason
        return self.processes[-1]

    def note(self, text: str, **fields: object) -> None:
        self.log.append(text.format(**fields))

    def start(self) -> None:
        self.service.privilegedStartService()
        self.service.startService()

    def working(self, index: int) -> FakeProcess:
        """The process that is worker `index`."""
        return next(process for process in reversed(self.processes) if process.index == index)

    def total(self, name: str, *labels: str) -> float:
        return self.service._prometheus.take().values[name][labels]


class StartTests(ParentTestCase):
    """The beginning."""

    def test_all_serve(self) -> None:
        """It waits for every worker, then has a spare one spawned."""
        self.start()
        self.assertEqual([0, 1, None], [process.index for process in self.processes])
        self.assertEqual(["spawn", "begin", "listen"], self.working(1).log)
        self.assertEqual(["spawn"], self.processes[-1].log)
        self.assertIn("HTTP [::]:8080, gRPC [::]:8081, metrics off; 2 workers", self.log[-1])

    def test_one_does_not_serve(self) -> None:
        """A worker that cannot serve ends the start, in one line."""
        self.reason = "worker 0: no such option"
        self.service.privilegedStartService()
        error = self.assertRaises(StartError, self.service.startService)
        self.assertEqual("worker 0: no such option", str(error))
        self.assertEqual(["cannot start: worker 0: no such option"], self.log)

    def test_cores(self) -> None:
        """Each worker has a core of its own where there are enough, else none is bound."""
        self.patch(os, "sched_getaffinity", lambda _: {5, 3, 9})
        self.assertEqual([3, 5, 9], [parent.core_of(index, 3) for index in range(3)])
        self.assertIsNone(parent.core_of(0, 4))


class ClaimTests(ParentTestCase):
    """WebSocket connections."""

    def setUp(self) -> None:
        super().setUp()
        self.start()
        self.a, self.b = self.working(0), self.working(1)

    def claim(self, process: FakeProcess, id: str) -> str | None:
        process.tell("claim", id, "group")
        word, reason = process.said[-1]
        self.assertEqual("verdict", word)
        return reason  # type: ignore[no-any-return]

    def test_over_all_workers(self) -> None:
        """Ids are unique and their number is limited over all workers."""
        self.assertIsNone(self.claim(self.a, "x"))
        self.assertEqual("exists", self.claim(self.b, "x"))
        self.assertIsNone(self.claim(self.b, "y"))
        self.assertEqual("serverlimit", self.claim(self.a, "z"))
        self.b.tell("release", "y", "group")
        self.assertIsNone(self.claim(self.a, "z"))

    def test_worker_ends(self) -> None:
        """The ids of a worker that ended are free."""
        self.claim(self.a, "x")
        self.a.end()
        self.assertIsNone(self.claim(self.b, "x"))


class WatchTests(ParentTestCase):
    """Worker processes that hang, and words of those that are gone."""

    def setUp(self) -> None:
        super().setUp()
        self.start()
        self.a, self.b, self.spare = self.processes

    def look(self, times: int, *speaking: FakeProcess) -> None:
        """So many seconds pass, in which some of them speak."""
        for _ in range(times):
            for process in speaking:
                process.tell("changes", counted("events_delivered_total", 1))
            self.clock.advance(1)

    def test_hangs(self) -> None:
        """One that says nothing for five looks is killed, and replaced as one that crashed."""
        self.look(4, self.a)
        self.assertNotIn("kill", self.b.log)
        self.look(1, self.a)
        self.assertEqual("kill", self.b.log[-1])
        self.assertIn("worker 1 has said nothing for 5.0 s: killed", self.log[-1])
        self.b.end()
        self.clock.advance(0)
        self.assertEqual(1, self.spare.index)
        self.assertNotIn("kill", self.a.log)

    def test_killed_once(self) -> None:
        """It is not killed again while its end is not told yet."""
        self.look(20, self.a)
        self.assertEqual(1, self.b.log.count("kill"))

    def test_speaks_again(self) -> None:
        """A word in time, and it counts from there."""
        self.look(4)
        self.look(1, self.a, self.b)
        self.look(3)
        self.assertNotIn("kill", self.a.log + self.b.log)

    def test_parent_that_was_stopped(self) -> None:
        """A parent that did not run itself blames nobody for it."""
        self.clock.advance(3600)
        self.look(3)
        self.assertNotIn("kill", self.a.log + self.b.log)

    def test_hangs_at_its_start(self) -> None:
        """A successor that does not come to serve is killed after a minute."""
        self.a.end()
        self.clock.advance(0)
        self.look(59, self.b)
        self.assertNotIn("kill", self.spare.log)
        self.look(1, self.b)
        self.assertEqual("kill", self.spare.log[-1])

    def test_not_while_stopping(self) -> None:
        """A stop has a deadline of its own."""
        self.service.stopService()
        self.look(6)
        self.assertNotIn("kill", self.a.log + self.b.log)
        for process in (self.a, self.b):
            process.end("exit code 0")

    def test_words_of_one_that_ended(self) -> None:
        """What is read of a process after its end is nothing of its successor's."""
        self.a.tell("claim", "x", "group")
        self.a.end()
        self.clock.advance(0)
        self.spare.serving = True
        self.spare.tell("serving")
        said = list(self.a.said)
        self.a.tell("claim", "y", "group")
        self.assertEqual(said, self.a.said)
        self.b.tell("claim", "y", "group")
        self.assertEqual(("verdict", None), self.b.said[-1])
        self.spare.tell("claim", "x", "group")
        self.a.tell("release", "x", "group")
        self.b.tell("claim", "x", "group")
        self.assertNotEqual(("verdict", None), self.b.said[-1])
        self.a.tell("changes", counted("events_delivered_total", 5))
        self.assertEqual(0, self.total("events_delivered_total"))

    def test_odd_words(self) -> None:
        """A word that nobody knows, or without its parts, is told, and ends nothing."""
        self.a.tell("nonsense", 1)
        self.a.tell("changes", {"values": 3})
        self.assertEqual(2, len(self.flushLoggedErrors()) + 1, "logged once for both")
        name = "a word of a worker process"
        self.assertEqual(2, self.total("supervised_failures_total", name))
        self.assertEqual(0, self.total("ready_current"))
        self.a.tell("claim", "x", "group")
        self.assertEqual(("verdict", None), self.a.said[-1])

    def test_orderly_end(self) -> None:
        """One that ends in its order, by whoever's word, is no error."""
        levels: list[str] = []
        logger = SimpleNamespace(
            info=lambda text, **_: levels.append("info"),
            error=lambda text, **_: levels.append("error"),
        )
        self.patch(parent.ParentService, "_logger", logger)
        self.a.tell("left", 0)
        self.a.end("exit code 0")
        self.b.end()
        self.assertEqual(["info", "error"], levels)


class EndTests(ParentTestCase):
    """A worker ends."""

    def setUp(self) -> None:
        super().setUp()
        self.start()
        self.a, self.b, self.spare = self.processes

    def serve(self, process: FakeProcess) -> None:
        process.serving = True
        process.tell("serving")

    def test_replaced_at_once(self) -> None:
        """The spare takes its place at once, and another one is spawned when it serves."""
        self.a.end()
        self.clock.advance(0)
        self.assertEqual((0, ["spawn", "begin", "listen"]), (self.spare.index, self.spare.log))
        self.assertEqual(3, len(self.processes))
        self.serve(self.spare)
        self.assertEqual((4, None), (len(self.processes), self.processes[-1].index))
        self.assertEqual([], self.b.log[3:])

    def test_without_a_spare(self) -> None:
        """Without a spare, a process is spawned."""
        self.a.end()
        self.b.end()
        self.clock.advance(0)
        self.assertEqual([0, 1], [process.index for process in self.processes[-2:]])

    def test_back_off(self) -> None:
        """One that ends again and again is started after longer and longer pauses."""
        pauses = []
        for _ in range(8):
            self.working(0).end("exit code 1")
            self.working(0).index = None  # found no more
            begun = self.clock.seconds()
            while not any(process.index == 0 for process in self.processes):
                self.clock.advance(0.25)
            pauses.append(self.clock.seconds() - begun)
        self.assertEqual([0.25, 0.5, 1, 2, 4, 8, 10, 10], pauses)
        self.clock.advance(60)
        self.working(0).end()
        self.clock.advance(0)
        self.assertIn("another starts in 0.0 s", self.log[-1])

    def test_its_socket_is_served(self) -> None:
        """Another one accepts what comes to its HTTP socket until its successor serves."""
        self.a.end()
        self.clock.advance(0)
        self.assertEqual([("cover", 0)], self.b.said)
        self.serve(self.spare)
        self.assertEqual([("cover", 0), ("uncover", 0)], self.b.said)

    def test_cover_ends_too(self) -> None:
        """Where the one that covers ends as well, the first that serves takes both sockets."""
        self.a.end()
        self.b.end()
        self.clock.advance(0)
        first, second = self.processes[-2:]
        self.serve(second)
        self.assertEqual([("cover", first.index)], second.said)
        self.serve(first)
        self.assertEqual(("uncover", first.index), second.said[-1])

    def test_counts(self) -> None:
        """Its counts stay; what waited in it is logged, and counted as failed."""
        self.a.tell("changes", counted("events_rx_total", 9, "web", "click"))
        self.a.tell("changes", counted("events_waiting_current", 4))
        self.a.end()
        self.assertEqual(9, self.total("events_rx_total", "web", "click"))
        self.assertEqual(4, self.total("events_failed_total"))
        self.assertIn("worker 0 ended (signal SIGKILL), with 4 events waiting", self.log[-1])

    def test_spare_ends(self) -> None:
        """A spare that ends is replaced too."""
        self.spare.end()
        self.clock.advance(0)
        self.assertEqual((4, None), (len(self.processes), self.processes[-1].index))


class ScrapeTests(ParentTestCase):
    """What a scrape shows."""

    def setUp(self) -> None:
        super().setUp()
        self.start()

    def fresh(self) -> Deferred[Any]:
        return self.service._prometheus.fresh()

    def test_asks(self) -> None:
        """It asks every worker, and waits for the last answer."""
        taking = self.fresh()
        for index in (0, 1):
            self.assertNoResult(taking)
            self.assertEqual([("tell",)], self.working(index).said)
            changes = counted("events_rx_total", 2, "web", "click")
            self.working(index).tell("changes", changes)
        snapshot = self.successResultOf(taking)
        self.assertEqual(4, snapshot.values["events_rx_total"]["web", "click"])

    def test_one_does_not_answer(self) -> None:
        """It waits no longer than half a second, and a late answer does no harm."""
        taking = self.fresh()
        self.clock.advance(0.5)
        self.successResultOf(taking)
        self.working(0).tell("changes", counted("events_rx_total", 2, "web", "click"))
        self.assertEqual(2, self.total("events_rx_total", "web", "click"))
        self.assertEqual([], self.flushLoggedErrors())

    def test_one_ends(self) -> None:
        """It does not wait for a worker that is gone."""
        taking = self.fresh()
        self.working(0).end()
        self.working(1).tell("changes", counted("events_rx_total", 2, "web", "click"))
        self.successResultOf(taking)

    def test_readiness(self) -> None:
        """The parent is not a worker: it has no part in readiness, but in memory."""
        for index in (0, 1):
            self.working(index).tell("changes", counted("ready_current", 1))
        self.assertEqual(1, self.total("ready_current"))
        self.assertGreater(self.total("server_open_files_current"), 0)


class StopTests(ParentTestCase):
    """The end of all."""

    def setUp(self) -> None:
        super().setUp()
        self.start()
        self.a, self.b, self.spare = self.processes

    def test_all_at_once(self) -> None:
        """No port is held any more, all are told at once, and it ends with the last of them."""
        stopping = self.service.stopService()
        self.assertEqual({True}, {each.closed for each in [*self.sockets, self.held]})
        self.assertEqual(["stop", "stop"], [self.a.log[-1], self.b.log[-1]])
        self.assertEqual("kill", self.spare.log[-1])
        for process in (self.spare, self.a, self.b):
            self.assertNoResult(stopping)
            process.end("exit code 0")
        self.successResultOf(stopping)
        self.assertIn(NOTHING_LOST, self.log[-1])
        self.clock.advance(60)
        self.assertEqual(3, len(self.processes), "none is started any more")

    def test_left(self) -> None:
        """What is left is the sum of what the workers say."""
        stopping = self.service.stopService()
        for process, left in ((self.a, 3), (self.b, 4)):
            process.tell("left", left)
            process.end("exit code 0")
        self.successResultOf(stopping)
        self.assertIn("7 accepted events were not delivered", self.log[-1])
        self.assertEqual(7, self.total("events_left_at_shutdown_current"))

    def test_killed_meanwhile(self) -> None:
        """Of one that could not say, what it had waiting is left."""
        self.a.tell("changes", counted("events_waiting_current", 5))
        stopping = self.service.stopService()
        self.a.end()
        self.b.tell("left", 0)
        self.b.end("exit code 0")
        self.successResultOf(stopping)
        self.assertIn("5 accepted events were not delivered", self.log[-1])

    def test_one_hangs(self) -> None:
        """One that does not end in time is killed."""
        stopping = self.service.stopService()
        self.a.end("exit code 0")
        self.clock.advance(10)
        self.assertNotIn("kill", self.b.log)
        self.clock.advance(1)
        self.assertEqual("kill", self.b.log[-1])
        self.assertNoResult(stopping)
        self.b.end()
        self.successResultOf(stopping)

    def test_one_is_missing(self) -> None:
        """One that is to be started again is not."""
        self.working(0).end()
        stopping = self.service.stopService()
        self.b.end("exit code 0")
        self.successResultOf(stopping)
        self.clock.advance(60)
        self.assertEqual(["spawn", "kill"], self.spare.log)


class SettingsTests(SynchronousTestCase):
    """What each worker is set to."""

    def test_divided(self) -> None:
        """Memory, HTTP connections and calls are divided, rounded up; the rest is as it is."""
        settings = Settings(
            server=ServerSettings(workers=3),
            worker=WorkerSettings(buffer_max_bytes=67_108_864, pool_size=7),
            limits=LimitSettings(http_connections=10),
            grpc=GrpcSettings(max_concurrent=100),
            metric=MetricSettings(prometheus_enabled=True),
        )
        worker = parent.worker_settings(settings)
        self.assertEqual(22_369_622, worker.worker.buffer_max_bytes)
        self.assertEqual((4, 34), (worker.limits.http_connections, worker.grpc.max_concurrent))
        self.assertFalse(worker.metric.prometheus_enabled)
        self.assertEqual((7, settings.websocket), (worker.worker.pool_size, worker.websocket))

    def test_room_for_one_request(self) -> None:
        """A worker has room for the largest request, whatever the part."""
        settings = Settings(server=ServerSettings(workers=256))
        worker = parent.worker_settings(settings)
        self.assertEqual(largest_request(settings.limits), worker.worker.buffer_max_bytes)
