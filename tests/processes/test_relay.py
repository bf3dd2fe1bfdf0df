"""Tests of raccoon.processes.relay."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger, LogLevel
from twisted.trial.unittest import SynchronousTestCase

from raccoon.logs import format_line
from raccoon.processes.relay import Relay, format_relayed
from tests.fakes import FakeObserver

NOW = 1_700_000_000.0


class RelayTests(SynchronousTestCase):
    """Lines of a worker in the parent's log."""

    def setUp(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.relay = Relay(self.events.append)
        self.relay.worker = 3

    def event(self, text: str, **fields: object) -> dict[str, Any]:
        """What a logger in a worker emits."""
        observer = FakeObserver()
        logger = Logger("raccoon.origin", observer=observer)
        logger.warn(text, **fields)
        return {**observer.events[0], "log_time": NOW}

    def lines(self) -> list[str | None]:
        return [format_line(event) for event in self.events]

    def test_same_line(self) -> None:
        """A line is what the worker itself would have written, and names the worker."""
        event = self.event("publish failed: {reason}", reason="no\nbroker", group="a b")
        written, relayed = format_line(event), format_relayed(event)
        assert written is not None
        assert relayed is not None
        self.relay.received(relayed.encode(), NOW + 5)
        self.assertEqual([written.rstrip("\n") + " worker=3\n"], self.lines())
        self.assertEqual(LogLevel.warn, self.events[0]["log_level"])

    def test_failure(self) -> None:
        """A traceback comes along."""
        observer = FakeObserver()
        logger = Logger("raccoon.origin", observer=observer)
        try:
            raise ValueError("broken")
        except ValueError:
            logger.failure("it failed")
        relayed = format_relayed({**observer.events[0], "log_time": NOW})
        assert relayed is not None
        self.relay.received(relayed.encode(), NOW)
        (line,) = self.lines()
        for word in ("it failed", "error=broken", 'traceback="Traceback', "worker=3\n"):
            self.assertIn(word, line)

    def test_in_pieces(self) -> None:
        """Lines are put together from what comes."""
        relayed = "".join(format_relayed(self.event(f"line {i}")) or "" for i in range(3)).encode()
        for i in range(0, len(relayed), 7):
            self.relay.received(relayed[i : i + 7], NOW)
        self.assertEqual(
            [f"line {i} worker=3" for i in range(3)],
            [event["log_relayed"] for event in self.events],
        )

    def test_other_output(self) -> None:
        """What a library or the interpreter writes is a warning, escaped; nothing is left out."""
        self.relay.received(b"Fatal \x1b error\n\n[1, 2]\n", NOW)
        self.relay.received(b"no end", NOW)
        self.relay.ended(NOW)
        self.assertEqual(
            ["Fatal \\x1b error worker=3", "[1, 2] worker=3", "no end worker=3"],
            [event["log_relayed"] for event in self.events],
        )
        self.assertEqual({LogLevel.warn}, {event["log_level"] for event in self.events})

    def test_endless_line(self) -> None:
        """A line without an end is not kept for ever."""
        for _ in range(100):
            self.relay.received(b"x" * 1000, NOW)
        self.assertEqual(1, len(self.events))
