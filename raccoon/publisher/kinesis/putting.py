"""One request to Kinesis, and what to make of its answer for each record."""

from __future__ import annotations

import logging
import random
from typing import NamedTuple

from raccoon.publisher.base.delivery import Failure
from raccoon.publisher.base.reachability import Reachability
from raccoon.publisher.base.topics import KnownTopics
from raccoon.publisher.kinesis.client import (
    KinesisClient,
    NoAnswerError,
    RefusedError,
    RefusedRecord,
)
from raccoon.publisher.kinesis.outbox import Record
from raccoon.publisher.kinesis.streams import UNREACHABLE, StreamCheck, does_not_exist
from raccoon.supervision import Supervisor

_log = logging.getLogger(__name__)

# What a record has at most, with its key, unless its stream is set to more.
RECORD_BYTES = 1 << 20

_THROUGHPUT = "kinesis_stream_throughput_exceeded_total"
_LARGE = "kinesis_message_too_large_total"


class Trouble(NamedTuple):
    """What went wrong with a record.

    Attributes:
        failure: for its outcome.
        passing: another attempt may succeed.
        whole: the whole request failed, not this record alone.
    """

    failure: Failure
    passing: bool
    whole: bool = True


class Putting:
    """Makes requests, blocking, from any thread.

    Args:
        client: that makes them.
        check: looks at a stream that is missing, and makes it where that is asked for.
        streams: told of one that is missing.
        reachability: told whether Kinesis answers.
        supervisor: told of what nobody expects.
    """

    def __init__(
        self,
        client: KinesisClient,
        check: StreamCheck,
        streams: KnownTopics,
        reachability: Reachability,
        supervisor: Supervisor,
    ) -> None:
        self._client = client
        self._check = check
        self._streams = streams
        self._reachability = reachability
        self._supervisor = supervisor

    def put(self, stream: str, records: list[Record]) -> list[Trouble | None]:
        """Write records; by halves, where Kinesis finds fault with one of them."""
        half = len(records) // 2
        try:
            refused = self._client.put(
                stream, [(record.payload, record.key or _random_key()) for record in records]
            )
        except RefusedError as error:
            self._reachability.announce(not error.from_between, str(error))
            if half and error.invalid:
                return self.put(stream, records[:half]) + self.put(stream, records[half:])
            return [self._refused(stream, records[0], error)] * len(records)
        except NoAnswerError as error:
            self._reachability.announce(False, str(error))
            return [Trouble(UNREACHABLE, True)] * len(records)
        except Exception as error:
            self._supervisor.failed("kinesis sender", error)
            return [Trouble(Failure(f"not sent: {error}"), False)] * len(records)
        self._reachability.announce(True)
        if not any(refused):
            return [None] * len(records)
        return [None if one is None else _refused_record(stream, one) for one in refused]

    def _refused(self, stream: str, record: Record, error: RefusedError) -> Trouble:
        """What to make of a request that was refused whole; `record` is its first."""
        _log.warning("stream %s: a request was refused: %s", stream, error)
        if error.not_found:
            self._streams.forget(stream)
            failure: Failure | None = does_not_exist(stream)
            if self._check.makes_streams:
                failure, _ = self._check.check(stream, record.deadline)
            return Trouble(failure or does_not_exist(stream), failure is None)
        if error.throttled:
            return Trouble(_over_throughput(stream, error.code), True)
        if error.invalid and record.size > RECORD_BYTES:
            reason = f"event too large for stream {stream} ({record.size} bytes with its key)"
            return Trouble(Failure(reason, _LARGE, lasting=True), False)
        return Trouble(Failure(f"Kinesis refused: {error.code}"), error.passing)


def _refused_record(stream: str, refused: RefusedRecord) -> Trouble:
    if refused.throttled:
        return Trouble(_over_throughput(stream, refused.code), True, whole=False)
    return Trouble(Failure(f"Kinesis refused: {refused.code}"), True, whole=False)


def _over_throughput(stream: str, code: str) -> Failure:
    return Failure(f"stream {stream} takes no more for now ({code})", _THROUGHPUT)


def _random_key() -> str:
    """A random key spreads records over the shards; another attempt may reach another shard."""
    return f"{random.getrandbits(64):x}"
