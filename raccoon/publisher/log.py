"""Events to Raccoon's own log, one line each: for a first try and for development."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import orjson
from zope.interface import implementer

from raccoon.collector import CollectRequest
from raccoon.interfaces import IPublisher
from raccoon.publisher import PublisherContext
from raccoon.publisher.rawproto import render

_LENGTH = 1000
_log = logging.getLogger(__name__)


def show(payload: bytes) -> tuple[str, str]:
    """An event's bytes for a person: (form, text), the text of at most 1,000 characters.

    JSON as it is, else protobuf field by field, else hex.
    """
    try:
        form, text = "json", orjson.dumps(orjson.loads(payload)).decode()
    except orjson.JSONDecodeError:
        fields = render(payload)
        form, text = ("hex", payload.hex()) if fields is None else ("protobuf", "{" + fields + "}")
    return form, text if len(text) <= _LENGTH else text[:_LENGTH] + "…"


@implementer(IPublisher)
class LogPublisher:
    """Writes each event to the log and confirms it."""

    name = "log"
    destination = "this log, one line an event"
    reachable = True

    def __init__(self, context: PublisherContext) -> None:
        self._context = context

    def start(self) -> None:
        """Nothing to open."""

    def publish(self, requests: Sequence[CollectRequest]) -> list[None]:
        """Write every event of every request."""
        for request in requests:
            for event_type, payload in zip(request.types, request.payloads, strict=True):
                form, text = show(payload)
                fields = {
                    "topic": self._context.route(event_type),
                    "type": event_type,
                    "size": len(payload),
                    "form": form,
                }
                _log.info("event %s", text, extra={"fields": fields})
        return [None] * len(requests)

    def close(self, timeout: float) -> int:
        """Nothing is ever left."""
        return 0
