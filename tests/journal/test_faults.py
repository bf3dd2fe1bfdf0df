"""Tests of what no disk and no destination does: faults of the journal itself."""

from __future__ import annotations

import errno
from typing import Any

from twisted.python.monkey import MonkeyPatcher

from raccoon.errors import Overloaded, PublishError
from raccoon.journal import retention, threads
from raccoon.journal.deadletters import DeadLetters
from raccoon.journal.files.store import Store
from raccoon.messages import Identifier
from tests.journal.rig import InlineKeeper, JournalCase, SteppedWriter, lasting

TRANSIENT = PublishError(1, 1, ["timed out"])
NOT_UTF8 = "caf\udce9"


class BadRequestTests(JournalCase):
    """A request that cannot be written, as its group is no text."""

    def collect_bad(self, guid: str = "bad") -> Any:
        """Have one come in."""
        self.patch(self, "identifier", Identifier("phone", NOT_UTF8))
        acknowledged = self.collect(guid)
        self.patch(self, "identifier", Identifier("phone", "group"))
        return acknowledged

    def test_others(self) -> None:
        """It fails with its reason; those of its commit and later ones are answered."""
        self.start()
        self.publisher.reachable = False
        before, bad, after = self.collect("a"), self.collect_bad(), self.collect("b")
        self.commit()
        self.successResultOf(before)
        self.successResultOf(after)
        error = self.failureResultOf(bad, PublishError).value
        self.assertIn("surrogates not allowed", str(error))
        self.check(journaled=2, failed=1)
        self.publisher.reachable = True
        self.assertEqual(["a", "b"], self.deliver_all())
        self.assertEqual([], self.supervisor.reasons())

    def test_delivered(self) -> None:
        """One that is on its way to the destination is answered when it is there."""
        self.start()
        bad = self.collect_bad()
        self.turn()
        self.commit()
        self.assertNoResult(bad)
        self.finish()
        self.successResultOf(bad)
        self.check(delivered=1)

    def test_delivery_fails(self) -> None:
        """If it is not there either, its client is told."""
        self.start()
        bad = self.collect_bad()
        self.turn()
        self.finish(TRANSIENT)
        self.commit()
        self.failureResultOf(bad, PublishError)
        self.check(failed=1)

    def test_level_0(self) -> None:
        """One that was answered is lost, and counted as failed."""
        self.start(ack=0)
        self.successResultOf(self.collect_bad())
        self.turn()
        self.finish(TRANSIENT)
        self.commit()
        self.check(failed=1)

    def test_letter(self) -> None:
        """So is its dead letter; the other letters of the commit are written."""
        self.start(ack=0)
        self.collect("a")
        self.collect_bad()
        self.turn()
        self.finish(lasting(1, 1))
        self.turn()
        self.commit()
        self.check(failed=1, dead=1)
        self.assertEqual(1, len(self.letters()))

    def test_reason(self) -> None:
        """A reason that is no text is stored as far as it is."""
        self.start(ack=0)
        self.collect("a")
        self.turn()
        [[request]] = self.publish.groups
        self.collector.failed(request, PublishError(1, 1, [NOT_UTF8], {"click": 1}))
        self.commit()
        [letter] = self.letters()
        self.assertIn("caf\\udce9", letter.reason)

    def test_body(self) -> None:
        """One of which no record can be made fails at once, and those before and after do not."""
        self.start()
        self.publisher.reachable = False

        def encode(batch: Any) -> bytes:
            raise ValueError("no body")

        before = self.collect("a")
        patcher = MonkeyPatcher((retention, "encode_body", encode))
        patcher.patch()
        self.failureResultOf(self.collect("bad"), PublishError)
        patcher.restore()
        self.commit()
        self.successResultOf(before)
        self.check(journaled=1, failed=1)

    def test_body_of_a_failed_one(self) -> None:
        """So does one that was answered, once its delivery has failed."""
        for error in (TRANSIENT, lasting(1, 1)):
            self.start(ack=0)
            self.collect("bad")
            self.turn()

            def encode(batch: Any) -> bytes:
                raise ValueError("no body")

            patcher = MonkeyPatcher((retention, "encode_body", encode))
            patcher.patch()
            self.finish(error)
            patcher.restore()
            self.commit()
            self.check(failed=1)
            self.stop()
        self.flushLoggedErrors(ValueError)


class FaultTests(JournalCase):
    """Code that raises what it should not."""

    def break_store(self, name: str, error: Exception) -> MonkeyPatcher:
        """Have a method of the store raise until `restore` is called."""

        def raises(*_: object) -> None:
            raise error

        patcher = MonkeyPatcher((Store, name, raises))
        patcher.patch()
        self.addCleanup(patcher.restore)
        return patcher

    def assert_not_ready(self, name: str) -> None:
        """Readiness names it, and the traceback was logged once."""
        self.assertIn(name, str(self.supervisor.reasons()))
        self.assertEqual(1, len(self.flushLoggedErrors()))

    def test_write_raises(self) -> None:
        """It is as if the disk had failed: refused, not ready, and taken again in a new file."""
        self.start()
        self.publisher.reachable = False
        broken = self.break_store("write", ZeroDivisionError("a fault"))
        acknowledged = self.collect("a")
        self.commit()
        self.failureResultOf(acknowledged, Overloaded)
        self.assertIn("a fault", self.journal.not_ready()[0])
        self.assert_not_ready("journal-writer")
        broken.restore()
        self.commit()
        acknowledged = self.collect("b")
        self.commit()
        self.successResultOf(acknowledged)
        self.check(refused=1, journaled=1)

    def test_recovery_raises(self) -> None:
        """It is tried again until it works; meanwhile the service is not ready."""
        self.start()
        self.publisher.reachable = False
        self.collect("a")
        self.commit()
        self.stop()
        broken = self.break_store("recover", OSError(errno.EMFILE, "too many files"))
        self.start()
        for _ in range(30):
            self.turn(1)
            self.assertIn("journal recovery", str(self.supervisor.reasons()))
        self.flushLoggedErrors()
        broken.restore()
        self.assertEqual(["a"], self.deliver_all(40))
        self.assertEqual([], self.supervisor.reasons())

    def test_reading_raises(self) -> None:
        """So is reading."""
        self.start()
        self.publisher.reachable = False
        self.collect("a")
        self.commit()
        broken = self.break_store("read", OSError(errno.EMFILE, "too many files"))
        self.publisher.reachable = True
        self.turn(1)
        self.assert_not_ready("journal reading")
        broken.restore()
        self.assertEqual(["a"], self.deliver_all())

    def test_coming_back_raises(self) -> None:
        """What comes back and cannot be admitted comes again."""
        self.start()
        self.publisher.reachable = False
        self.collect("a")
        self.commit()
        readmit = self.journal._returning.readmit

        def raises(_: object) -> None:
            raise ZeroDivisionError

        self.journal._returning.readmit = raises
        self.publisher.reachable = True
        self.turn(0.05)
        self.assert_not_ready("journal reading")
        self.check(journaled=1)
        self.assertEqual(0, self.journal.returned_requests)
        self.journal._returning.readmit = readmit
        self.assertEqual(["a"], self.deliver_all())
        self.check(delivered=1)

    def test_loops(self) -> None:
        """Tidying, letters and adoption go on after a fault, and readiness is back."""
        breaks: list[tuple[type, str, str]] = [
            (Store, "tidy", "journal tidying"),
            (DeadLetters, "to_replay", "journal letters"),
        ]
        self.start()
        for owner, method, name in breaks:
            works = getattr(owner, method)
            calls: list[object] = []

            def raises(*args: object, calls: list[object] = calls) -> None:
                calls.append(args)
                raise OSError(errno.EMFILE, "too many files")

            patcher = MonkeyPatcher((owner, method, raises))
            patcher.patch()
            for _ in range(30):
                self.turn(1)
            self.assertGreater(len(calls), 10)
            self.assert_not_ready(name)
            patcher.restore()
            self.assertIs(works, getattr(owner, method))
            self.turn(5)
            self.assertEqual([], self.supervisor.reasons())

    def test_adoption(self) -> None:
        """Finding what is left may fail, and is done again."""
        self.start()
        works = self.journal._adopter._left_parts

        def raises() -> list[Any]:
            raise ZeroDivisionError

        self.journal._adopter._left_parts = raises
        self.turn(6)
        self.assert_not_ready("journal adoption")
        self.journal._adopter._left_parts = works
        self.turn(6)
        self.assertEqual([], self.supervisor.reasons())


class HungWriter(SteppedWriter):
    """A writer that is stuck in a call to the disk from some time on."""

    hangs = False

    @property
    def running(self) -> bool:
        return self.hangs

    def step(self) -> None:
        if not self.hangs:
            super().step()


class HungKeeper(InlineKeeper):
    """A keeper that is."""

    hangs = False

    def run_waiting(self) -> None:
        if not self.hangs:
            super().run_waiting()


class StopTests(JournalCase):
    """A stop ends in time, whatever hangs."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(threads, "Writer", HungWriter)
        self.patch(threads, "Keeper", HungKeeper)

    def close(self) -> tuple[float, Any]:
        """Seconds of the close, and its result."""
        began = self.clock.seconds()
        closing = self.journal.close()
        while not closing.called:
            self.turn(0.1)
            self.assertLess(self.clock.seconds() - began, 5)
        return self.clock.seconds() - began, self.successResultOf(closing)

    def test_writer_hangs(self) -> None:
        """Who waits is refused, what was answered and not written is told as lost."""
        self.start()
        self.publisher.reachable = False
        self.collect("stored")
        self.commit()
        self.patch(HungWriter, "hangs", True)
        acknowledged = self.collect("a")
        took, (kept, lost) = self.close()
        self.failureResultOf(acknowledged, Overloaded)
        self.assertEqual((1, 0), (kept, lost))
        self.check(journaled=1, refused=1)
        self.assertLess(took, 4)

    def test_writer_hangs_with_what_was_answered(self) -> None:
        """It is counted as failed."""
        self.start(ack=0)
        self.collect("a")
        self.turn()
        self.finish(TRANSIENT)
        self.patch(HungWriter, "hangs", True)
        _, (kept, lost) = self.close()
        self.assertEqual((0, 1), (kept, lost))
        self.assertEqual(1, self.metrics.total("events_failed_total"))

    def test_keeper_hangs(self) -> None:
        """What waits is on disk."""
        self.start()
        self.publisher.reachable = False
        self.collect("a")
        self.patch(HungKeeper, "hangs", True)
        self.patch(SteppedWriter, "stop", HungWriter.step)
        took, (kept, lost) = self.close()
        self.assertEqual((1, 0), (kept, lost))
        self.assertLess(took, 2)
