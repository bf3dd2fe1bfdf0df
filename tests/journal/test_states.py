"""A property of the journal's service: whatever happens in whatever order, no event gets lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.defer import Deferred
from twisted.logger import globalLogPublisher
from twisted.python.monkey import MonkeyPatcher
from twisted.trial.unittest import SynchronousTestCase

from raccoon.errors import PublishError
from raccoon.journal.deadletters import DeadLetters
from raccoon.journal.files.store import JournalError, Store
from tests.journal.rig import JournalCase, lasting

STEPS = 50
SIZE = 4000
OPTIONS: dict[str, Any] = {
    "max_bytes": 8 << 20,
    "segment_bytes": 1 << 20,
    "dead_letters_max_bytes": 256 << 10,  # some letters
}
OUTCOMES = st.sampled_from(["delivered", "failed", "failed for good", "failed in part for good"])


class Rig(JournalCase):
    """A rig that no runner runs."""

    def runTest(self) -> None:
        """Nothing."""

    def tear_down(self) -> None:
        """Undo what was set up."""
        while self._cleanups:
            cleanup, args, kwargs = self._cleanups.pop()
            cleanup(*args, **kwargs)


class JournalMachine(RuleBasedStateMachine):
    """Collector, worker, journal and its files, at one acknowledgement level."""

    def __init__(self) -> None:
        super().__init__()
        self.rig = Rig()
        self.rig.setUp()
        self.answers: dict[str, Deferred[None]] = {}
        # Answered with success, at level 2.
        self.promised: set[str] = set()
        self.delivered: Counter[str] = Counter()
        self.ever_delivered: set[str] = set()
        self.added = 0
        self.disk: MonkeyPatcher | None = None

    @initialize(ack=st.sampled_from([2, 2, 1, 0, 0]))
    def begin(self, ack: int) -> None:
        """Start."""
        self.ack = ack
        self.start()

    def start(self) -> None:
        """Begin a run."""
        self.rig.start(self.ack, queue=20, **OPTIONS)
        self.rig.turn()
        # What is twice after a restart may come twice: the deliveries of this run are counted.
        self.answers = {}
        self.delivered = Counter()

    @rule(events=st.integers(1, 3))
    def add(self, events: int) -> None:
        """A client sends a request."""
        guid = f"{self.added}"
        self.added += 1
        self.answers[guid] = self.rig.collect(guid, ("click",) * events, size=SIZE)
        self.answers[guid].addCallbacks(self.answered, lambda _: None, (guid,))

    def answered(self, _: None, guid: str) -> None:
        """A client was told that its request is taken."""
        if self.ack == 2:
            self.promised.add(guid)

    @rule(seconds=st.sampled_from([0.02, 0.6, 3.0, 40.0]))
    def turn(self, seconds: float) -> None:
        """Time goes by."""
        self.rig.turn(seconds)

    @rule()
    def commit(self) -> None:
        """The writer writes."""
        self.rig.commit()

    @rule(outcomes=st.lists(OUTCOMES, min_size=1, max_size=4))
    def publish(self, outcomes: list[str]) -> None:
        """A publish that is under way ends, the outcomes taken in turn."""
        self.rig.turn()
        if not self.rig.publishing:
            return
        done, group = self.rig.publish.pending[-1], self.rig.publish.groups[-1]
        ends: list[PublishError | None] = []
        for number, request in enumerate(group):
            outcome, total = outcomes[number % len(outcomes)], len(request.types)
            if outcome == "delivered":
                self.delivered[request.guid] += 1
                self.ever_delivered.add(request.guid)
                ends.append(None)
            elif outcome == "failed":
                ends.append(PublishError(total, total, ["timed out"]))
            else:
                ends.append(lasting(1 if "part" in outcome else total, total))
        done.callback(ends)
        self.rig.turn(0)

    @rule(reachable=st.booleans())
    def destination(self, reachable: bool) -> None:
        """The destination comes or goes."""
        self.rig.publisher.reachable = reachable

    @precondition(lambda self: self.disk is None)
    @rule()
    def break_disk(self) -> None:
        """The disk takes no writes from now on."""

        def write(store: Store, records: object, delivered: list[int]) -> None:
            store.mark(delivered)
            raise JournalError("no disk")

        def reopen(store: Store) -> None:
            raise JournalError("no disk")

        self.disk = MonkeyPatcher((Store, "write", write), (Store, "reopen", reopen))
        self.disk.patch()

    @precondition(lambda self: self.disk is not None)
    @rule()
    def mend_disk(self) -> None:
        """It takes them again."""
        if self.disk is not None:
            self.disk.restore()
            self.disk = None

    @rule()
    def replay_letters(self) -> None:
        """A person has all dead letters sent again."""
        letters = DeadLetters(self.rig.directory)
        letters.mark_for_replay()
        letters.close()

    @rule()
    def restart(self) -> None:
        """The service stops in its order, and starts again."""
        self.rig.stop()
        self.start()

    @rule()
    def kill(self) -> None:
        """The process is killed, and starts again."""
        journal = self.rig.journal
        for loop, _ in journal._loops:
            loop.stop()
        store = journal._store
        if store._connection is not None:
            store._connection.close(True)
            store._connection = store._active = None
        store._segments = {}
        store.close()
        journal._threads._close_files(with_store=False)
        journal._threads._writers_letters.close()
        journal._threads.running = False
        journal.running = 0
        self.rig.worker.stopService()
        self.start()

    @invariant()
    def sum_holds(self) -> None:
        """Each event that was received or recovered is in one place."""
        if not hasattr(self, "ack"):
            return
        rig = self.rig
        recovered = rig.metrics.total("journal_recovered_events_total")
        places = {
            "delivered": rig.metrics.total("events_delivered_total"),
            "refused": rig.metrics.total("events_refused_total"),
            "failed": rig.metrics.total("events_failed_total"),
            "waiting": rig.collector.unsettled_events + rig.journal.in_transit_events,
            "journaled": rig.gauge("journal_events_current"),
            "dead": rig.metrics.total("journal_dead_lettered_events_total"),
        }
        assert rig.received + recovered == sum(places.values()), (rig.received, recovered, places)
        assert min(places.values()) >= 0, places

    @invariant()
    def nothing_twice(self) -> None:
        """What came in this run is delivered once."""
        twice = {guid for guid in self.answers if self.delivered[guid] > 1}
        assert not twice, twice

    def teardown(self) -> None:
        """In the end, with a disk and a destination, all that was promised is delivered."""
        try:
            if hasattr(self, "ack"):
                self.finish()
        finally:
            self.mend_disk()
            self.rig.tear_down()

    def finish(self) -> None:
        """Let all be delivered."""
        self.mend_disk()
        self.rig.publisher.reachable = True
        self.ever_delivered.update(self.rig.deliver_all(5))
        self.replay_letters()
        self.ever_delivered.update(self.rig.deliver_all(50))
        self.sum_holds()
        journal, collector = self.rig.journal, self.rig.collector
        left = collector.unsettled_events, journal.in_transit_events
        assert left == (0, 0), left
        assert self.rig.gauge("journal_events_current") == 0
        missing = self.promised - self.ever_delivered
        assert not missing, missing


class StatesTests(SynchronousTestCase):
    """The machine, run by hypothesis."""

    def test_states(self) -> None:
        """The sum is kept, what was acknowledged is there, and nothing is delivered twice."""
        phases = Phase.explicit, Phase.generate, Phase.shrink
        try:
            with quiet():
                run_state_machine_as_test(
                    JournalMachine, settings=settings(stateful_step_count=STEPS, phases=phases)
                )
        except Exception as error:
            steps = "\n".join(getattr(error, "__notes__", []))
            raise AssertionError(f"{error}\n{steps}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without a log: thousands of lines."""
    observers, globalLogPublisher._observers = globalLogPublisher._observers, []
    try:
        yield
    finally:
        globalLogPublisher._observers = observers
