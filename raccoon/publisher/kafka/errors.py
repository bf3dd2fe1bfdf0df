"""Kafka's errors, by what they mean for an event."""

from __future__ import annotations

from confluent_kafka import KafkaError

UNKNOWN_TOPIC = frozenset(
    {
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.TOPIC_EXCEPTION,
    }
)
TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_MSG_SIZE})
# No attempt can ever deliver the event.
LASTING = UNKNOWN_TOPIC | TOO_LARGE
PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})

# Our own.
STILL_MISSING = KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)
NOT_A_TOPIC_NAME = KafkaError(KafkaError.TOPIC_EXCEPTION)
TOO_MANY_TOPICS = KafkaError(KafkaError._QUEUE_FULL, "too many new event types at once, retry")
INTERRUPTED = KafkaError(KafkaError._FAIL, "it could not be handed over, retry")
NOT_SENT_ALONE = KafkaError(
    KafkaError._QUEUE_FULL, "its batch was too large, and it could not be sent alone yet, retry"
)


def text(error: KafkaError) -> str:
    """An error in librdkafka's words."""
    return str(error.str())
