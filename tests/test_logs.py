"""Tests of raccoon.logs."""

from __future__ import annotations

import io
import logging
import os
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import Logger, LogLevel, LogPublisher, globalLogPublisher
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from twisted.trial.unittest import SynchronousTestCase

from raccoon.logs import (
    LEVELS,
    Throttle,
    bridge_standard_logging,
    escape,
    format_line,
    make_observer,
)
from tests.fakes import FakeObserver


class EscapeTests(SynchronousTestCase):
    """escape."""

    def test_printable(self) -> None:
        """Printable text, letters beyond ASCII included, stays as it is."""
        self.assertEqual("añ 😀", escape("añ 😀"))

    def test_unprintable(self) -> None:
        """Line breaks, terminal controls and lone surrogates are written out."""
        self.assertEqual(r"a\nb\r\x1b[2J\x00\u2028\ud800", escape("a\nb\r\x1b[2J\0\u2028\ud800"))

    def test_length(self) -> None:
        """Text over the length is cut, and shows that it was."""
        self.assertEqual("abc…", escape("abcd", 3))
        self.assertEqual("abc", escape("abc", 3))

    def test_any_object(self) -> None:
        """Any object is written as its text."""
        self.assertEqual("7", escape(7))


class LineTests(SynchronousTestCase):
    """format_line."""

    def line(self, template: str = "it happened", **fields: Any) -> str | None:
        event = {
            "log_time": 1795494197.5,
            "log_level": LogLevel.info,
            "log_namespace": "raccoon.test",
            "log_format": template,
            **fields,
        }
        return format_line(event)

    def test_form(self) -> None:
        """A line is time in UTC, level, origin and message."""
        self.assertEqual(
            "2026-11-24T04:23:17.500Z info     raccoon.test it happened\n", self.line()
        )

    def test_fields(self) -> None:
        """Fields that the message does not name follow it; those it names do not come twice."""
        line = self.line("took {what}", what="all", count=3, why_not="a b")
        self.assertTrue(line and line.endswith('took all count=3 why_not="a b"\n'), line)

    def test_field_whose_name_begins_another(self) -> None:
        """A field is shown although its name begins that of a field in the message."""
        line = self.line("to {destination}", destination="Kafka", dest="x", destination_2="y")
        self.assertTrue(line and line.endswith("to Kafka dest=x destination_2=y\n"), line)

    def test_one_event_one_line(self) -> None:
        """No text of a client's breaks the line, in the message or in a field."""
        line = self.line("got {text}", text="a\nb\r\n", other="c\nd\u2028")
        self.assertTrue(line)
        self.assertEqual(1, len((line or "").splitlines()))

    def test_quotes_in_a_field(self) -> None:
        """A quoted value cannot end its quotes and go on as another field."""
        line = self.line(reason='no" admin="yes')
        self.assertNotIn(' admin="yes"', line or "")

    def test_length(self) -> None:
        """A line is bounded, whatever a client sent."""
        line = self.line("got {text}", text="x" * 1_000_000, other="y" * 1_000_000)
        self.assertLess(len(line or ""), 6000)

    def test_failure(self) -> None:
        """A failure is on the same line, with its error and traceback."""
        try:
            raise ValueError("no\nway")
        except ValueError:
            line = self.line("broken", log_failure=Failure()) or ""
        self.assertEqual(1, len(line.splitlines()))
        self.assertIn(r"error=no\nway", line)
        self.assertIn("ValueError", line)
        self.assertIn("test_failure", line)

    def test_nothing_to_say(self) -> None:
        """An event without text and failure makes no line."""
        self.assertIsNone(format_line({"log_level": LogLevel.info, "log_time": 0.0}))


class ObserverTests(SynchronousTestCase):
    """make_observer."""

    def setUp(self) -> None:
        keep_standard_logging(self)

    def emit(self, stream: Any, level: str) -> None:
        publisher = LogPublisher(make_observer(stream, level))
        log = Logger("raccoon.test", observer=publisher)
        for name in ("debug", "info", "warn", "error", "critical"):
            log.emit(LogLevel.levelWithName(name), "at {name}", name=name)

    def test_levels(self) -> None:
        """Each LOG_LEVEL lets its own level and those above through."""
        for level, lines in (
            ("debug", 5),
            ("info", 4),
            ("warn", 3),
            ("error", 2),
            ("fatal", 1),
            ("panic", 1),
        ):
            stream = io.StringIO()
            self.emit(stream, level)
            self.assertEqual(lines, len(stream.getvalue().splitlines()), level)
        self.assertEqual({"debug", "info", "warn", "error", "fatal", "panic"}, set(LEVELS))

    def test_file(self) -> None:
        """A log file gets the lines in UTF-8."""
        path = os.path.abspath(self.mktemp())
        file = LogFile.fromFullPath(path)
        Logger("test", observer=LogPublisher(make_observer(file, "info"))).info("é")
        file.close()
        with open(path, encoding="utf-8") as written:
            self.assertTrue(written.read().endswith("test é\n"))


def keep_standard_logging(case: SynchronousTestCase) -> None:
    """Leave the standard library's logging as it is after a test that changes it."""
    root, own = logging.getLogger(), logging.getLogger("raccoon")
    case.patch(root, "handlers", root.handlers)
    case.addCleanup(root.setLevel, root.level)
    case.addCleanup(own.setLevel, own.level)


class BridgeTests(SynchronousTestCase):
    """The standard library's logging in Twisted's log."""

    def setUp(self) -> None:
        keep_standard_logging(self)
        observer = FakeObserver()
        self.events = observer.events
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def lines(self) -> list[str]:
        return [line for line in map(format_line, self.events) if line]

    def test_own_records(self) -> None:
        """A record of ours is one event of its level and logger, with its fields."""
        bridge_standard_logging("info")
        logging.getLogger("raccoon.publisher.test").info(
            "took %d", 3, extra={"fields": {"topic": "a b"}}
        )
        (event,) = self.events
        self.assertEqual(LogLevel.info, event["log_level"])
        self.assertTrue(
            self.lines()[0].endswith('info     raccoon.publisher.test took 3 topic="a b"\n')
        )

    def test_levels(self) -> None:
        """Each level of the standard library is its like in Twisted's log."""
        bridge_standard_logging("debug")
        log = logging.getLogger("raccoon.test")
        for call in (log.debug, log.info, log.warning, log.error, log.critical):
            call("x")
        self.assertEqual(
            ["debug", "info", "warn", "error", "critical"],
            [event["log_level"].name for event in self.events],
        )

    def test_our_level(self) -> None:
        """Of ours, what is below LOG_LEVEL is not even made an event."""
        for level, expected in (
            ("warn", ["warn", "error", "critical"]),
            ("error", ["error", "critical"]),
            ("fatal", ["critical"]),
        ):
            bridge_standard_logging(level)
            self.events.clear()
            log = logging.getLogger("raccoon.test")
            for call in (log.debug, log.info, log.warning, log.error, log.critical):
                call("x")
            self.assertEqual(expected, [event["log_level"].name for event in self.events])

    def test_others(self) -> None:
        """Of other libraries, warnings and above come through, whatever LOG_LEVEL is."""
        bridge_standard_logging("debug")
        log = logging.getLogger("some.driver")
        log.info("chatter")
        log.warning("trouble")
        self.assertEqual(["trouble"], [event["text"] for event in self.events])

    def test_braces(self) -> None:
        """Braces in a record's text are text, not the names of fields."""
        bridge_standard_logging("info")
        logging.getLogger("raccoon.test").info('{"a": {b}}')
        self.assertIn('{"a": {b}}', self.lines()[0])

    def test_exception(self) -> None:
        """An exception that a driver logs is on the record's line."""
        bridge_standard_logging("info")
        try:
            raise ValueError("what went wrong")
        except ValueError:
            logging.getLogger("some.driver").exception("callback failed")
        self.assertIn("what went wrong", self.lines()[0])
        self.flushLoggedErrors(ValueError)


class ThrottleTests(SynchronousTestCase):
    """Throttle."""

    def setUp(self) -> None:
        self.clock = Clock()
        observer = FakeObserver()
        self.events = observer.events
        self.throttle = Throttle(Logger("test", observer=observer), self.clock.seconds)

    def test_burst(self) -> None:
        """Of a thousand failures of a kind in ten seconds five are logged."""
        for number in range(1000):
            self.throttle.error("failed: {reason}", reason=str(number))
        self.assertEqual(["0", "1", "2", "3", "4"], [event["reason"] for event in self.events])

    def test_left_out(self) -> None:
        """The next one after that says how many were left out, and counting starts anew."""
        for _ in range(12):
            self.throttle.warn("failed")
        self.clock.advance(10)
        for _ in range(12):
            self.throttle.warn("failed")
        self.assertEqual(10, len(self.events))
        self.assertEqual(7, self.events[5]["left_out"])
        self.assertNotIn("left_out", self.events[6])

    def test_nothing_left_out(self) -> None:
        """Where nothing was left out nothing is said of it."""
        self.throttle.warn("failed")
        self.clock.advance(60)
        self.throttle.warn("failed")
        self.assertEqual(2, len(self.events))
        self.assertNotIn("left_out", self.events[1])

    def test_kinds(self) -> None:
        """Each kind has its own count."""
        for _ in range(9):
            self.throttle.warn("one")
            self.throttle.warn("two")
        self.assertEqual(10, len(self.events))

    def test_levels(self) -> None:
        """warn and error log at their levels."""
        self.throttle.warn("one")
        self.throttle.error("two")
        self.assertEqual(
            [LogLevel.warn, LogLevel.error], [event["log_level"] for event in self.events]
        )
