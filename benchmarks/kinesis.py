"""The Kinesis publisher against one PutRecord for each event, the Go server's way, on one moto.

    python -m benchmarks.kinesis [--events N] [--size BYTES] [--workers N]

moto answers one call at a time, so this compares the number of calls and what each costs, not what
AWS would give.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor

from raccoon.config import load
from raccoon.messages import Batch, Identifier
from raccoon.metrics.registry import Metrics
from raccoon.publisher import PublisherContext
from raccoon.publisher.kinesis.publisher import KinesisPublisher
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor
from tests.engines.kinesis import KinesisServer

_PER_REQUEST = 10
_SHARDS = 4


def publisher(server: KinesisServer, stream: str, payloads: list[bytes]) -> float:
    """Seconds that the publisher takes, for requests of 10 events."""
    os.environ.update(server.environment())
    options = {"PUBLISHER_TYPE": "kinesis", "EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "%s"}
    settings = load({}, options)
    metrics = Metrics()
    kinesis = KinesisPublisher(PublisherContext(settings, metrics, Supervisor(metrics)))
    kinesis.start()
    cut = range(0, len(payloads), _PER_REQUEST)
    batches = [payloads[start : start + _PER_REQUEST] for start in cut]
    requests = [
        CollectRequest(
            Identifier("client", "group"),
            Batch(str(number), None, [stream] * len(events), events),
            0.0,
        )
        for number, events in enumerate(batches)
    ]
    began = time.perf_counter()
    outcomes = kinesis.publish(requests)
    failed = [one for one in outcomes if (one.result() if isinstance(one, Future) else one)]
    took = time.perf_counter() - began
    if kinesis.close(5) or failed:
        raise SystemExit(f"{len(failed)} requests failed")
    return took


def one_by_one(server: KinesisServer, stream: str, payloads: list[bytes], workers: int) -> float:
    """Seconds that a PutRecord for each event takes, by so many threads at once."""
    client = server.client()

    def put(payload: bytes) -> None:
        client.put_record(StreamName=stream, Data=payload, PartitionKey=str(hash(payload)))

    with ThreadPoolExecutor(workers) as pool:
        began = time.perf_counter()
        list(pool.map(put, payloads))
        return time.perf_counter() - began


def main() -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kinesis", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--size", type=int, default=200, help="bytes of an event")
    parser.add_argument("--workers", type=int, default=5, help="for one PutRecord an event")
    options = parser.parse_args()
    payloads = [(b"%09d" % i).ljust(options.size, b"x") for i in range(options.events)]
    with KinesisServer() as server:
        for stream in ("publisher", "one-by-one"):
            server.create_stream(stream, _SHARDS)
        ours = publisher(server, "publisher", payloads)
        theirs = one_by_one(server, "one-by-one", payloads, options.workers)
        for stream in ("publisher", "one-by-one"):
            if sorted(data for _, data in server.read([stream])) != payloads:
                raise SystemExit(f"the stream {stream} does not hold each event once")
    for name, took in (("publisher", ours), ("one PutRecord an event", theirs)):
        sys.stdout.write(f"{name}: {took:.2f} s, {options.events / took:,.0f} events/s\n")
    sys.stdout.write(f"{theirs / ours:.0f} times as fast\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
