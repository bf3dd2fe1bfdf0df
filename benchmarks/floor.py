"""The floor: what producing the same events costs without any server.

    python -m benchmarks.floor BOOTSTRAP TOPIC EVENTS SECONDS

One loop hands librdkafka EVENTS events of 200 bytes at a time, as requests bring them, with a
callable that takes the report of each that failed, without which no server could acknowledge
anything. Prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time

from confluent_kafka import KafkaError, Message, Producer

SIZE = 200
_FLUSH_SECONDS = 30


def produce(bootstrap: str, topic: str, events: int, seconds: float) -> dict[str, float]:
    """Produce for so long; gives events, seconds and CPU seconds, and what failed."""
    payloads = [f"{index}/".encode().ljust(SIZE, b"x") for index in range(events)]
    failed = 0

    def report(_error: KafkaError | None, _message: Message) -> None:
        nonlocal failed
        failed += 1

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "linger.ms": 5,
            "enable.idempotence": True,
            "delivery.report.only.error": True,
        }
    )
    producer.list_topics(topic, timeout=_FLUSH_SECONDS)
    sent = 0
    began, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - began < seconds:
        try:
            for payload in payloads:
                producer.produce(topic, payload, None, -1, report)
                sent += 1
        except BufferError:  # another event is as good as the one that found no room
            producer.poll(0.01)
        else:
            producer.poll(0)
    left = producer.flush(_FLUSH_SECONDS)
    took, used = time.perf_counter() - began, time.process_time() - cpu
    return {
        "events": sent - failed - left,
        "errors": failed + left,
        "seconds": took,
        "cpu_seconds": used,
    }


if __name__ == "__main__":
    address, name, in_batch, duration = sys.argv[1:]
    sys.stdout.write(json.dumps(produce(address, name, int(in_batch), float(duration))) + "\n")
