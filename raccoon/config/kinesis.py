"""Options of the Kinesis publisher."""

from __future__ import annotations

import attrs

from raccoon.config.options import MILLISECONDS, boolean, choice, integer, option, text


@attrs.frozen(kw_only=True)
class KinesisSettings:
    """Amazon Kinesis."""

    aws_region: str = option(
        "PUBLISHER_KINESIS_AWS_REGION",
        "",
        "region; if unset, AWS_REGION or the shared configuration file",
        text,
    )
    credentials: str = option(
        "PUBLISHER_KINESIS_CREDENTIALS",
        "",
        "credentials file; if unset, the AWS default chain",
        text,
    )
    stream_autocreate: bool = option(
        "PUBLISHER_KINESIS_STREAM_AUTOCREATE", False, "create missing streams", boolean
    )
    stream_mode: str = option(
        "PUBLISHER_KINESIS_STREAM_MODE",
        "ON_DEMAND",
        "capacity mode of created streams",
        choice("ON_DEMAND", "PROVISIONED"),
    )
    stream_shards: int = option(
        "PUBLISHER_KINESIS_STREAM_SHARDS",
        4,
        "number of shards of created streams",
        integer(1, 10_000),
    )
    stream_probe_interval_ms: int = option(
        "PUBLISHER_KINESIS_STREAM_PROBE_INTERVAL_MS",
        1000,
        "interval between checks of a created stream's status",
        MILLISECONDS,
    )
    publish_timeout_ms: int = option(
        "PUBLISHER_KINESIS_PUBLISH_TIMEOUT_MS", 60_000, "deadline of a publish", MILLISECONDS
    )
