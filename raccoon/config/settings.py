"""The whole configuration."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

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

# librdkafka's names for the brokers' addresses.
_BROKERS = frozenset({"bootstrap.servers", "metadata.broker.list"})


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


class Inconsistency(NamedTuple):
    """A problem of several options together.

    Attributes:
        variables: the options that it follows from.
        problem: a line for people.
    """

    variables: frozenset[str]
    problem: str


def inconsistencies(settings: Settings) -> Iterator[Inconsistency]:
    """Where options do not fit together."""
    publisher = settings.publisher
    if settings.publisher_type == "pubsub" and not publisher.pubsub.project_id:
        yield Inconsistency(
            frozenset({"PUBLISHER_PUBSUB_PROJECT_ID", "PUBLISHER_TYPE"}),
            "PUBLISHER_PUBSUB_PROJECT_ID: missing; expected the project that owns the topics,"
            " as PUBLISHER_TYPE is pubsub",
        )
    if settings.publisher_type == "kafka" and not (_BROKERS & publisher.kafka.client.keys()):
        yield Inconsistency(
            frozenset({"PUBLISHER_TYPE"}),
            "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS: missing; expected host:port of a broker,"
            " as PUBLISHER_TYPE is kafka",
        )
    largest = largest_request(settings.limits)
    if settings.worker.buffer_max_bytes < largest:
        yield Inconsistency(
            frozenset({"WORKER_BUFFER_MAX_BYTES", "LIMIT_REQUEST_BYTES", "LIMIT_EVENTS"}),
            f"WORKER_BUFFER_MAX_BYTES: {settings.worker.buffer_max_bytes}; expected at least"
            f" {largest}, for one request of LIMIT_REQUEST_BYTES with LIMIT_EVENTS events",
        )
    if settings.event.ack == 2 and not settings.journal_enabled:
        yield Inconsistency(
            frozenset({"JOURNAL_ENABLED", "EVENT_ACK"}),
            "JOURNAL_ENABLED: false; expected true or auto, as EVENT_ACK is 2",
        )
