"""Whether a Kinesis stream is there; makes it where that is asked for."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from raccoon.config import KinesisSettings
from raccoon.publisher.base.delivery import CLOSED, Failure
from raccoon.publisher.kinesis.client import KinesisClient, NoAnswerError, RefusedError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0
_SHORTEST_INTERVAL = 0.01
# That five streams are in the making passes; that the account has all its shards does not.
_LIMIT_PATIENCE = 10.0

_UNKNOWN_STREAM = "kinesis_unknown_stream_failure_total"
_STREAMS_LIMIT = "kinesis_streams_limit_exceeded_total"

UNREACHABLE = Failure("Kinesis is unreachable")


class _CutOffError(Exception):
    """The publisher closed and waits no longer."""


class StreamCheck:
    """Asks, blocking, and waits for what is in the making.

    Attributes:
        makes_streams: whether a missing stream is made.

    Args:
        client: to ask.
        settings: whether and how missing streams are made, and how often one is looked at.
        announce: told after each call whether Kinesis answers, and what it said if not.
        cut_off: set when there is no more time.
    """

    def __init__(
        self,
        client: KinesisClient,
        settings: KinesisSettings,
        announce: Callable[[bool, str], None],
        cut_off: threading.Event,
    ) -> None:
        self._client = client
        self._settings = settings
        self._announce = announce
        self._cut_off = cut_off
        self.makes_streams = settings.stream_autocreate
        self._interval = max(settings.stream_probe_interval_ms / 1000, _SHORTEST_INTERVAL)

    def check(self, stream: str, deadline: float) -> tuple[Failure | None, bool]:
        """None, or why events for it fail; and whether that holds for a while."""
        try:
            return self._wait_until_active(stream, deadline), True
        except _CutOffError:
            return CLOSED, False
        except NoAnswerError:
            return UNREACHABLE, False
        except TimeoutError:
            return Failure(f"stream {stream} is not active yet, retry"), False
        except RefusedError as error:
            _log.warning("stream %s cannot be looked up: %s", stream, error)
            return Failure(f"stream {stream} cannot be looked up: {error.code}"), not error.passing

    def _wait_until_active(self, stream: str, deadline: float) -> Failure | None:
        made = False
        while True:
            status = self._status(stream, deadline)
            if status == "DELETING":
                return Failure(f"stream {stream} is being deleted", _UNKNOWN_STREAM)
            if status == "CREATING" or (made and not status):
                self._pause(deadline)
            elif status:
                return None
            elif not self.makes_streams:
                return does_not_exist(stream)
            elif problem := self._make(stream, deadline):
                return problem
            else:
                made = True
                self._pause(deadline)

    def _status(self, stream: str, deadline: float) -> str:
        """As Kinesis calls it; empty where there is no such stream."""
        try:
            return self._call(deadline, lambda: self._client.status(stream))
        except RefusedError as error:
            if error.not_found:
                return ""
            if error.code == "AccessDeniedException":
                # Who may publish need not be allowed to ask: publishing will tell.
                return "unknown"
            raise

    def _make(self, stream: str, deadline: float) -> Failure | None:
        mode, shards = self._settings.stream_mode, self._settings.stream_shards
        patience = min(deadline, time.monotonic() + _LIMIT_PATIENCE)
        try:
            self._call(patience, lambda: self._client.create(stream, mode, shards))
        except RefusedError as error:
            if error.code == "ResourceInUseException":  # another was faster
                return None
            _log.warning("stream %s cannot be made: %s", stream, error)
            if error.limit_exceeded:
                reason = f"stream {stream} cannot be made: the account's limit of streams or shards"
                return Failure(f"{reason} ({error.code})", _STREAMS_LIMIT)
            return Failure(f"stream {stream} cannot be made: {error.code}")
        _log.info("stream %s was made (%s)", stream, mode)
        return None

    def _call(self, deadline: float, call: Callable[[], _T]) -> _T:
        """Call, again where that may help, until the deadline or until cut off."""
        attempts = 0
        while not self._cut_off.is_set():
            last: NoAnswerError | RefusedError
            try:
                answer = call()
            except RefusedError as error:
                self._announce(not error.from_between, str(error))
                if not error.passing:
                    raise
                last = error
            except NoAnswerError as error:
                self._announce(False, str(error))
                last = error
            else:
                self._announce(True, "")
                return answer
            left = deadline - time.monotonic()
            if left <= 0:
                raise last
            self._cut_off.wait(min(full_jitter(attempts), left))
            attempts += 1
        raise _CutOffError

    def _pause(self, deadline: float) -> None:
        if time.monotonic() + self._interval > deadline:
            raise TimeoutError
        if self._cut_off.wait(self._interval):
            raise _CutOffError


def does_not_exist(stream: str, detail: str = "") -> Failure:
    """Why events for a missing stream fail."""
    reason = f"stream {stream} does not exist{detail}"
    return Failure(reason, _UNKNOWN_STREAM, lasting=True, missing=True)


def full_jitter(attempts: int) -> float:
    """Seconds before the next attempt, after `attempts` others.

    Those who were refused together do not come back together.
    """
    longest = min(_FIRST_PAUSE * 2 ** min(attempts, 10), _LONGEST_PAUSE)
    return random.uniform(0, longest)  # noqa: S311 - not for secrets
