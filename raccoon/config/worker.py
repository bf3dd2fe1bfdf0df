"""Options of the queue between the listeners and the publisher."""

from __future__ import annotations

import attrs

from raccoon.config.options import BYTES, COUNT, MILLISECONDS, integer, option


@attrs.frozen(kw_only=True)
class WorkerSettings:
    """Queue between the listeners and the publisher."""

    buffer_channel_size: int = option(
        "WORKER_BUFFER_CHANNEL_SIZE",
        100,
        "requests waiting to be published; not a bound at EVENT_ACK=2, where only bytes count",
        COUNT,
    )
    buffer_max_bytes: int = option(
        "WORKER_BUFFER_MAX_BYTES",
        67_108_864,
        "maximum memory of all requests accepted and not yet delivered",
        BYTES,
    )
    buffer_flush_timeout_ms: int = option(
        "WORKER_BUFFER_FLUSH_TIMEOUT_MS",
        5000,
        "at shutdown, time to deliver the queued requests",
        MILLISECONDS,
    )
    pool_size: int = option(
        "WORKER_POOL_SIZE",
        5,
        "maximum number of concurrent publishes; each takes a thread",
        integer(1, 1000),
    )
    group_max_requests: int = option(
        "WORKER_GROUP_MAX_REQUESTS", 1000, "maximum number of requests in one publish", COUNT
    )
    kafka_delivery_channel_size: int = option(
        "WORKER_KAFKA_DELIVERY_CHANNEL_SIZE", 10, "no effect; accepted for compatibility", COUNT
    )
