"""What clients send and are answered, in both encodings."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from raccoon.proto.raccoon_pb2 import SendEventRequest, SendEventResponse

NOW = 1_795_492_430.0


def json_body(
    guid: str = "guid", events: Sequence[tuple[str, bytes]] = (("click", b"{}"),)
) -> bytes:
    """A SendEventRequest in the JSON form."""
    return json.dumps(
        {
            "req_guid": guid,
            "sent_time": {"seconds": int(NOW), "nanos": 0},
            "events": [
                {"type": event_type, "event_bytes": b64encode(payload).decode()}
                for event_type, payload in events
            ],
        }
    ).encode()


def protobuf_body(
    guid: str = "guid", events: Sequence[tuple[str, bytes]] = (("click", b"{}"),)
) -> bytes:
    """A SendEventRequest in protobuf."""
    message = SendEventRequest(req_guid=guid)
    message.sent_time.seconds = int(NOW)
    for event_type, payload in events:
        message.events.add(type=event_type, event_bytes=payload)
    return message.SerializeToString()


def read_protobuf(body: bytes) -> dict[str, Any]:
    """A protobuf SendEventResponse, in the terms of the JSON form."""
    message = SendEventResponse.FromString(body)
    document: dict[str, Any] = {
        "status": message.status,
        "code": message.code,
        "sent_time": message.sent_time,
    }
    if message.reason:
        document["reason"] = message.reason
    if message.data:
        document["data"] = dict(message.data)
    return document
