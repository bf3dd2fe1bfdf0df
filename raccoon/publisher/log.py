"""Events to Raccoon's own log, one line each: for a first try and for development."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from zope.interface import implementer

from raccoon.interfaces import IPublisher
from raccoon.payload import show
from raccoon.publisher import PublisherContext
from raccoon.request import CollectRequest

_log = logging.getLogger(__name__)


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
