"""boto3's Kinesis client in memory."""

from __future__ import annotations

import re
import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any

from botocore.exceptions import ClientError

from tests.publisher.watch import WAIT


def refusal(code: str, status: int = 400) -> ClientError:
    """As boto3 raises it."""
    response: Any = {
        "Error": {"Code": code, "Message": "why"},
        "ResponseMetadata": {"HTTPStatusCode": status},
    }
    return ClientError(response, "Call")


# https://docs.aws.amazon.com/kinesis/latest/APIReference/API_PutRecords.html
_RECORDS = 500
_REQUEST_BYTES = 10 << 20
_KEY_CHARACTERS = 256
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class FakeKinesis:
    """Takes records for the streams that it knows.

    Attributes:
        streams: the status of each; a list of them is gone through, one for each question.
        made: the statuses of a stream that is created.
        raising: raised, or answered where it is a dict, by the next calls.
        refuse: codes with which a record (by its data) is refused, one for each attempt.
        invalid: a request that holds one of these is refused whole.
        requests: (stream, data of each record) of each PutRecords.
        stored: (stream, data, key) of each record taken.
        created: the arguments of each CreateStream.
        asked: how often each stream's status was.
        gate: PutRecords waits for it.
        fail_close: raised by `close`.
        most_at_once: PutRecords of one stream under way together, at most.
    """

    def __init__(self) -> None:
        self.meta = SimpleNamespace(endpoint_url="http://kinesis.test")
        self.streams: dict[str, str | list[str]] = {}
        self.made = ["ACTIVE"]
        self.raising: list[Any] = []
        self.refuse: dict[bytes, list[str]] = {}
        self.invalid: set[bytes] = set()
        self.requests: list[tuple[str, list[bytes]]] = []
        self.stored: list[tuple[str, bytes, str]] = []
        self.created: list[dict[str, Any]] = []
        self.asked: Counter[str] = Counter()
        self.closed = False
        self.fail_close: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.most_at_once: Counter[str] = Counter()
        self._at_once: Counter[str] = Counter()
        self.changed = threading.Condition()

    def put_records(self, *, StreamName: str, Records: list[dict[str, Any]]) -> dict[str, Any]:
        self._check_stream(StreamName)
        data = [record["Data"] for record in Records]
        assert 0 < len(Records) <= _RECORDS, len(Records)
        size = 0
        for record in Records:
            assert record.keys() == {"Data", "PartitionKey"}, record.keys()
            assert isinstance(record["Data"], bytes)
            assert 0 < len(record["PartitionKey"]) <= _KEY_CHARACTERS
            size += len(record["Data"]) + len(record["PartitionKey"].encode())
        assert size <= _REQUEST_BYTES, size
        with self.changed:
            self.requests.append((StreamName, data))
            self._at_once[StreamName] += 1
            self.most_at_once |= self._at_once
            self.changed.notify_all()
        self.gate.wait(WAIT)
        with self.changed:
            self._at_once[StreamName] -= 1
            if (scripted := self._scripted()) is not None:
                return scripted
            if StreamName not in self.streams:
                raise refusal("ResourceNotFoundException")
            if self.invalid & set(data):
                raise refusal("InvalidArgumentException")
            answers: list[dict[str, str]] = []
            for record in Records:
                if codes := self.refuse.get(record["Data"]):
                    answers.append({"ErrorCode": codes.pop(0), "ErrorMessage": "why"})
                else:
                    self.stored.append((StreamName, record["Data"], record["PartitionKey"]))
                    answers.append({"ShardId": "0", "SequenceNumber": str(len(self.stored))})
            failed = sum("ErrorCode" in answer for answer in answers)
            return {"FailedRecordCount": failed, "Records": answers}

    def describe_stream_summary(self, *, StreamName: str) -> dict[str, Any]:
        self._check_stream(StreamName)
        with self.changed:
            self.asked[StreamName] += 1
            if (scripted := self._scripted()) is not None:
                return scripted
            status = self.streams.get(StreamName)
            if status is None:
                raise refusal("ResourceNotFoundException")
            if isinstance(status, list):
                status = status.pop(0) if len(status) > 1 else status[0]
            return {"StreamDescriptionSummary": {"StreamStatus": status}}

    def create_stream(self, **arguments: Any) -> dict[str, Any]:
        self._check_stream(arguments["StreamName"])
        mode = arguments["StreamModeDetails"]
        provisioned = mode == {"StreamMode": "PROVISIONED"}
        assert provisioned or mode == {"StreamMode": "ON_DEMAND"}, mode
        assert ("ShardCount" in arguments) == provisioned, arguments
        assert arguments.keys() <= {"StreamName", "StreamModeDetails", "ShardCount"}, arguments
        with self.changed:
            if (scripted := self._scripted()) is not None:
                return scripted
            self.created.append(arguments)
            self.streams[arguments["StreamName"]] = list(self.made)
            return {}

    def close(self) -> None:
        self.closed = True
        if self.fail_close:
            raise self.fail_close

    def wait_for_requests(self, number: int) -> None:
        """Wait until so many PutRecords were begun."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.requests) >= number, WAIT)

    def _check_stream(self, name: str) -> None:
        assert _NAME.fullmatch(name), name

    def _scripted(self) -> dict[str, Any] | None:
        if not self.raising:
            return None
        scripted = self.raising.pop(0)
        if isinstance(scripted, Exception):
            raise scripted
        return dict(scripted)
