"""librdkafka's log lines into Raccoon's log."""

from __future__ import annotations

import logging

from raccoon.supervision import Supervisor

_log = logging.getLogger("raccoon.publisher.kafka.librdkafka")
_FAILED_CONNECTION = "FAIL"


class ClientLog:
    """What confluent-kafka takes as `logger`; its levels are those of `logging` already.

    It logs everything by one template. Here each of librdkafka's facilities (FAIL, SECURITY, …)
    has its own, as repeated lines are left out by their template: the one that says why is not
    to go with others.

    Args:
        supervisor: told of a line that could not be logged: librdkafka expects no exception.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def log(self, level: int, _template: str, facility: str, client: str, text: str) -> None:
        """One line, as confluent-kafka calls it."""
        self._supervisor.call("kafka client log", self._write, level, facility, client, text)

    def _write(self, level: int, facility: str, client: str, text: str) -> None:
        if facility == _FAILED_CONNECTION and level == logging.INFO:
            # A connection that was closed in use, perhaps ten times a second: warnings are
            # throttled. One that was merely idle is logged as debug.
            level = logging.WARNING
        _log.log(level, f"{facility} %s %s", client, text)
