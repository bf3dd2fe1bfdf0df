"""Tests of raccoon.journal.service, with a real collector and worker around it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.logger import capturedLogs
from twisted.python.monkey import MonkeyPatcher
from zope.interface.verify import verifyObject

from raccoon.errors import Overloaded, PublishError, StartError
from raccoon.interfaces import IJournal
from raccoon.journal.deadletters import DeadLetters
from raccoon.journal.files.body import JSON, MESSAGEPACK, PROTOBUF, encode_body
from raccoon.journal.files.record import Record
from raccoon.journal.files.store import JournalError, Store
from raccoon.messages import Batch
from tests.edges.bodies import NOW, json_body, protobuf_body
from tests.journal.rig import JournalCase, lasting

TRANSIENT = PublishError(1, 1, ["timed out"])
FULL: dict[str, Any] = {"max_bytes": 8 << 20, "segment_bytes": 1 << 20}


class LevelTwoTests(JournalCase):
    """EVENT_ACK=2: the answer comes when the request is on disk."""

    def test_interface(self) -> None:
        """It is an IJournal."""
        self.start()
        verifyObject(IJournal, self.journal)

    def test_acknowledged_by_the_commit(self) -> None:
        """A request is answered once it is written, and not before."""
        self.start()
        acknowledged = self.collect("a", ("click", "click"))
        self.turn()
        self.assertNoResult(acknowledged)
        self.commit()
        self.successResultOf(acknowledged)
        self.check(waiting=2)
        self.finish()
        self.check(delivered=2)

    def test_acknowledged_by_the_delivery(self) -> None:
        """A request that is delivered before it is written is answered then, and never written."""
        self.start()
        acknowledged = self.collect("a")
        self.turn()
        self.finish()
        self.successResultOf(acknowledged)
        self.commit()
        self.check(delivered=1)
        self.assertEqual(0, self.stop())
        self.start()
        self.assertEqual([], self.deliver_all())

    def test_room_of_what_was_not_written(self) -> None:
        """What need not be written takes none of the journal's room."""
        self.start(**FULL)
        for number in range(100):
            acknowledged = self.collect(f"{number}", size=200_000)
            self.turn()
            self.finish()
            self.commit()
            self.successResultOf(acknowledged)
        self.check(delivered=100)

    def test_delivered_is_forgotten(self) -> None:
        """What was delivered does not come again after a restart."""
        self.start()
        self.collect("a")
        self.commit()
        self.turn()
        self.finish()
        self.assertEqual(0, self.stop())
        self.start()
        self.assertEqual([], self.deliver_all())
        self.check()

    def test_failed_is_sent_again(self) -> None:
        """A request whose delivery failed waits on disk and is sent again until it is delivered."""
        self.start()
        acknowledged = self.collect("a", ("click", "scroll"))
        self.commit()
        self.turn()
        self.finish(PublishError(1, 2, ["timed out"]))
        self.successResultOf(acknowledged)
        self.check(journaled=2)
        self.assertEqual(["a"], self.deliver_all())
        self.check(delivered=2)
        self.assertEqual(2, self.metrics.total("journal_replayed_events_total"))

    def test_failed_before_it_is_written(self) -> None:
        """So is one whose delivery failed before it was on disk; the answer waits for the disk."""
        self.start()
        acknowledged = self.collect("a")
        self.turn()
        self.finish(TRANSIENT)
        self.assertNoResult(acknowledged)
        self.commit()
        self.successResultOf(acknowledged)
        self.check(journaled=1)
        self.assertEqual(["a"], self.deliver_all())

    def test_bytes(self) -> None:
        """What comes back from disk is what was sent; so is what older versions stored."""
        for form, body in ((JSON, json_body), (PROTOBUF, protobuf_body)):
            events = [("click", f"{form}-0".encode()), ("scroll", f"{form}-1".encode())]
            self.write(Record("phone", "group", NOW, 2, form, body(f"{form}", events)))
        self.start()
        self.publisher.reachable = False
        self.collect("new", ("click", "scroll"), sent_time=NOW)
        self.commit()
        self.publisher.reachable = True
        self.turn(100)
        self.assertEqual(["0", "1", "new"], self.deliver_all())
        for request in (request for group in self.publish.groups for request in group):
            guid = request.guid
            self.assertEqual(["click", "scroll"], request.types)
            self.assertEqual([f"{guid}-0".encode(), f"{guid}-1".encode()], request.payloads)
            self.assertEqual(("phone", "group"), request.identifier)
            self.assertEqual(NOW, request.received_at)
            self.assertGreaterEqual(request.queued_at, NOW + 100)
            self.assertEqual(int(NOW), request.sent_time)
            # Two that have each other would stay in memory until the collector runs.
            self.assertIsNone(request.entry.request)

    def test_destination_away(self) -> None:
        """While the destination is away requests go to disk only, and come back in their order."""
        self.start()
        self.publisher.reachable = False
        for number in range(20):
            acknowledged = self.collect(f"{number}")
            self.assertNoResult(acknowledged)
            self.commit()
            self.successResultOf(acknowledged)
        self.turn(5)
        self.assertFalse(self.publishing)
        self.check(journaled=20)
        self.publisher.reachable = True
        self.assertEqual([f"{number}" for number in range(20)], self.deliver_all())
        self.check(delivered=20)

    def test_memory_full(self) -> None:
        """What finds no room in memory goes to disk only, and is delivered later."""
        self.start(queue=1, memory=6000)
        for number in range(6):
            self.collect(f"{number}", size=500)
        self.commit()
        self.check(waiting=3, journaled=3)
        self.assertEqual({f"{number}" for number in range(6)}, set(self.deliver_all()))
        self.check(delivered=6)

    def test_backlog_is_not_in_memory(self) -> None:
        """Of a large backlog a bounded part is in memory at a time, and all is delivered once."""
        self.start()
        self.publisher.reachable = False
        for number in range(3000):
            self.collect(f"{number}")
        self.commit()
        self.publisher.reachable = True
        most, guids = 0, []
        for _ in range(400):
            self.turn(0.05)
            most = max(most, self.collector.unsettled_requests)
            if self.publishing:
                guids += self.finish()
            self.commit()
        self.assertLessEqual(most, 1700)
        self.assertEqual([f"{number}" for number in range(3000)], guids)

    def test_fresh_traffic_beside(self) -> None:
        """A new request does not wait behind the backlog."""
        self.start()
        self.publisher.reachable = False
        for number in range(3000):
            self.collect(f"{number}")
        self.commit()
        self.publisher.reachable = True
        self.turn(0.05)
        self.collect("fresh")
        seen = 0
        while "fresh" not in self.finish():
            seen += 1
            self.turn(0.05)
            self.assertLess(seen, 4)

    def test_failed_beside_traffic(self) -> None:
        """A request that fails again and again comes back each time, though there is no lull."""
        self.start()
        self.collect("failing")
        self.commit()
        self.turn(0.02)
        outcomes: list[PublishError | None] = [TRANSIENT, TRANSIENT, None]
        for number in range(500):
            self.collect(f"{number}")
            self.commit()
            self.turn(0.02)
            if number % 4 == 3:
                done, group = self.publish.pending[-1], self.publish.groups[-1]
                done.callback([outcomes.pop(0) if one.guid == "failing" else None for one in group])
        self.assertEqual([], outcomes)

    def test_room_beside_the_backlog(self) -> None:
        """What comes back takes none of the room of what comes, in bytes or, at 1, in requests."""
        for ack in (2, 1):
            self.start()
            self.publisher.reachable = False
            for number in range(2000):
                self.collect(f"{number}", size=2000)
            self.commit()
            self.stop()
            self.start(ack, queue=20)
            self.turn(0.05)
            self.assertEqual(1000, self.collector.waiting())
            self.assertEqual(0, self.collector.fullness())
            for number in range(20):
                self.collect(f"fresh-{number}")
            self.assertEqual(1020, self.collector.waiting())
            self.finish()
            self.finish()
            self.assertEqual(20, sum(guid.startswith("fresh") for guid in self.finish()))
            self.deliver_all()
            self.stop()

    def test_beside_a_long_queue(self) -> None:
        """However many new requests wait for the destination, what is on disk comes back too."""
        self.start()
        self.publisher.reachable = False
        for number in range(300):
            self.collect(f"{number}")
        self.commit()
        self.publisher.reachable = True
        for number in range(2000):
            self.collect(f"fresh-{number}")
        self.turn(0.05)
        self.assertEqual(300, self.journal.returned_requests)

    def test_back_off(self) -> None:
        """A destination that goes on failing is asked ever less often, but each half minute."""
        self.start()
        self.collect("a")
        self.commit()
        self.turn()
        self.pause_after(TRANSIENT)
        pauses = [self.pause_after(TRANSIENT) for _ in range(11)]
        self.assertGreater(pauses[4], 4 * pauses[0])
        self.assertGreater(min(pauses[-3:]), 14)
        self.assertLess(max(pauses), 31)

    def pause_after(self, outcome: PublishError) -> float:
        """Seconds until the next group, after the one that is published has this outcome."""
        self.finish(outcome)
        return self.next_pause()

    def next_pause(self) -> float:
        """Seconds until the next group."""
        self.commit()
        ended = self.clock.seconds()
        for _ in range(4000):
            self.turn(0.02)
            if self.publishing:
                break
        return self.clock.seconds() - ended

    def test_back_off_begins_anew(self) -> None:
        """After what was delivered, or never can be, the next failure is the first again."""
        for outcome in (None, lasting(1, 1)):
            self.start()
            self.collect("a")
            self.commit()
            self.turn()
            for _ in range(8):
                self.pause_after(TRANSIENT)
            self.finish(outcome)
            self.commit()
            self.collect("b")
            self.commit()
            self.turn()
            self.pause_after(TRANSIENT)
            self.assertLess(self.pause_after(TRANSIENT), 0.6)
            self.finish()
            self.stop()

    def test_back_off_of_a_part(self) -> None:
        """Where some of a group are delivered the pause is short, whichever they are."""
        for outcomes in ([None, TRANSIENT], [TRANSIENT, None]):
            self.start()
            self.publisher.reachable = False
            for guid in ("a", "b"):
                self.collect(guid)
            self.commit()
            self.publisher.reachable = True
            self.turn(0.05)
            for _ in range(8):
                self.pause_after(TRANSIENT)
            self.assertEqual(2, len(self.publish.groups[-1]))
            self.publish.pending[-1].callback(outcomes)
            self.assertLess(self.next_pause(), 0.6)
            self.finish()
            self.stop()

    def test_odd_times(self) -> None:
        """Whatever a client's clock says comes back from disk."""
        self.start(ack=0)
        odd = [9.2e18, -9.3e18, 1e300, -62_135_596_801.5, 0.25]
        for sent_time in odd:
            self.collect(f"{sent_time}", sent_time=sent_time)
        self.turn()
        self.finish(TRANSIENT)
        self.commit()
        self.check(journaled=5)
        self.assertEqual(5, len(self.deliver_all()))
        self.assertEqual(odd, [request.sent_time for request in self.publish.groups[-1]])
        self.check(delivered=5)


class OtherLevelsTests(JournalCase):
    """EVENT_ACK 0 and 1 with a journal."""

    def test_level_0_failed(self) -> None:
        """What was answered before it was published is kept when that fails."""
        self.start(ack=0)
        self.successResultOf(self.collect("a"))
        self.turn()
        self.finish(TRANSIENT)
        self.commit()
        self.check(journaled=1)
        self.assertEqual(["a"], self.deliver_all())
        self.check(delivered=1)

    def test_level_0_delivered(self) -> None:
        """What is delivered is not written."""
        self.start(ack=0)
        self.collect("a")
        self.turn()
        self.finish()
        self.commit()
        self.assertEqual([], self.metrics.observed("journal_commit_ms"))
        self.check(delivered=1)

    def test_level_0_queue_full(self) -> None:
        """What finds no room in the queue is answered when it is on disk, and delivered later."""
        self.start(ack=0, queue=1)
        for guid in "ab":  # one is the worker's
            self.successResultOf(self.collect(guid))
        acknowledged = self.collect("c")
        self.assertNoResult(acknowledged)
        self.commit()
        self.successResultOf(acknowledged)
        self.check(waiting=2, journaled=1)
        self.assertEqual(["a", "b", "c"], self.deliver_all())

    def test_level_0_for_ever(self) -> None:
        """What can never be delivered goes to the dead letters."""
        self.start(ack=0)
        self.collect("a", ("click", "scroll", "click"))
        self.turn()
        self.finish(lasting(2, 3))
        self.commit()
        self.check(delivered=1, dead=2)
        self.assertEqual([{"click": 2}], [letter.failed for letter in self.letters()])

    def test_level_0_shutdown(self) -> None:
        """What was not delivered by the end is kept for the next start."""
        self.start(ack=0)
        self.collect("a")
        self.turn()
        self.collect("b")
        self.assertEqual(2, self.stop())
        self.start(ack=0)
        self.assertEqual({"a", "b"}, set(self.deliver_all()))
        self.check(delivered=2)

    def test_level_1_failed(self) -> None:
        """A failed request is kept, and its client told that it was not delivered."""
        self.start(ack=1)
        acknowledged = self.collect("a")
        self.turn()
        self.finish(TRANSIENT)
        self.failureResultOf(acknowledged, PublishError)
        self.commit()
        self.check(journaled=1)
        self.assertEqual(["a"], self.deliver_all())
        self.check(delivered=1)

    def test_level_1_delivered(self) -> None:
        """The answer comes with the delivery."""
        self.start(ack=1)
        acknowledged = self.collect("a")
        self.commit()
        self.turn()
        self.assertNoResult(acknowledged)
        self.finish()
        self.successResultOf(acknowledged)

    def test_level_1_for_ever(self) -> None:
        """What can never be delivered is the client's to hear of, and is not kept."""
        self.start(ack=1)
        acknowledged = self.collect("a")
        self.turn()
        self.finish(lasting(1, 1))
        self.failureResultOf(acknowledged, PublishError)
        self.commit()
        self.check(failed=1)
        self.assertEqual([], self.letters())

    def test_level_1_kept_and_for_ever(self) -> None:
        """A kept request that turns out to be undeliverable is a letter: its client is gone."""
        self.start(ack=1)
        self.failureResultOf(self.fail_once("a"), PublishError)
        self.turn(1)
        self.finish(lasting(1, 1))
        self.commit()
        self.check(dead=1)

    def fail_once(self, guid: str) -> object:
        """A request whose first delivery fails."""
        acknowledged = self.collect(guid)
        self.turn()
        self.finish(TRANSIENT)
        self.commit()
        return acknowledged

    def test_level_1_queue_full(self) -> None:
        """A full queue refuses as it does without a journal."""
        self.start(ack=1, queue=1)
        taken = [self.collect(guid) for guid in "ab"]  # one is the worker's
        self.failureResultOf(self.collect("c"), Overloaded)
        self.check(waiting=2, refused=1)
        self.deliver_all()
        for acknowledged in taken:
            self.successResultOf(acknowledged)


class DeadLetterTests(JournalCase):
    """What can never be delivered."""

    def test_after_the_commit(self) -> None:
        """A request that can never be delivered becomes a letter, and is not sent again."""
        self.start()
        self.collect("a", ("click", "scroll"))
        self.commit()
        self.turn()
        self.finish(lasting(1, 2))
        self.commit()
        self.check(delivered=1, dead=1)
        [letter] = self.letters()
        self.assertEqual({"click": 1}, letter.failed)
        self.assertIn("too large", letter.reason)
        self.assertEqual(("phone", 2), (letter.record.client, letter.record.events))
        self.assertGreater(letter.stored_at, NOW)
        self.assertEqual([], self.deliver_all())
        self.stop()
        self.start()
        self.assertEqual([], self.deliver_all())

    def test_before_the_commit(self) -> None:
        """One that fails so before it is written is answered when its letter is on disk."""
        self.start()
        acknowledged = self.collect("a")
        self.turn()
        self.finish(lasting(1, 1))
        self.assertNoResult(acknowledged)
        self.commit()
        self.successResultOf(acknowledged)
        self.check(dead=1)
        self.assertEqual(0, self.stop())
        self.start()
        self.assertEqual([], self.deliver_all())
        self.assertEqual(1, len(self.letters()))

    def test_many(self) -> None:
        """Many of them are few lines in the log, with the number of those left out."""
        self.start()
        with capturedLogs() as logged:
            for seconds in (0, 0, 0, 0, 0, 0, 0, 11):
                self.clock.advance(seconds)
                self.collect("a")
                self.turn()
                self.finish(lasting(1, 1))
        said = [event for event in logged if "dead letters" in event["log_format"]]
        self.assertEqual([0, 0, 0, 0, 0, 2], [event.get("left_out", 0) for event in said])

    def test_others_go_on(self) -> None:
        """What is published after it is delivered."""
        self.start()
        for guid in "abc":
            self.collect(guid)
        self.commit()
        self.turn()
        self.publish.pending[-1].callback([None, lasting(1, 1), None])
        self.turn()
        self.commit()
        self.collect("d")
        self.assertEqual(["d"], self.deliver_all())
        self.check(delivered=3, dead=1)

    def test_what_cannot_be_read(self) -> None:
        """A request that is stored and that this version cannot read is a letter, whole."""
        batch = Batch("a", None, ["click"], [b"{}"])
        good = Record("phone", "group", NOW, 1, MESSAGEPACK, encode_body(batch))
        odd = [good._replace(form=9), good._replace(body=b"\x94\xa1\xff", events=3)]
        self.write(good, *odd, good)
        self.start()
        self.assertEqual(["a", "a"], self.deliver_all())
        letters = self.letters()
        self.assertEqual(odd, [letter.record for letter in letters])
        self.assertEqual([{"": 1}, {"": 3}], [letter.failed for letter in letters])
        self.assertIn("form 9", letters[0].reason)
        self.check(delivered=2, dead=4)

    def test_type_that_is_not_allowed_any_more(self) -> None:
        """A request that waits while EVENT_TYPE_PATTERN is narrowed is a letter."""
        self.start()
        self.publisher.reachable = False
        self.collect("a", ("made-up", "click"))
        self.collect("b")
        self.commit()
        self.stop()
        self.start(type_pattern="click|scroll")
        self.assertEqual(["b"], self.deliver_all())
        [letter] = self.letters()
        self.assertIn("(EVENT_TYPE_PATTERN)", letter.reason)
        self.check(delivered=1, dead=2)

    def replay(self) -> None:
        """A person has all letters sent again."""
        letters = DeadLetters(self.directory)
        letters.mark_for_replay()
        letters.close()

    def test_replay(self) -> None:
        """A letter that is to be sent again leaves the letters, and is sent as it was."""
        self.start()
        self.collect("a", ("click", "scroll", "click"))
        self.commit()
        self.turn()
        self.finish(lasting(2, 3))
        self.commit()
        self.replay()
        self.assertEqual(["a"], self.deliver_all())
        [request] = self.publish.groups[-1]
        self.assertEqual(["click", "scroll", "click"], request.types)
        self.assertEqual([b"a-0", b"a-1", b"a-2"], request.payloads)
        self.assertEqual([], self.letters())

    def test_replay_fails_again(self) -> None:
        """A letter that fails again is a letter again."""
        self.start()
        self.collect("a")
        self.commit()
        self.turn()
        self.finish(lasting(1, 1))
        self.commit()
        self.replay()
        for _ in range(100):
            self.turn(0.05)
            self.commit()
            if self.publishing:
                self.finish(lasting(1, 1))
        self.assertEqual(1, len(self.letters()))

    def test_replay_many(self) -> None:
        """More letters than are taken at a time are all sent, once."""
        self.start()
        for number in range(250):
            self.collect(f"{number}")
            self.turn()
            self.finish(lasting(1, 1))
        self.commit()
        self.assertEqual(250, len(self.letters()))
        self.replay()
        self.assertEqual(sorted(f"{number}" for number in range(250)), sorted(self.deliver_all(20)))
        self.assertEqual([], self.letters())


class FullTests(JournalCase):
    """No room, or no disk."""

    def fill(self) -> int:
        """Have requests written until one is refused; gives how many were taken."""
        for number in range(1000):
            acknowledged = self.collect(f"{number}", size=100_000)
            self.commit()
            if acknowledged.result is not None:
                self.failureResultOf(acknowledged, Overloaded)
                return number
        raise AssertionError("never full")

    def test_at_the_cap(self) -> None:
        """At the cap requests are refused and the service is not ready; space makes it go on."""
        self.start(**FULL)
        self.publisher.reachable = False
        taken = self.fill()
        self.turn(1.1)
        self.assertEqual(1, self.metrics.total("requests_refused_total", ("journal",)))
        self.check(journaled=taken, refused=1)
        self.assertNotEqual([], self.journal.not_ready())
        self.publisher.reachable = True
        self.assertEqual(taken, len(self.deliver_all()))
        self.turn(1.1)
        self.assertEqual([], self.journal.not_ready())
        acknowledged = self.collect("again")
        self.commit()
        self.successResultOf(acknowledged)

    def test_ready_again_below_the_cap(self) -> None:
        """It takes requests while there is room, and is ready then."""
        self.start(**FULL)
        self.publisher.reachable = False
        for number in range(20):
            self.collect(f"{number}", size=100_000)
            self.commit()
        self.turn(1.1)
        self.assertEqual([], self.journal.not_ready())

    def break_disk(self) -> MonkeyPatcher:
        """Let the disk take nothing until `restore` is called."""

        def write(store: Store, records: object, delivered: list[int]) -> None:
            store.mark(delivered)
            raise JournalError("no disk")

        def reopen(store: Store) -> None:
            raise JournalError("no disk")

        patcher = MonkeyPatcher((Store, "write", write), (Store, "reopen", reopen))
        patcher.patch()
        self.addCleanup(patcher.restore)
        return patcher

    def test_disk_fails(self) -> None:
        """What is not on disk is refused, at once after the first; it is not ready; then it is."""
        self.start()
        self.publisher.reachable = False
        disk = self.break_disk()
        first = self.collect("a")
        self.assertNoResult(first)
        self.commit()
        self.failureResultOf(first, Overloaded)
        self.failureResultOf(self.collect("b"), Overloaded)
        self.assertIn("no disk", self.journal.not_ready()[0])
        self.check(refused=2)
        disk.restore()
        self.commit()
        self.assertEqual([], self.journal.not_ready())
        acknowledged = self.collect("c")
        self.commit()
        self.successResultOf(acknowledged)
        self.check(refused=2, journaled=1)

    def test_disk_fails_at_the_stop(self) -> None:
        """What was answered and can be neither delivered nor written then is told as lost."""
        self.start(ack=0)
        self.successResultOf(self.collect("a", ("click", "click")))
        self.turn()
        disk = self.break_disk()
        self.assertEqual(0, self.stop())
        self.assertEqual(2, self.lost)
        disk.restore()

    def test_letter_at_the_stop(self) -> None:
        """A letter that cannot be written leaves its request in the journal."""
        self.start()
        self.publisher.reachable = False
        self.collect("a", ("click", "click"))
        self.commit()
        self.publisher.reachable = True
        self.turn(0.05)
        disk = self.break_disk()
        self.finish(lasting(2, 2))
        self.assertEqual(2, self.stop())
        self.assertEqual(0, self.lost)
        disk.restore()
        self.start()
        self.assertEqual(["a"], self.deliver_all())
        self.check(delivered=2)

    def test_disk_fails_while_it_is_published(self) -> None:
        """A request on its way to the destination is answered when it is there."""
        self.start()
        acknowledged = self.collect("a")
        self.turn()
        self.break_disk()
        self.commit()
        self.assertNoResult(acknowledged)
        self.finish()
        self.successResultOf(acknowledged)
        self.check(delivered=1)

    def test_disk_and_destination_fail(self) -> None:
        """If it is not there either, its client is told."""
        self.start()
        acknowledged = self.collect("a")
        self.turn()
        self.break_disk()
        self.commit()
        self.finish(TRANSIENT)
        self.failureResultOf(acknowledged, PublishError)
        self.check(failed=1)

    def test_answered_before_the_disk_failed(self) -> None:
        """What was answered at level 0 and is to be kept is written when the disk works again."""
        self.start(ack=0)
        self.collect("a")
        self.turn()
        self.finish(TRANSIENT)
        disk = self.break_disk()
        self.commit()
        disk.restore()
        self.commit()
        self.commit()
        self.check(journaled=1)
        self.assertEqual(["a"], self.deliver_all())

    def test_letter_while_the_disk_fails(self) -> None:
        """So is a letter."""
        self.start(ack=0)
        self.collect("a")
        self.turn()
        self.finish(lasting(1, 1))
        disk = self.break_disk()
        self.commit()
        disk.restore()
        self.commit()
        self.commit()
        self.check(dead=1)

    def test_delivered_while_the_disk_fails(self) -> None:
        """A delivery that cannot be noted is known, and noted later."""
        self.start()
        self.collect("a")
        self.commit()
        self.turn()
        disk = self.break_disk()
        self.finish()
        self.commit()
        self.assertEqual([], self.deliver_all(5))
        disk.restore()
        self.commit()
        self.stop()
        self.start()
        self.assertEqual([], self.deliver_all())


class RestartTests(JournalCase):
    """What earlier runs left."""

    def test_without_traffic(self) -> None:
        """What waits is delivered though nothing comes in."""
        self.start()
        self.publisher.reachable = False
        for guid in "abc":
            self.collect(guid, ("click", "click"))
        self.commit()
        self.assertEqual(6, self.stop())
        self.start()
        self.turn()
        self.assertEqual(6, self.metrics.total("journal_recovered_events_total"))
        self.assertEqual(["a", "b", "c"], self.deliver_all())
        self.check(delivered=6)
        self.assertEqual(0, self.stop())

    def test_partly_delivered(self) -> None:
        """What a run delivered of a backlog does not come again in the next."""
        self.start()
        self.publisher.reachable = False
        for number in range(1200):
            self.collect(f"{number}")
        self.commit()
        self.stop()
        self.start()
        self.turn(0.05)
        first = self.finish()
        self.commit()
        self.assertEqual(1200 - len(first), self.stop())
        self.start()
        self.assertEqual(1200, len(first + self.deliver_all()))

    def test_shutdown_with_a_backlog(self) -> None:
        """The end does not wait for a backlog: nothing more is brought back."""
        self.start()
        self.publisher.reachable = False
        for number in range(2200):
            self.collect(f"{number}")
        self.commit()
        self.publisher.reachable = True
        self.turn(0.05)
        self.journal.pause()
        draining = self.worker.drain(60)
        while self.publishing:
            self.finish()
        self.turn()
        self.successResultOf(draining)
        self.check(delivered=1500, journaled=700)

    def test_damaged(self) -> None:
        """A damaged part is told and counted, the rest of it delivered, and so are the others."""
        self.start(**FULL)
        self.publisher.reachable = False
        for number in range(4):
            self.collect(f"{number}", size=600_000)
            self.commit()
        self.stop()
        first = min(self.directory.glob("*.journal"))
        damaged = bytearray(first.read_bytes())
        at = damaged.index(b"x" * 1000, 100_000)  # not in the unused part of a page
        damaged[at] ^= 1
        first.write_bytes(damaged)
        self.start(**FULL)
        for _ in range(3):
            self.turn()
            self.commit()
        self.assertEqual(1, self.metrics.total("journal_segments_damaged_total"))
        self.assertEqual({"1", "2", "3"}, set(self.deliver_all()))
        self.check(delivered=3)
        self.assertEqual(1, len(list(self.directory.glob("*.damaged"))))
        self.stop()
        self.start(**FULL)
        self.assertEqual([], self.deliver_all())

    def test_damaged_while_requests_are_on_their_way(self) -> None:
        """They are delivered or written again, once; until then the damaged file stays."""
        self.start(**FULL)
        self.collect("done", size=300_000)
        self.commit()
        self.turn()
        self.finish()
        for guid in ("ok", "bad"):
            self.collect(guid, size=300_000)
        self.turn()
        self.commit()
        self.publisher.reachable = False
        self.collect("waiting", size=300_000)
        self.commit()
        self.collect("later")
        self.commit()
        self.turn(0.6)
        first = min(self.directory.glob("*.journal"))
        damaged = bytearray(first.read_bytes())
        damaged[damaged.index(b"done-0") + 100_000] ^= 1
        first.write_bytes(damaged)
        self.publisher.reachable = True
        for _ in range(3):
            self.turn(0.6)
            self.commit()
        self.assertEqual([], list(self.directory.glob("*.damaged")))
        self.publish.pending[-1].callback([None, TRANSIENT])
        self.turn(0)
        self.assertEqual(["bad", "later", "waiting"], sorted(self.deliver_all()))
        self.check(delivered=5)
        self.assertEqual(1, len(list(self.directory.glob("*.damaged"))))
        self.assertEqual(0, self.metrics.total("journal_lost_events_total"))
        self.stop()
        self.start(**FULL)
        self.assertEqual([], self.deliver_all())

    def test_in_use(self) -> None:
        """A directory that another process has ends the start with one line."""
        self.start()
        running = vars(self).copy()
        error = self.assertRaises(StartError, self.start)
        vars(self).update(running)
        self.assertRegex(str(error), r"^JOURNAL_DIR: .*another process uses this journal$")

    def test_cannot_be_made(self) -> None:
        """So does one that cannot be made."""
        (self.directory / "file").touch()
        self.directory = Path(os.path.join(self.directory, "file", "journal"))
        error = self.assertRaises(StartError, self.start)
        self.assertRegex(str(error), r"^JOURNAL_DIR: .*/file/journal: .+$")
