"""Options of the Kinesis publisher."""

from __future__ import annotations

import attrs

from raccoon.config.options import MILLISECONDS, boolean, choice, integer, option, text


@attrs.frozen(kw_only=True)
class KinesisSettings:
    """Amazon Kinesis."""

    aws_region: str = option(
        "PUBLISHER_KINESIS_AWS_REGION", "", "region; else AWS_REGION or the shared file", text
    )
    credentials: str = option(
        "PUBLISHER_KINESIS_CREDENTIALS", "", "credentials file; else ambient", text
    )
    stream_autocreate: bool = option(
        "PUBLISHER_KINESIS_STREAM_AUTOCREATE", False, "create missing streams", boolean
    )
    stream_mode: str = option(
        "PUBLISHER_KINESIS_STREAM_MODE",
        "ON_DEMAND",
        "mode of created streams",
        choice("ON_DEMAND", "PROVISIONED"),
    )
    stream_shards: int = option(
        "PUBLISHER_KINESIS_STREAM_SHARDS", 4, "shards of created streams", integer(1, 10_000)
    )
    stream_probe_interval_ms: int = option(
        "PUBLISHER_KINESIS_STREAM_PROBE_INTERVAL_MS", 1000, "between status checks", MILLISECONDS
    )
    publish_timeout_ms: int = option(
        "PUBLISHER_KINESIS_PUBLISH_TIMEOUT_MS", 60_000, "deadline of a publish", MILLISECONDS
    )
