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
        "answer a request 0: when it is accepted; 1: when every event is delivered; 2: when it is"
        " in the journal on disk, from where it is delivered whatever happens",
        _ack,
    )
    distribution_publisher_pattern: str = option(
        "EVENT_DISTRIBUTION_PUBLISHER_PATTERN",
        "clickstream-%s-log",
        "topic or stream; the first %s is replaced by the event's type",
        text,
    )
    type_pattern: str = option(
        "EVENT_TYPE_PATTERN",
        "[A-Za-z0-9._-]{0,120}",
        "what an event's type must match where the routing pattern uses it",
        regex,
    )
    partition_key: str = option(
        "EVENT_PARTITION_KEY",
        "none",
        "what keeps events in order at the destination: none, connection (group and id), type,"
        " or request (req_guid)",
        choice("none", "connection", "type", "request"),
    )
    metadata_enabled: bool = option(
        "EVENT_METADATA_ENABLED",
        False,
        "send each event's req_guid, index, group and receive time with it",
        boolean,
    )
