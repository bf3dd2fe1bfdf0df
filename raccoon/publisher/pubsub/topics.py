"""Whether a Pub/Sub topic is there, and why events for it fail."""

from __future__ import annotations

import logging

from grpc import StatusCode

from raccoon.config import PubSubSettings
from raccoon.publisher.base.delivery import CLOSED, Failure
from raccoon.publisher.pubsub.client import (
    ClosedError,
    NoAnswerError,
    PubSubClient,
    RefusedError,
)

_log = logging.getLogger(__name__)

_UNKNOWN_TOPIC = "pubsub_unknown_topic_failure_total"
_NOT_ALLOWED = "pubsub_permission_failure_total"
_UNREACHABLE = "pubsub_unreachable_failure_total"
_THROUGHPUT = "pubsub_topic_throughput_exceeded_total"
_TOPICS_LIMIT = "pubsub_topics_limit_exceeded_total"

_NO_ANSWER = Failure("Pub/Sub is unreachable", _UNREACHABLE)


class TopicCheck:
    """Asks, blocking, for one topic at a time.

    Args:
        client: to ask.
        settings: whether missing topics are made.
    """

    def __init__(self, client: PubSubClient, settings: PubSubSettings) -> None:
        self._client = client
        self._autocreate = settings.topic_autocreate

    def check(self, path: str, deadline: float) -> tuple[Failure | None, bool]:
        """Ask for a topic; makes it where that is asked for.

        Returns:
            None, or why events for it fail; and whether that holds for a while.
        """
        try:
            self._client.check_topic(path, deadline)
        except RefusedError as error:
            if error.code in (StatusCode.PERMISSION_DENIED, StatusCode.RESOURCE_EXHAUSTED):
                # An account may be allowed to publish and not to ask: publishing will tell.
                return None, True
            if error.code is StatusCode.NOT_FOUND and self._autocreate:
                return self.make(path, deadline)
            if error.code is StatusCode.INVALID_ARGUMENT:  # of its only argument, the name
                return _does_not_exist(path, error), True
            return failure_of(path, error), True
        except (NoAnswerError, ClosedError) as error:
            return failure_of(path, error), False
        return None, True

    def make(self, path: str, deadline: float) -> tuple[Failure | None, bool]:
        """Make a topic that was not there; returns as `check` does."""
        try:
            self._client.create_topic(path, deadline)
        except RefusedError as error:
            if error.code is StatusCode.ALREADY_EXISTS:
                return None, True
            if error.code is StatusCode.RESOURCE_EXHAUSTED:
                reason = f"topic {_name(path)} cannot be made, quota exceeded: {error}"
                return Failure(reason, _TOPICS_LIMIT), True
            return failure_of(path, error), True
        except (NoAnswerError, ClosedError) as error:
            return failure_of(path, error), False
        _log.info("topic %s was made", _name(path))
        return None, True


def failure_of(path: str, error: Exception) -> Failure:
    """What becomes of events for this topic."""
    if isinstance(error, ClosedError):
        return CLOSED
    if isinstance(error, NoAnswerError):
        return _NO_ANSWER
    code = error.code if isinstance(error, RefusedError) else None
    if code is StatusCode.NOT_FOUND:
        return _does_not_exist(path, error)
    if code is StatusCode.RESOURCE_EXHAUSTED:
        return Failure(f"topic {_name(path)}: quota exceeded: {error}", _THROUGHPUT)
    if code in (StatusCode.PERMISSION_DENIED, StatusCode.UNAUTHENTICATED):
        return Failure(f"topic {_name(path)}: not allowed: {error}", _NOT_ALLOWED)
    return Failure(
        f"topic {_name(path)}: {error or type(error).__name__}",
        lasting=code is StatusCode.INVALID_ARGUMENT,
    )


def _does_not_exist(path: str, error: Exception) -> Failure:
    reason = f"topic {_name(path)} does not exist: {error}"
    return Failure(reason, _UNKNOWN_TOPIC, lasting=True, missing=True)


def _name(path: str) -> str:
    return path.rpartition("/")[2]
