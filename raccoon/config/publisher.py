"""The choice of a publisher, and the sections of Raccoon's own."""

from __future__ import annotations

import attrs

from raccoon.config.kafka import KafkaSettings
from raccoon.config.kinesis import KinesisSettings
from raccoon.config.options import option, text
from raccoon.config.pubsub import PubSubSettings


@attrs.frozen(kw_only=True)
class PublisherSettings:
    """Where events go."""

    type: str = option(
        "PUBLISHER_TYPE",
        "",
        "kafka, kinesis, log, or the name of an installed publisher; unset: kafka where its"
        " bootstrap servers are set, else log",
        text,
    )
    kafka: KafkaSettings = attrs.field(factory=KafkaSettings)
    pubsub: PubSubSettings = attrs.field(factory=PubSubSettings)
    kinesis: KinesisSettings = attrs.field(factory=KinesisSettings)
