"""The whole configuration."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from raccoon.config.cors import CorsSettings
from raccoon.config.event import EventSettings
from raccoon.config.grpc import GrpcSettings
from raccoon.config.journal import JournalSettings
from raccoon.config.limits import LimitSettings, largest_request
from raccoon.config.log import LogSettings
from raccoon.config.metric import MetricSettings
from raccoon.config.options import Option, options_of
from raccoon.config.publisher import PublisherSettings
from raccoon.config.server import ServerSettings
from raccoon.config.websocket import WebSocketSettings
from raccoon.config.worker import WorkerSettings

# What Pub/Sub takes: 10 minutes to 31 days.
_PUBSUB_RETENTION = (600_000, 2_678_400_000)


@attrs.frozen(kw_only=True)
class Settings:
    """The whole configuration, read once."""

    server: ServerSettings = attrs.field(factory=ServerSettings)
    websocket: WebSocketSettings = attrs.field(factory=WebSocketSettings)
    cors: CorsSettings = attrs.field(factory=CorsSettings)
    grpc: GrpcSettings = attrs.field(factory=GrpcSettings)
    limits: LimitSettings = attrs.field(factory=LimitSettings)
    worker: WorkerSettings = attrs.field(factory=WorkerSettings)
    event: EventSettings = attrs.field(factory=EventSettings)
    journal: JournalSettings = attrs.field(factory=JournalSettings)
    publisher: PublisherSettings = attrs.field(factory=PublisherSettings)
    metric: MetricSettings = attrs.field(factory=MetricSettings)
    log: LogSettings = attrs.field(factory=LogSettings)
    sources: Mapping[str, str] = attrs.field(factory=dict)

    @property
    def publisher_type(self) -> str:
        """The publisher in force: the chosen one, or the default of PUBLISHER_TYPE."""
        if self.publisher.type:
            return self.publisher.type
        return "kafka" if "bootstrap.servers" in self.publisher.kafka.client else "log"

    @property
    def journal_enabled(self) -> bool:
        """Whether there is a journal."""
        if self.journal.enabled == "auto":
            return self.event.ack == 2
        return self.journal.enabled == "true"


OPTIONS: tuple[Option, ...] = tuple(options_of(Settings))


def inconsistencies(settings: Settings) -> list[str]:
    problems = []
    if settings.publisher_type == "pubsub" and not settings.publisher.pubsub.project_id:
        problems.append(
            "PUBLISHER_PUBSUB_PROJECT_ID: missing; expected the project of the topics,"
            " as PUBLISHER_TYPE is pubsub"
        )
    retention = settings.publisher.pubsub.topic_retention_ms
    if retention and not _PUBSUB_RETENTION[0] <= retention <= _PUBSUB_RETENTION[1]:
        problems.append(
            f"PUBLISHER_PUBSUB_TOPIC_RETENTION_MS: {retention}; expected 0, or a whole number from"
            f" {_PUBSUB_RETENTION[0]} to {_PUBSUB_RETENTION[1]}"
        )
    if (
        settings.publisher_type == "kafka"
        and "bootstrap.servers" not in settings.publisher.kafka.client
        and "metadata.broker.list" not in settings.publisher.kafka.client
    ):
        problems.append(
            "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS: missing; expected host:port of a broker,"
            " as PUBLISHER_TYPE is kafka"
        )
    largest = largest_request(settings.limits)
    if settings.worker.buffer_max_bytes < largest:
        problems.append(
            f"WORKER_BUFFER_MAX_BYTES: {settings.worker.buffer_max_bytes}; expected at least"
            f" {largest}, for one request of LIMIT_REQUEST_BYTES with LIMIT_EVENTS events"
        )
    if settings.event.ack == 2 and not settings.journal_enabled:
        problems.append("JOURNAL_ENABLED: false; expected true or auto, as EVENT_ACK is 2")
    if not settings.metric.prometheus_path.startswith("/"):
        problems.append(
            f"METRIC_PROMETHEUS_PATH: {settings.metric.prometheus_path!r};"
            " expected a path that begins with /"
        )
    return problems
