"""The log: one event a line, fields named, client text escaped, repeated failures throttled."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

from constantly import NamedConstant
from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    Logger,
    LogLevel,
    LogLevelFilterPredicate,
    PredicateResult,
    formatEvent,
)
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile
from zope.interface import provider

LEVELS: Mapping[str, NamedConstant] = {
    "debug": LogLevel.debug,
    "info": LogLevel.info,
    "warn": LogLevel.warn,
    "error": LogLevel.error,
    "fatal": LogLevel.critical,
    "panic": LogLevel.critical,
}
_LINE_LENGTH = 4000
_FIELD_LENGTH = 1200
_BURST = 5
_PERIOD = 10.0
_KINDS = 1000
_NAMED = re.compile(r"\{(\w+)")
_AMBIGUOUS = re.compile(r'[\s"=]')
# Keys of an event that are not its named fields.
_PLUMBING = frozenset({"message", "time", "system", "format", "isError", "failure", "why"})


def escape(value: object, length: int = _FIELD_LENGTH) -> str:
    """A value as one printable piece of a line, of at most `length` characters."""
    text = str(value)
    if len(text) > length:
        text = text[:length] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _quote(text: str) -> str:
    """A field's value, in quotes where it could be taken for more than one."""
    if text and not _AMBIGUOUS.search(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def format_line(event: Mapping[str, Any]) -> str | None:
    """One line for a log event: time, level, origin, message, then the fields it does not name.

    What another process has formatted, as `log_relayed`, is taken as it is.
    """
    text = event.get("log_relayed") or format_text(event)
    if not text:
        return None
    level = event.get("log_level", LogLevel.info)
    moment = datetime.fromtimestamp(event.get("log_time") or 0, UTC)
    stamp = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"{stamp} {level.name:<8} {event.get('log_namespace', '-')} {text}\n"


def format_text(event: Mapping[str, Any]) -> str:
    """The message of a log event, then the fields it does not name; empty if it says nothing."""
    message = escape(formatEvent(dict(event)), _LINE_LENGTH)
    failure = event.get("log_failure")
    if not message and failure is None:
        return ""
    parts = [message]
    named = set(_NAMED.findall(event.get("log_format") or ""))
    for key, value in event.items():
        if not key.startswith("log_") and key not in _PLUMBING and key not in named:
            parts.append(f"{key}={_quote(escape(value))}")
    if failure is not None:
        parts.append(f"error={escape(failure.getErrorMessage())}")
        parts.append(f'traceback="{escape(failure.getTraceback(), _LINE_LENGTH)}"')
    return " ".join(parts)


def make_observer(
    stream: TextIO | LogFile,
    level: str,
    form: Callable[[Mapping[str, Any]], str | None] = format_line,
) -> ILogObserver:
    """An observer that writes lines of `level` (a LOG_LEVEL) and above, in a form."""
    predicates = [_not_chatter, LogLevelFilterPredicate(LEVELS[level])]
    file: Any = stream
    observer: ILogObserver = FilteringLogObserver(FileLogObserver(file, form), predicates)
    return observer


@provider(ILogFilterPredicate)
def _not_chatter(event: Mapping[str, Any]) -> NamedConstant:
    """Leave out what Twisted's ports say of themselves through its old log: ours say more."""
    chatter = event.get("log_namespace") == "log_legacy" and not event.get("isError")
    return PredicateResult.no if chatter else PredicateResult.maybe


class _Bridge(logging.Handler):
    """Carries records of the standard library's logging into Twisted's log.

    A driver may report each failed connection: warnings and errors are throttled by their
    template, as ours are.
    """

    def __init__(self) -> None:
        super().__init__()
        self._throttle = Throttle(Logger(), time.monotonic)

    def emit(self, record: logging.LogRecord) -> None:
        level = LogLevel.debug
        for candidate, threshold in (
            (LogLevel.info, logging.INFO),
            (LogLevel.warn, logging.WARNING),
            (LogLevel.error, logging.ERROR),
            (LogLevel.critical, logging.CRITICAL),
        ):
            if record.levelno >= threshold:
                level = candidate
        fields = dict(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[1] is not None:
            kind, error, trace = record.exc_info
            fields["log_failure"] = Failure(error, kind, trace)
        if record.levelno >= logging.WARNING:
            left_out = self._throttle.left_out(f"{record.name} {record.msg}"[:_LINE_LENGTH])
            if left_out is None:
                return
            if left_out:
                fields["left_out"] = left_out
        Logger(namespace=record.name).emit(level, "{text}", text=record.getMessage(), **fields)


def bridge_standard_logging(level: str) -> None:
    """Send what drivers and publishers log to Twisted's log, warnings of others included."""
    root = logging.getLogger()
    root.handlers = [_Bridge()]
    root.setLevel(logging.WARNING)
    own = {"warn": "WARNING", "fatal": "CRITICAL", "panic": "CRITICAL"}.get(level, level.upper())
    logging.getLogger("raccoon").setLevel(own)


class Throttle:
    """Logs failures that may come by the thousand: five of a kind in ten seconds.

    The next one after a silence says how many were left out.

    Args:
        logger: where to.
        seconds: the clock.
    """

    def __init__(self, logger: Logger, seconds: Callable[[], float]) -> None:
        self._logger = logger
        self._seconds = seconds
        self._kinds: dict[str, list[float]] = {}

    def warn(self, template: str, **fields: object) -> None:
        """Log at level warn; `template` is the kind."""
        self._emit(LogLevel.warn, template, fields)

    def error(self, template: str, **fields: object) -> None:
        """Log at level error; `template` is the kind."""
        self._emit(LogLevel.error, template, fields)

    def left_out(self, kind: str) -> int | None:
        """Whether one more of a kind is to be logged.

        Returns:
            How many were left out since the last one that was, or None: leave this one out.
        """
        now = self._seconds()
        if kind not in self._kinds and len(self._kinds) >= _KINDS:
            self._kinds.clear()
        state = self._kinds.setdefault(kind, [now, 0, 0])
        since, logged, left_out = state
        if now - since >= _PERIOD:
            state[:] = [now, 1, 0]
            return int(left_out)
        if logged < _BURST:
            state[1] += 1
            return 0
        state[2] += 1
        return None

    def _emit(self, level: NamedConstant, template: str, fields: dict[str, object]) -> None:
        left_out = self.left_out(template)
        if left_out is None:
            return
        if left_out:
            fields["left_out"] = left_out
        self._logger.emit(level, template, **fields)
