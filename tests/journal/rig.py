"""Collector, worker and journal on one clock; the test ends each commit and publish by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

from raccoon.collector import Collector
from raccoon.config import EventSettings
from raccoon.errors import PublishError
from raccoon.journal import threads
from raccoon.journal.deadletters import DeadLetters, Letter
from raccoon.journal.files.record import Record
from raccoon.journal.files.store import Store
from raccoon.journal.keeper import Keeper
from raccoon.journal.service import JournalService
from raccoon.journal.writer import Results, Writer
from raccoon.messages import Batch, Identifier
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor
from raccoon.worker import WorkerService
from tests.edges.bodies import NOW
from tests.edges.collector import publish_failed
from tests.fakes import FakeMetrics, FakePublisher, PublishByHand, ThreadlessClock, make_settings
from tests.journal.fakes import DirectoryCase, stored

DEFAULTS = EventSettings()


class SteppedWriter(Writer):
    """A writer without a thread: writes when it is told to."""

    def start(self, results: Results, broken: bool) -> None:
        self._begin(results, broken)

    def step(self) -> None:
        """Write what waits."""
        stopping, self._stopping = self._stopping, True
        self._awake.set()
        self._run()
        self._stopping = stopping

    def stop(self) -> None:
        self.step()


class InlineKeeper(Keeper):
    """A keeper without a thread: runs each call at once."""

    def start(self) -> None:
        pass

    def call(self, function: Callable[..., Any], *args: Any) -> Deferred[Any]:
        done = super().call(function, *args)
        self.run_waiting()
        return done

    def run_waiting(self) -> None:
        """Run what waits."""
        while not self._calls.empty():
            if (call := self._calls.get()) is not None:
                self._run_one(call)


class JournalCase(DirectoryCase):
    """A service without its edges, that can be started again on the same directory."""

    identifier = Identifier("phone", "group")

    def setUp(self) -> None:
        super().setUp()
        self.patch(threads, "Writer", SteppedWriter)
        self.patch(threads, "Keeper", InlineKeeper)
        self.received = self.lost = 0

    def start(
        self,
        ack: int = 2,
        *,
        queue: int = 100,
        memory: int = 1 << 26,
        type_pattern: str = DEFAULTS.type_pattern,
        **journal: Any,
    ) -> None:
        """Start it; `journal` are options of its section."""
        self.received = 0
        settings = make_settings(
            event={"ack": ack, "type_pattern": type_pattern},
            worker={
                "pool_size": 1,
                "buffer_channel_size": queue,
                "buffer_max_bytes": memory,
            },
            journal={"dir": str(self.directory), "commit_delay_ms": 0, **journal},
        )
        self.clock = ThreadlessClock()
        self.clock.advance(NOW)
        self.metrics = FakeMetrics()
        self.supervisor = Supervisor(self.metrics, self.clock.seconds)
        self.publisher = self.make_publisher()
        self.publish = PublishByHand()
        self.journal = JournalService(
            self.clock,
            settings.journal,
            self.directory,
            list,
            settings.event,
            self.publisher,
            self.metrics,
            self.supervisor,
        )
        self.collector = Collector(
            settings.worker,
            settings.event,
            self.metrics,
            self.clock,
            Supervisor(self.metrics, self.clock.seconds),
            self.journal,
            self.publisher,
        )
        self.journal.attach(self.collector.readmit, self.collector.waiting)
        self.worker = WorkerService(
            self.clock,
            self.collector,
            self.publish,
            self.publisher,
            settings.worker,
            self.metrics,
            self.supervisor,
        )
        self.journal.startService()
        self.addCleanup(self.stop)
        self.worker.startService()

    def make_publisher(self) -> FakePublisher:
        """The publisher, which the worker does not call."""
        return FakePublisher()

    def stop(self) -> int:
        """Stop it in its order, nothing more being delivered; gives the events it keeps."""
        if not self.journal.running:
            return 0
        self.journal.pause()
        draining = self.worker.drain(1)
        self.turn(1)
        self.successResultOf(draining)
        for number, pending in enumerate(self.publish.pending):
            if not pending.called:
                group = self.publish.groups[number]
                pending.callback([publish_failed(request) for request in group])
        self.turn()
        closing = self.journal.close()
        self.turn()
        kept, self.lost = self.successResultOf(closing)
        self.journal.stopService()
        assert isinstance(kept, int)
        return kept

    def collect(
        self,
        guid: str,
        types: tuple[str, ...] = ("click",),
        *,
        sent_time: float | None = None,
        size: int = 0,
    ) -> Deferred[None]:
        """A request as an edge hands it over; its events are of `size` bytes or a few."""
        events = [
            (kind, f"{guid}-{number}".encode().ljust(size, b"x"))
            for number, kind in enumerate(types)
        ]
        request = CollectRequest(
            self.identifier,
            Batch(guid, sent_time, [kind for kind, _ in events], [data for _, data in events]),
            self.clock.seconds(),
        )
        self.received += len(types)
        return self.collector.collect(request)

    def write(self, *records: Record) -> None:
        """Leave requests in the journal, as an earlier run of some version did."""
        store = Store(self.directory, 1 << 20, lambda *_: None)
        store.open()
        store.write(stored(records), ())
        store.close()

    def turn(self, seconds: float = 0.01) -> None:
        """The reactor turns."""
        self.clock.pump([seconds, 0, 0, 0])

    def commit(self) -> None:
        """The journal's writer writes what waits, and the reactor hears of it."""
        writer = self.journal._writer
        assert isinstance(writer, SteppedWriter)
        writer.step()
        self.turn(0)

    def finish(self, outcome: PublishError | None = None) -> list[str]:
        """End the publish under way, all its requests alike; gives their guids."""
        done, group = self.publish.pending[-1], self.publish.groups[-1]
        done.callback([outcome] * len(group))
        self.turn(0)
        return [request.guid for request in group]

    @property
    def publishing(self) -> bool:
        """Whether a publish is under way."""
        return bool(self.publish.pending) and not self.publish.pending[-1].called

    def deliver_all(self, seconds: float = 10) -> list[str]:
        """Confirm all that is published in the time; gives the guids in order."""
        guids: list[str] = []
        for _ in range(round(seconds / 0.05)):
            self.turn(0.05)
            while self.publishing:
                guids += self.finish()
            self.commit()
        return guids

    def letters(self) -> list[Letter]:
        """The dead letters on disk."""
        letters = DeadLetters(self.directory)
        try:
            return [letter for _, letter in letters.all()]
        finally:
            letters.close()

    def gauge(self, name: str) -> float:
        """The last value of a gauge."""
        return next((v for n, v, _ in reversed(self.metrics.gauges) if n == name), 0)

    def check(self, **terms: int) -> None:
        """Each term of the sum, and that they add up to what was received and recovered."""
        found = {
            "delivered": self.metrics.total("events_delivered_total"),
            "refused": self.metrics.total("events_refused_total"),
            "failed": self.metrics.total("events_failed_total"),
            "waiting": self.collector.unsettled_events + self.journal.in_transit_events,
            "journaled": self.gauge("journal_events_current"),
            "dead": self.metrics.total("journal_dead_lettered_events_total"),
        }
        self.assertEqual({name: terms.get(name, 0) for name in found}, found)
        recovered = self.metrics.total("journal_recovered_events_total")
        self.assertEqual(self.received + recovered, sum(found.values()))


def lasting(failed: int, total: int, kind: str = "click") -> PublishError:
    """The error of a request of which some events can never be delivered."""
    return PublishError(failed, total, ["too large"] * failed, {kind: failed})
