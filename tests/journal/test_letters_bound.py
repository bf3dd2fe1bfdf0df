"""Tests of the bound of the dead letters, and of what is done when it is reached."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from raccoon.errors import Overloaded, PublishError
from raccoon.interfaces import IRejectingPublisher
from raccoon.journal.deadletters import DeadLetters
from tests.fakes import FakePublisher
from tests.journal.rig import JournalCase, lasting

SIZE = 300_000
BOUND = 8 << 20
SMALL: dict[str, Any] = {
    "max_bytes": 16 << 20,
    "segment_bytes": 1 << 20,
    "dead_letters_max_bytes": BOUND,
}


class DeadLettersBoundTests(JournalCase):
    """JOURNAL_DEAD_LETTERS_MAX_BYTES."""

    def fill(self, ack: int = 2) -> int:
        """Start, and fail requests for good until the dead letters are full; gives how many."""
        self.start(ack, **SMALL)
        for number in range(60):
            if not self.journal._accounts.letter_fits(SIZE):
                return number
            self.collect(f"dead-{number}", size=SIZE)
            self.turn()
            self.finish(lasting(1, 1))
            self.commit()
            self.turn(0.6)
        raise AssertionError("never full")

    def waiting_and_undeliverable(self) -> None:
        """Have a request of level 2 fail for good that was answered before."""
        self.successResultOf(self.collect_and_commit("bad"))
        self.finish(lasting(1, 1))
        self.commit()

    def collect_and_commit(self, guid: str) -> Deferred[None]:
        acknowledged = self.collect(guid, size=SIZE)
        self.turn()
        self.commit()
        return acknowledged

    def test_disk(self) -> None:
        """The file stays within its bound."""
        taken = self.fill()
        self.check(dead=taken)
        self.assertGreater(taken * SIZE, BOUND // 2 - 2 * SIZE)
        size = sum(path.stat().st_size for path in self.directory.glob("dead-letters.db*"))
        self.assertLess(size, BOUND)

    def test_others(self) -> None:
        """Requests of others are taken and delivered as before, and the service is ready."""
        taken = self.fill()
        self.waiting_and_undeliverable()
        self.assertEqual([], self.journal.not_ready())
        for number in range(20):
            self.successResultOf(self.collect_and_commit(f"good-{number}"))
            self.assertIn(f"good-{number}", self.finish())
        self.check(delivered=20, dead=taken, journaled=1)

    def test_not_acknowledged_yet(self) -> None:
        """A client that still waits is told that its events can never be delivered."""
        taken = self.fill()
        acknowledged = self.collect("bad", size=SIZE)
        self.turn()
        self.finish(lasting(1, 1))
        error = self.failureResultOf(acknowledged, PublishError).value
        self.assertEqual({"click": 1}, error.lasting)
        self.commit()
        self.check(dead=taken, failed=1)
        self.stop()
        self.start(**SMALL)
        self.assertEqual([], self.deliver_all())

    def test_retried(self) -> None:
        """What was acknowledged waits, is tried with growing pauses, and is never dropped."""
        taken = self.fill()
        self.waiting_and_undeliverable()
        tries = []
        for _ in range(2400):
            self.turn(0.1)
            self.commit()
            if self.publishing:
                tries.append(self.clock.seconds())
                self.finish(lasting(1, 1))
                self.check(dead=taken, journaled=1)
                self.assertEqual(1, self.journal_postponed())
        pauses = [after - before for before, after in pairwise(tries)]
        self.assertLess(pauses[0], 3)
        self.assertGreater(min(pauses[-2:]), 20)
        self.assertLess(max(pauses), 50)

    def journal_postponed(self) -> int:
        """By its gauge."""
        self.turn(0.6)
        return int(self.gauge("journal_postponed_requests_current"))

    def test_failed_in_part(self) -> None:
        """All events of a request wait with it, also those that were delivered."""
        taken = self.fill()
        self.successResultOf(self.collect_two())
        self.finish(lasting(1, 2))
        self.check(dead=taken, journaled=2)

    def collect_two(self) -> Deferred[None]:
        acknowledged = self.collect("bad", ("click", "click"), size=SIZE)
        self.turn()
        self.commit()
        return acknowledged

    def test_purged(self) -> None:
        """Once there is room, what waits becomes a dead letter."""
        self.fill()
        self.waiting_and_undeliverable()
        letters = DeadLetters(self.directory)
        letters.remove()
        letters.close()
        for _ in range(100):
            self.turn(0.1)
            self.commit()
            if self.publishing:
                self.finish(lasting(1, 1))
        self.assertEqual(["bad"], [self.guid(letter.record.body) for letter in self.letters()])
        self.assertEqual(0, self.journal_postponed())

    def guid(self, body: bytes) -> str:
        """Of a short one."""
        return body[2:5].decode()

    def test_restart(self) -> None:
        """It is there after a restart."""
        self.fill()
        self.waiting_and_undeliverable()
        self.assertEqual(1, self.stop())
        self.start(**SMALL)
        self.assertEqual(["bad"], self.deliver_all())
        self.check(delivered=1)

    def test_level_0(self) -> None:
        """What was answered before it was tried goes to the journal and waits there."""
        taken = self.fill(0)
        self.successResultOf(self.collect("bad", size=SIZE))
        self.turn()
        self.finish(lasting(1, 1))
        self.commit()
        self.check(dead=taken, journaled=1)

    def test_readiness(self) -> None:
        """Only when such requests fill the journal is it not ready, and it says why."""
        self.fill()
        for number in range(80):
            acknowledged = self.collect(f"bad-{number}", size=SIZE)
            self.turn()
            self.commit()
            if self.publishing:
                self.finish(lasting(1, 1))
            if acknowledged.called and acknowledged.result is not None:
                self.failureResultOf(acknowledged, Overloaded)
                break
            self.turn(0.6)
        [reason] = self.journal.not_ready()
        self.assertIn("nearly full", reason)
        self.assertIn("JOURNAL_DEAD_LETTERS_MAX_BYTES", reason)


@implementer(IRejectingPublisher)
class RejectingPublisher(FakePublisher):
    """Knows of some types that they have no topic."""

    rejected = frozenset({"gone"})

    def rejection(self, event_type: str) -> str | None:
        return f"topic {event_type} does not exist" if event_type in self.rejected else None


class RejectionTests(JournalCase):
    """What is known beforehand to be undeliverable, at level 2."""

    def make_publisher(self) -> FakePublisher:
        return RejectingPublisher()

    def test_fails_at_once(self) -> None:
        """Its client is told for good, with the reason; nothing is kept, and the sum holds."""
        self.start()
        acknowledged = self.collect("a", ("click", "gone", "gone"))
        error = self.failureResultOf(acknowledged, PublishError).value
        self.assertIn("topic gone does not exist", str(error))
        self.assertEqual({"click": 1, "gone": 2}, error.lasting)
        self.assertEqual(3, error.failed)
        self.check(failed=3)
        self.commit()
        self.assertEqual([], self.deliver_all(1))
        self.assertEqual([], self.letters())

    def test_others(self) -> None:
        """Requests without such types go their way."""
        self.start()
        acknowledged = self.collect("a")
        self.commit()
        self.successResultOf(acknowledged)
        self.assertEqual(["a"], self.deliver_all(1))

    def test_level_0(self) -> None:
        """At level 0 nobody would hear of it: it goes to the dead letters as ever."""
        self.start(ack=0)
        self.successResultOf(self.collect("a", ("gone",)))
        self.turn()
        self.finish(lasting(1, 1, "gone"))
        self.commit()
        self.check(dead=1)

    def test_small_journal(self) -> None:
        """A client of a missing topic that goes on for ever takes nothing from anybody."""
        self.start(max_bytes=8 << 20, segment_bytes=1 << 20, dead_letters_max_bytes=BOUND)
        for number in range(300):
            self.failureResultOf(self.collect(f"{number}", ("gone",), size=SIZE), PublishError)
        acknowledged = self.collect("good")
        self.commit()
        self.successResultOf(acknowledged)
        self.assertEqual(["good"], self.deliver_all(1))
        self.check(failed=300, delivered=1)
