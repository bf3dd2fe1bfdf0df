"""Options of the queue between the listeners and the publisher."""

from __future__ import annotations

import attrs

from raccoon.config.options import BYTES, COUNT, MILLISECONDS, integer, option


@attrs.frozen(kw_only=True)
class WorkerSettings:
    """The queue between the listeners and the publisher."""

    buffer_channel_size: int = option(
        "WORKER_BUFFER_CHANNEL_SIZE",
        100,
        "requests waiting for a worker; at EVENT_ACK=2 only their bytes are bounded",
        COUNT,
    )
    buffer_max_bytes: int = option(
        "WORKER_BUFFER_MAX_BYTES",
        67_108_864,
        "memory of all requests accepted and not yet delivered",
        BYTES,
    )
    buffer_flush_timeout_ms: int = option(
        "WORKER_BUFFER_FLUSH_TIMEOUT_MS", 5000, "at shutdown, for what is queued", MILLISECONDS
    )
    pool_size: int = option(
        "WORKER_POOL_SIZE", 5, "publishes in flight, each with a thread", integer(1, 1000)
    )
    group_max_requests: int = option(
        "WORKER_GROUP_MAX_REQUESTS", 1000, "requests that one publish takes together", COUNT
    )
    kafka_delivery_channel_size: int = option(
        "WORKER_KAFKA_DELIVERY_CHANNEL_SIZE", 10, "accepted for compatibility", COUNT
    )
