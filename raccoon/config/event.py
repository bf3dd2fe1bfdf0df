"""Options of acknowledgement and routing."""

from __future__ import annotations

from typing import Any, cast

import attrs

from raccoon.config.options import boolean, choice, option, regex, text


def _ack(value: Any) -> int:
    return int(cast(str, choice("0", "1", "2")(value)))


@attrs.frozen(kw_only=True)
class EventSettings:
    """Acknowledgement and routing."""

    ack: int = option(
        "EVENT_ACK",
        0,
        "when to answer a request: 0: once it is accepted; 1: once all its events are delivered;"
        " 2: once it is synced to the journal on disk, which delivers it later",
        _ack,
    )
    distribution_publisher_pattern: str = option(
        "EVENT_DISTRIBUTION_PUBLISHER_PATTERN",
        "clickstream-%s-log",
        "name of the topic or stream; the first %s is replaced by the event's type",
        text,
    )
    type_pattern: str = option(
        "EVENT_TYPE_PATTERN",
        "[A-Za-z0-9._-]{0,120}",
        "pattern that an event's type must match if the publisher pattern contains %s",
        regex,
    )
    partition_key: str = option(
        "EVENT_PARTITION_KEY",
        "none",
        "key that keeps events in order: connection (group and id), type, or request (req_guid)",
        choice("none", "connection", "type", "request"),
    )
    metadata_enabled: bool = option(
        "EVENT_METADATA_ENABLED",
        False,
        "send the req_guid, index, group and receive time along with each event",
        boolean,
    )
