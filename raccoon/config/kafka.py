"""Options of the Kafka publisher."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from raccoon.config.options import COUNT, MILLISECONDS, option

KAFKA_CLIENT_PREFIX = "PUBLISHER_KAFKA_CLIENT_"


@attrs.frozen(kw_only=True)
class KafkaSettings:
    """Apache Kafka."""

    client: Mapping[str, str] = attrs.field(factory=dict)
    flush_interval_ms: int = option(
        "PUBLISHER_KAFKA_FLUSH_INTERVAL_MS", 1000, "at shutdown, time to flush", MILLISECONDS
    )
    delivery_channel_size: int = option(
        "PUBLISHER_KAFKA_DELIVERY_CHANNEL_SIZE", 10, "no effect; accepted for compatibility", COUNT
    )
