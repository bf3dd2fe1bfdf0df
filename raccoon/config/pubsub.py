"""Options of the Pub/Sub publisher."""

from __future__ import annotations

from typing import Any, cast

import attrs

from raccoon.config.options import COUNT, MILLISECONDS, boolean, integer, option, text

# What Pub/Sub takes: 10 minutes to 31 days.
_some_retention = integer(600_000, 2_678_400_000)


def _retention(value: Any) -> int:
    try:
        return 0 if str(value) == "0" else cast(int, _some_retention(value))
    except ValueError as error:
        raise ValueError(f"0, or {error}") from None


@attrs.frozen(kw_only=True)
class PubSubSettings:
    """Google Pub/Sub."""

    credentials: str = option(
        "PUBLISHER_PUBSUB_CREDENTIALS",
        "",
        "credentials file; if unset, GOOGLE_APPLICATION_CREDENTIALS, else the machine's own",
        text,
    )
    application_credentials: str = option(
        "GOOGLE_APPLICATION_CREDENTIALS",
        "",
        "credentials file, the variable that Google's clients read",
        text,
    )
    emulator_host: str = option(
        "PUBSUB_EMULATOR_HOST", "", "host:port of an emulator, used without credentials", text
    )
    project_id: str = option(
        "PUBLISHER_PUBSUB_PROJECT_ID", "", "project that owns the topics", text
    )
    topic_autocreate: bool = option(
        "PUBLISHER_PUBSUB_TOPIC_AUTOCREATE", False, "create missing topics", boolean
    )
    topic_retention_ms: int = option(
        "PUBLISHER_PUBSUB_TOPIC_RETENTION_MS",
        0,
        "message retention of created topics; 0: none",
        _retention,
    )
    publish_delay_threshold_ms: int = option(
        "PUBLISHER_PUBSUB_PUBLISH_DELAY_THRESHOLD_MS",
        10,
        "maximum wait of a batch for further events",
        MILLISECONDS,
    )
    publish_count_threshold: int = option(
        "PUBLISHER_PUBSUB_PUBLISH_COUNT_THRESHOLD",
        100,
        "maximum number of events in a batch",
        integer(1, 1000),
    )
    publish_byte_threshold: int = option(
        "PUBLISHER_PUBSUB_PUBLISH_BYTE_THRESHOLD", 1_000_000, "maximum size of a batch", COUNT
    )
    publish_timeout_ms: int = option(
        "PUBLISHER_PUBSUB_PUBLISH_TIMEOUT_MS", 60_000, "deadline of a publish", MILLISECONDS
    )
