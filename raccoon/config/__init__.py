"""The options: every setting, its three spellings, its default and its meaning.

Each attribute of a section that is made by `option` is one option. Its variable names it; the
YAML path is the same words nested, the flag the same words joined by dots:

    SERVER_WEBSOCKET_PORT = server: {websocket: {port: ...}} = --server.websocket.port
"""

from raccoon.config.cors import CorsSettings
from raccoon.config.event import EventSettings
from raccoon.config.extensions import load_publisher, sections
from raccoon.config.grpc import GrpcSettings
from raccoon.config.journal import JournalSettings
from raccoon.config.kafka import KAFKA_CLIENT_PREFIX, KafkaSettings
from raccoon.config.kinesis import KinesisSettings
from raccoon.config.limits import (
    EVENT_OVERHEAD,
    REQUEST_OVERHEAD,
    TYPE_OVERHEAD,
    LimitSettings,
    largest_request,
)
from raccoon.config.loading import default_file, describe, load
from raccoon.config.log import LogSettings
from raccoon.config.metric import MetricSettings
from raccoon.config.options import (
    MASK,
    REQUIRED,
    Option,
    Parser,
    boolean,
    choice,
    integer,
    listing,
    option,
    options_of,
    shown,
    text,
    title,
    variable_of,
)
from raccoon.config.publisher import PublisherSettings
from raccoon.config.pubsub import PubSubSettings
from raccoon.config.server import ServerSettings
from raccoon.config.settings import OPTIONS, Settings
from raccoon.config.websocket import WebSocketSettings
from raccoon.config.worker import WorkerSettings

__all__ = [
    "EVENT_OVERHEAD",
    "KAFKA_CLIENT_PREFIX",
    "MASK",
    "OPTIONS",
    "REQUEST_OVERHEAD",
    "REQUIRED",
    "TYPE_OVERHEAD",
    "CorsSettings",
    "EventSettings",
    "GrpcSettings",
    "JournalSettings",
    "KafkaSettings",
    "KinesisSettings",
    "LimitSettings",
    "LogSettings",
    "MetricSettings",
    "Option",
    "Parser",
    "PubSubSettings",
    "PublisherSettings",
    "ServerSettings",
    "Settings",
    "WebSocketSettings",
    "WorkerSettings",
    "boolean",
    "choice",
    "default_file",
    "describe",
    "integer",
    "largest_request",
    "listing",
    "load",
    "load_publisher",
    "option",
    "options_of",
    "sections",
    "shown",
    "text",
    "title",
    "variable_of",
]
