"""The choice of a publisher, and the sections of Raccoon's own."""

from __future__ import annotations

from typing import Any

import attrs

from raccoon.config.kafka import KafkaSettings
from raccoon.config.kinesis import KinesisSettings
from raccoon.config.options import option, text
from raccoon.config.pubsub import PubSubSettings


@attrs.frozen(kw_only=True)
class PublisherSettings:
    """Destination of events.

    Attributes:
        own: the section that the chosen publisher declares, where it is of another package.
    """

    type: str = option(
        "PUBLISHER_TYPE",
        "",
        "kafka, kinesis, log, pubsub, or the name of another installed publisher; if unset, kafka"
        " if its bootstrap servers are set, else log",
        text,
    )
    kafka: KafkaSettings = attrs.field(factory=KafkaSettings)
    pubsub: PubSubSettings = attrs.field(factory=PubSubSettings)
    kinesis: KinesisSettings = attrs.field(factory=KinesisSettings)
    own: Any = None
