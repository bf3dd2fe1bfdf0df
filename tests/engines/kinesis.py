"""moto's server as an Amazon Kinesis, as an object for tests and as a command.

    python -m tests.engines.kinesis start [--port P]

runs it in the foreground and prints its address once it answers: the value for AWS_ENDPOINT_URL.
It keeps everything in memory: streams and records end with its process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests.engines.ports import free_port
from tests.engines.process import EngineError, EngineProcess, serve

REGION = "eu-west-1"
_PROJECT = Path(__file__).parents[2]
_READ_SECONDS = 30
_SHARDS = 2
_LOG_TAIL = 2000


class KinesisServer(EngineProcess):
    """A server on 127.0.0.1 whose port outlives its process.

    Args:
        port: where clients connect; a free one is found for None.
    """

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the object

    def start(self) -> None:
        """Start it, empty; returns when it answers.

        Raises:
            EngineError: moto is not installed, or it does not answer.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.engines.kinesis_moto", str(self.port)],
            cwd=_PROJECT,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C in the terminal is for the one who started it
        )
        self._wait_for(self._answers, "moto's server")

    def restart(self) -> None:
        """Kill it and start it again, empty."""
        self.kill()
        self.start()

    def log(self) -> str:
        """The end of what it wrote."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-_LOG_TAIL:]

    def environment(self) -> dict[str, str]:
        """What a client's environment needs to use it, and nothing of the machine's own AWS."""
        return environment(self.endpoint)

    def client(self) -> Any:
        """A boto3 client of it."""
        return client(self.endpoint)

    def create_stream(self, name: str, shards: int = _SHARDS) -> None:
        """Make a stream and wait until it is ACTIVE."""
        kinesis = self.client()
        kinesis.create_stream(StreamName=name, ShardCount=shards)
        deadline = time.monotonic() + _READ_SECONDS
        while self.stream(name)["StreamStatus"] != "ACTIVE":
            if time.monotonic() > deadline:
                raise EngineError(f"stream {name} was not made in time")
            time.sleep(0.05)

    def delete_stream(self, name: str) -> None:
        """Delete a stream."""
        self.client().delete_stream(StreamName=name)

    def stream(self, name: str) -> dict[str, Any]:
        """A stream's own record: StreamStatus, StreamModeDetails, OpenShardCount and others."""
        found: dict[str, Any] = self.client().describe_stream_summary(StreamName=name)
        return dict(found["StreamDescriptionSummary"])

    def streams(self) -> set[str]:
        """The names of all streams."""
        pages = self.client().get_paginator("list_streams").paginate()
        return {name for page in pages for name in page["StreamNames"]}

    def records(self, stream: str) -> list[tuple[str, str, bytes]]:
        """Every record that a stream holds now, as (shard, partition key, data), by shard.

        A missing stream holds none.
        """
        kinesis = self.client()
        found = []
        try:
            shards = kinesis.list_shards(StreamName=stream)["Shards"]
        except kinesis.exceptions.ResourceNotFoundException:
            return []
        for shard in shards:
            place = kinesis.get_shard_iterator(
                StreamName=stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            while place:
                page = kinesis.get_records(ShardIterator=place, Limit=10_000)
                for record in page["Records"]:
                    found.append((shard["ShardId"], record["PartitionKey"], record["Data"]))
                place = page.get("NextShardIterator") if page["Records"] else None
        return found

    def read(self, streams: Iterable[str]) -> list[tuple[str, bytes]]:
        """Every record that the streams hold now, as (stream, data)."""
        return [(stream, data) for stream in streams for _, _, data in self.records(stream)]

    def _answers(self) -> bool:
        try:
            self.client().list_streams()
        except (BotoCoreError, ClientError):
            return False
        return True


def environment(endpoint: str) -> dict[str, str]:
    """What a client's environment needs to use a Kinesis at this address."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def client(endpoint: str) -> Any:
    """A boto3 client of a Kinesis at this address; it does not retry."""
    return boto3.client(
        "kinesis",
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=30),
    )


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.engines.kinesis", description="Run moto's server as a Kinesis."
    )
    commands = parser.add_subparsers(required=True)
    start = commands.add_parser("start", help="run in the foreground until SIGTERM or SIGINT")
    start.add_argument("--port", type=int, help="a free one if not given")
    server = KinesisServer(parser.parse_args(arguments).port)
    return serve(server, server.endpoint)


if __name__ == "__main__":
    sys.exit(main())
