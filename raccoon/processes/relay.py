"""Log lines of workers, which the parent writes to its own log: one process rotates the file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from twisted.logger import LogLevel

from raccoon.logs import escape, format_text

_LONGEST = 1 << 16
_NAMESPACE = "raccoon.processes"


def format_relayed(event: Mapping[str, Any]) -> str | None:
    """A log event as one line of JSON, for `Relay`."""
    text = format_text(event)
    if not text:
        return None
    level = event.get("log_level", LogLevel.info)
    origin = str(event.get("log_namespace", "-"))
    return json.dumps([event.get("log_time"), level.name, origin, text]) + "\n"


class Relay:
    """Puts together the lines of one stream of a worker and gives them to the log.

    Args:
        publish: takes log events.

    Attributes:
        worker: the worker's index, which each line then has.
    """

    def __init__(self, publish: Callable[[dict[str, Any]], None]) -> None:
        self.worker: int | None = None
        self._publish = publish
        self._held = b""

    def received(self, data: bytes, now: float) -> None:
        """Bytes of the stream came, at a time in Unix seconds."""
        *lines, self._held = (self._held + data).split(b"\n")
        for line in lines:
            self._line(line, now)
        if len(self._held) > _LONGEST:
            self.ended(now)

    def ended(self, now: float) -> None:
        """The stream has ended; what is left is a line too."""
        held, self._held = self._held, b""
        self._line(held, now)

    def _line(self, line: bytes, now: float) -> None:
        if not line.strip():
            return
        try:
            time, level, origin, text = json.loads(line)
            named = LogLevel.lookupByName(level)
        except (ValueError, TypeError, LookupError):
            # What a library or the interpreter itself wrote.
            time, named, origin = now, LogLevel.warn, _NAMESPACE
            text = escape(line.decode("utf-8", "replace"))
        self._publish(
            {
                "log_time": time,
                "log_level": named,
                "log_namespace": origin,
                "log_format": "{log_relayed}",
                "log_relayed": text if self.worker is None else f"{text} worker={self.worker}",
            }
        )
