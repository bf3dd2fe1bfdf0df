"""Events to Raccoon's own log, one line each: for a first try and for development."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from zope.interface import implementer

from raccoon.errors import PublishError
from raccoon.interfaces import IPublisher
from raccoon.payload import show
from raccoon.publisher import PublisherContext
from raccoon.publisher.base.delivery import Failure, outcome_of
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

    def publish(self, requests: Sequence[CollectRequest]) -> list[PublishError | None]:
        """Write every event of every request; one that cannot be shown fails alone."""
        return [self._write(request) for request in requests]

    def close(self, timeout: float) -> int:
        """Nothing is ever left."""
        return 0

    def _write(self, request: CollectRequest) -> PublishError | None:
        failures = []
        for event_type, payload in zip(request.types, request.payloads, strict=True):
            try:
                form, text = show(payload)
            except Exception as error:
                failure = Failure(f"the event cannot be shown: {error}", lasting=True)
                failures.append((event_type, 1, failure))
                continue
            fields = {
                "topic": self._context.route(event_type),
                "type": event_type,
                "size": len(payload),
                "form": form,
            }
            _log.info("event %s", text, extra={"fields": fields})
        return outcome_of(failures, len(request.types))
