"""The inbox on a fake reactor: what runs, in which order, and how often the reactor is woken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from raccoon.service.grpc.inbox import Inbox
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics, ThreadlessClock


class FakeReactor:
    """Keeps what threads call, until it turns."""

    def __init__(self) -> None:
        self.wakes = 0
        self._calls: list[Callable[[], None]] = []

    def callFromThread(self, call: Callable[[], None]) -> None:
        self.wakes += 1
        self._calls.append(call)

    def turn(self) -> None:
        """Run what was called before this turn."""
        calls, self._calls = self._calls, []
        for call in calls:
            call()


class InboxTests(SynchronousTestCase):
    """Calls from threads."""

    def setUp(self) -> None:
        self.reactor = FakeReactor()
        self.clock = ThreadlessClock()
        self.inbox = Inbox(self.reactor, Supervisor(FakeMetrics()))
        self.seen: list[Any] = []

    def test_not_in_the_caller(self) -> None:
        """What is put down runs when the reactor turns, with its arguments."""
        self.inbox.put(lambda *args: self.seen.append(args), "a", 1)
        self.assertEqual(self.seen, [])
        self.reactor.turn()
        self.assertEqual(self.seen, [("a", 1)])

    def test_woken_once_for_many(self) -> None:
        """Calls that come before the reactor turns wake it once, and keep their order."""
        for number in range(100):
            self.inbox.put(self.seen.append, number)
        self.assertEqual(self.reactor.wakes, 1)
        self.reactor.turn()
        self.assertEqual(self.seen, list(range(100)))

    def test_woken_again(self) -> None:
        """A call after a turn wakes the reactor again."""
        for number in range(5):
            self.inbox.put(self.seen.append, number)
            self.reactor.turn()
            self.assertEqual(self.seen, list(range(number + 1)))
        self.assertEqual(self.reactor.wakes, 5)

    def test_put_down_meanwhile(self) -> None:
        """What is put down while others run has its turn later, so that none runs without end."""

        def again() -> None:
            self.seen.append("again")
            self.inbox.put(again)

        self.inbox.put(again)
        for turns in range(1, 4):
            self.reactor.turn()
            self.assertEqual(len(self.seen), turns)

    def test_emptied(self) -> None:
        """It is empty once what was put down has run, and what was about to be put down too."""
        inbox = Inbox(self.clock, Supervisor(FakeMetrics()))
        emptied = inbox.emptied()
        self.successResultOf(emptied)
        with inbox:
            with inbox:
                emptied = inbox.emptied()
                self.clock.advance(1)
                self.assertNoResult(emptied)
            inbox.put(lambda: self.assertNoResult(emptied))
            self.clock.advance(1)
            self.assertNoResult(emptied)
        self.clock.advance(1)
        self.successResultOf(emptied)
        inbox.put(self.seen.append, "down")
        inbox.emptied().addCallback(self.seen.append)
        self.assertEqual(self.seen, [])
        self.clock.advance(1)
        self.assertEqual(self.seen, ["down", None])

    def test_fault(self) -> None:
        """A call that raises is logged and harms no other."""

        def fail() -> None:
            raise ZeroDivisionError

        self.inbox.put(fail)
        self.inbox.put(self.seen.append, "next")
        self.reactor.turn()
        self.assertEqual(self.seen, ["next"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.inbox.put(self.seen.append, "later")
        self.reactor.turn()
        self.assertEqual(self.seen, ["next", "later"])
