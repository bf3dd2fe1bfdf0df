"""The one table of options: every setting, its spellings, its default and its meaning.

Each attribute of the frozen sections below is one option. Its variable names it; the YAML path
is the same words nested, the flag the same words joined by dots:

    SERVER_WEBSOCKET_PORT = server: {websocket: {port: ...}} = --server.websocket.port
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, cast

import attrs
import yaml

from raccoon.errors import ConfigError

KAFKA_CLIENT_PREFIX = "PUBLISHER_KAFKA_CLIENT_"
_SECRET_WORDS = (
    "password",
    "passphrase",
    "secret",
    "private.key",
    "ssl.key",
    "sasl.jaas",
    "token",
    "keystore",
)
MASK = "********"

# What Pub/Sub takes: 10 minutes to 31 days.
_PUBSUB_RETENTION = (600_000, 2_678_400_000)

_MAX_WORKERS = 256

# Bytes of memory that a request, each of its events and each of their types are charged with
# besides the payloads.
REQUEST_OVERHEAD = 1024
EVENT_OVERHEAD = 128
TYPE_OVERHEAD = 128

Parser = Callable[[Any], Any]


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise ValueError("true, false, 1 or 0")


def _text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        raise ValueError("a text")
    return str(value)


def _list(value: Any) -> tuple[str, ...]:
    if isinstance(value, (list, tuple)):
        return tuple(str(item).strip() for item in value)
    if isinstance(value, dict):
        raise ValueError("a comma-separated list")
    return tuple(item.strip() for item in str(value).split(",") if item.strip())


def _integer(low: int, high: int) -> Parser:
    def parse(value: Any) -> int:
        try:
            if isinstance(value, (bool, float)):
                raise ValueError
            number = int(str(value))
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return number

    return parse


def _choice(*allowed: str) -> Parser:
    def parse(value: Any) -> str:
        text = str(value).strip()
        for candidate in allowed:
            if text.lower() == candidate.lower():
                return candidate
        raise ValueError("one of " + ", ".join(allowed))

    return parse


def _ack(value: Any) -> int:
    return int(cast(str, _choice("0", "1", "2")(value)))


def _regex(value: Any) -> str:
    try:
        re.compile(str(value))
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from None
    return str(value)


def _header(value: Any) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]*", str(value)):
        raise ValueError("the name of an HTTP header")
    return str(value)


def _required_header(value: Any) -> str:
    if not _header(value):
        raise ValueError("the name of an HTTP header")
    return str(value)


def _udp_address(value: Any) -> str:
    found = re.fullmatch(r"(?:[A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\]):(\d{1,5})", str(value))
    if found is None or not 0 < int(found[1]) <= 65535:
        raise ValueError("host:port")
    return str(value)


def _processes(value: Any) -> int:
    if str(value).strip().lower() == "auto":
        return len(os.sched_getaffinity(0))
    try:
        return cast(int, _integer(1, _MAX_WORKERS)(value))
    except ValueError as error:
        raise ValueError(f"auto, or {error}") from None


_PORT = _integer(0, 65535)
_MILLISECONDS = _integer(0, 7 * 24 * 3600 * 1000)
_COUNT = _integer(1, 100_000_000)
_BYTES = _integer(1024, 1 << 40)


def _option(variable: str, default: Any, meaning: str, parse: Parser) -> Any:
    return attrs.field(
        default=default,
        metadata={"variable": variable, "meaning": meaning, "parse": parse},
    )


@attrs.frozen(kw_only=True)
class ServerSettings:
    """The processes that serve.

    Attributes:
        index: which of them this is, from 0; stays when one is replaced.
    """

    workers: int = _option(
        "SERVER_WORKERS",
        1,
        "processes that serve, each on a core of its own; auto: one for each core",
        _processes,
    )
    index: int = 0


@attrs.frozen(kw_only=True)
class WebSocketSettings:
    """The HTTP port and the WebSocket connections on it."""

    port: int = _option("SERVER_WEBSOCKET_PORT", 8080, "HTTP port (REST and WebSocket)", _PORT)
    max_conn: int = _option(
        "SERVER_WEBSOCKET_MAX_CONN", 30000, "live WebSocket connections at most", _COUNT
    )
    read_buffer_size: int = _option(
        "SERVER_WEBSOCKET_READ_BUFFER_SIZE", 10240, "accepted for compatibility", _COUNT
    )
    write_buffer_size: int = _option(
        "SERVER_WEBSOCKET_WRITE_BUFFER_SIZE", 10240, "accepted for compatibility", _COUNT
    )
    conn_id_header: str = _option(
        "SERVER_WEBSOCKET_CONN_ID_HEADER",
        "X-User-ID",
        "header (gRPC: metadata key) that identifies a client",
        _required_header,
    )
    conn_group_header: str = _option(
        "SERVER_WEBSOCKET_CONN_GROUP_HEADER", "", "header that names a client's group", _header
    )
    conn_group_default: str = _option(
        "SERVER_WEBSOCKET_CONN_GROUP_DEFAULT",
        "--default--",
        "group of a client without that header",
        _text,
    )
    ping_interval_ms: int = _option(
        "SERVER_WEBSOCKET_PING_INTERVAL_MS",
        30000,
        "a ping to each WebSocket client this often",
        _integer(10, 3_600_000),
    )
    pong_wait_interval_ms: int = _option(
        "SERVER_WEBSOCKET_PONG_WAIT_INTERVAL_MS",
        60000,
        "a client from which no pong came for this long is dropped",
        _integer(10, 3_600_000),
    )
    write_wait_interval_ms: int = _option(
        "SERVER_WEBSOCKET_WRITE_WAIT_INTERVAL_MS",
        5000,
        "a client that does not read its answers for this long is dropped",
        _integer(10, 3_600_000),
    )
    pinger_size: int = _option(
        "SERVER_WEBSOCKET_PINGER_SIZE", 1, "accepted for compatibility", _COUNT
    )
    check_origin: bool = _option(
        "SERVER_WEBSOCKET_CHECK_ORIGIN",
        True,
        "refuse an upgrade whose Origin is another host",
        _boolean,
    )
    dedup_enabled: bool = _option(
        "SERVER_BATCH_DEDUP_IN_CONNECTION_ENABLED",
        False,
        "answer a req_guid seen before on the same connection without publishing it again",
        _boolean,
    )
    dedup_max_guids: int = _option(
        "SERVER_BATCH_DEDUP_MAX_GUIDS",
        1000,
        "the latest guids that each connection remembers",
        _COUNT,
    )


@attrs.frozen(kw_only=True)
class CorsSettings:
    """Cross-origin requests on the HTTP port."""

    enabled: bool = _option("SERVER_CORS_ENABLED", False, "answer cross-origin requests", _boolean)
    allowed_origin: tuple[str, ...] = _option(
        "SERVER_CORS_ALLOWED_ORIGIN", (), "origins, or * for all", _list
    )
    allowed_methods: tuple[str, ...] = _option(
        "SERVER_CORS_ALLOWED_METHODS", ("GET", "HEAD", "POST", "OPTIONS"), "methods", _list
    )
    allowed_headers: tuple[str, ...] = _option(
        "SERVER_CORS_ALLOWED_HEADERS", (), "request headers", _list
    )
    allow_credentials: bool = _option(
        "SERVER_CORS_ALLOW_CREDENTIALS", False, "allow cookies and authorization", _boolean
    )
    preflight_max_age_seconds: int = _option(
        "SERVER_CORS_PREFLIGHT_MAX_AGE_SECONDS",
        0,
        "how long a browser may keep a preflight (capped at 600)",
        _integer(0, 86_400),
    )


@attrs.frozen(kw_only=True)
class GrpcSettings:
    """The gRPC listener."""

    port: int = _option("SERVER_GRPC_PORT", 8081, "gRPC port", _PORT)
    max_concurrent: int = _option(
        "SERVER_GRPC_MAX_CONCURRENT",
        10_000,
        "calls in progress; further ones get RESOURCE_EXHAUSTED",
        _integer(1, 1_000_000),
    )
    reflection: bool = _option(
        "SERVER_GRPC_REFLECTION_ENABLED", False, "serve gRPC reflection", _boolean
    )


@attrs.frozen(kw_only=True)
class LimitSettings:
    """What one client may send; each refusal names its limit."""

    request_bytes: int = _option(
        "LIMIT_REQUEST_BYTES", 4_194_304, "a body or message, on all protocols", _BYTES
    )
    events: int = _option("LIMIT_EVENTS", 10_000, "events in a request", _COUNT)
    id_length: int = _option(
        "LIMIT_ID_LENGTH", 256, "characters of a connection id or group", _integer(1, 8192)
    )
    guid_length: int = _option(
        "LIMIT_GUID_LENGTH", 256, "characters of a req_guid", _integer(1, 8192)
    )
    json_depth: int = _option(
        "LIMIT_JSON_DEPTH", 32, "nesting of JSON that a request may carry", _integer(1, 200)
    )
    header_bytes: int = _option(
        "LIMIT_HEADER_BYTES", 16_384, "request line and headers together", _integer(1024, 1 << 20)
    )
    headers: int = _option("LIMIT_HEADERS", 100, "headers of a request", _integer(8, 10_000))
    header_timeout_ms: int = _option(
        "LIMIT_HEADER_TIMEOUT_MS", 10_000, "from a request's first byte to its last header", _COUNT
    )
    body_timeout_ms: int = _option(
        "LIMIT_BODY_TIMEOUT_MS", 60_000, "from a request's last header to its last byte", _COUNT
    )
    idle_timeout_ms: int = _option(
        "LIMIT_IDLE_TIMEOUT_MS", 60_000, "an HTTP connection without a request", _COUNT
    )
    http_connections: int = _option(
        "LIMIT_HTTP_CONNECTIONS", 10_000, "open HTTP connections besides WebSocket ones", _COUNT
    )
    in_flight: int = _option(
        "LIMIT_REQUESTS_IN_FLIGHT",
        256,
        "unanswered requests of one WebSocket connection or gRPC stream; past it it is not read",
        _COUNT,
    )


@attrs.frozen(kw_only=True)
class WorkerSettings:
    """The queue between the listeners and the publisher."""

    buffer_channel_size: int = _option(
        "WORKER_BUFFER_CHANNEL_SIZE",
        100,
        "requests waiting for a worker; at EVENT_ACK=2 only their bytes are bounded",
        _COUNT,
    )
    buffer_max_bytes: int = _option(
        "WORKER_BUFFER_MAX_BYTES",
        67_108_864,
        "memory of all requests accepted and not yet delivered",
        _BYTES,
    )
    buffer_flush_timeout_ms: int = _option(
        "WORKER_BUFFER_FLUSH_TIMEOUT_MS", 5000, "at shutdown, for what is queued", _MILLISECONDS
    )
    pool_size: int = _option(
        "WORKER_POOL_SIZE", 5, "publishes in flight, each with a thread", _integer(1, 1000)
    )
    group_max_requests: int = _option(
        "WORKER_GROUP_MAX_REQUESTS", 1000, "requests that one publish takes together", _COUNT
    )
    kafka_delivery_channel_size: int = _option(
        "WORKER_KAFKA_DELIVERY_CHANNEL_SIZE", 10, "accepted for compatibility", _COUNT
    )


@attrs.frozen(kw_only=True)
class EventSettings:
    """Acknowledgement and routing."""

    ack: int = _option(
        "EVENT_ACK",
        0,
        "answer a request 0: when it is accepted; 1: when every event is delivered; 2: when it is"
        " in the journal on disk, from where it is delivered whatever happens",
        _ack,
    )
    distribution_publisher_pattern: str = _option(
        "EVENT_DISTRIBUTION_PUBLISHER_PATTERN",
        "clickstream-%s-log",
        "topic or stream; the first %s is replaced by the event's type",
        _text,
    )
    type_pattern: str = _option(
        "EVENT_TYPE_PATTERN",
        "[A-Za-z0-9._-]{0,120}",
        "what an event's type must match where the routing pattern uses it",
        _regex,
    )
    partition_key: str = _option(
        "EVENT_PARTITION_KEY",
        "none",
        "what keeps events in order at the destination: none, connection (group and id), type,"
        " or request (req_guid)",
        _choice("none", "connection", "type", "request"),
    )
    metadata_enabled: bool = _option(
        "EVENT_METADATA_ENABLED",
        False,
        "send each event's req_guid, index, group and receive time with it",
        _boolean,
    )


@attrs.frozen(kw_only=True)
class JournalSettings:
    """Requests on local disk until they are delivered."""

    enabled: str = _option(
        "JOURNAL_ENABLED",
        "auto",
        "true, false, or auto: where EVENT_ACK is 2. With EVENT_ACK 0 and 1 it keeps what could"
        " not be delivered",
        _choice("auto", "true", "false"),
    )
    dir: str = _option(
        "JOURNAL_DIR", "raccoon-journal", "directory of the journal, on a local disk", _text
    )
    max_bytes: int = _option(
        "JOURNAL_MAX_BYTES",
        4 << 30,
        "of disk, dead letters included; past it requests are refused until there is room",
        _integer(8 << 20, 1 << 44),
    )
    segment_bytes: int = _option(
        "JOURNAL_SEGMENT_BYTES",
        32 << 20,
        "of a file of the journal; disk is given back and damage set aside file by file",
        _integer(1 << 20, 1 << 30),
    )
    commit_delay_ms: int = _option(
        "JOURNAL_COMMIT_DELAY_MS",
        5,
        "a commit waits up to this long, or until 48 requests share it: the busier, the longer",
        _integer(0, 1000),
    )


@attrs.frozen(kw_only=True)
class KafkaSettings:
    """Apache Kafka."""

    client: Mapping[str, str] = attrs.field(factory=dict)
    flush_interval_ms: int = _option(
        "PUBLISHER_KAFKA_FLUSH_INTERVAL_MS", 1000, "flush at shutdown", _MILLISECONDS
    )
    delivery_channel_size: int = _option(
        "PUBLISHER_KAFKA_DELIVERY_CHANNEL_SIZE", 10, "accepted for compatibility", _COUNT
    )


@attrs.frozen(kw_only=True)
class PubSubSettings:
    """Google Pub/Sub."""

    credentials: str = _option(
        "PUBLISHER_PUBSUB_CREDENTIALS",
        "",
        "credentials file; unset: GOOGLE_APPLICATION_CREDENTIALS, else the machine's own",
        _text,
    )
    application_credentials: str = _option(
        "GOOGLE_APPLICATION_CREDENTIALS", "", "credentials file, as Google's clients read it", _text
    )
    emulator_host: str = _option(
        "PUBSUB_EMULATOR_HOST", "", "host:port of an emulator to use, without credentials", _text
    )
    project_id: str = _option("PUBLISHER_PUBSUB_PROJECT_ID", "", "project of the topics", _text)
    topic_autocreate: bool = _option(
        "PUBLISHER_PUBSUB_TOPIC_AUTOCREATE", False, "create missing topics", _boolean
    )
    topic_retention_ms: int = _option(
        "PUBLISHER_PUBSUB_TOPIC_RETENTION_MS",
        0,
        "retention of created topics; 0: none",
        _integer(0, 1 << 40),
    )
    publish_delay_threshold_ms: int = _option(
        "PUBLISHER_PUBSUB_PUBLISH_DELAY_THRESHOLD_MS", 10, "a batch waits this long", _MILLISECONDS
    )
    publish_count_threshold: int = _option(
        "PUBLISHER_PUBSUB_PUBLISH_COUNT_THRESHOLD", 100, "events in a batch", _integer(1, 1000)
    )
    publish_byte_threshold: int = _option(
        "PUBLISHER_PUBSUB_PUBLISH_BYTE_THRESHOLD", 1_000_000, "bytes in a batch", _COUNT
    )
    publish_timeout_ms: int = _option(
        "PUBLISHER_PUBSUB_PUBLISH_TIMEOUT_MS", 60_000, "deadline of a publish", _MILLISECONDS
    )


@attrs.frozen(kw_only=True)
class KinesisSettings:
    """Amazon Kinesis."""

    aws_region: str = _option(
        "PUBLISHER_KINESIS_AWS_REGION", "", "region; else AWS_REGION or the shared file", _text
    )
    credentials: str = _option(
        "PUBLISHER_KINESIS_CREDENTIALS", "", "credentials file; else ambient", _text
    )
    stream_autocreate: bool = _option(
        "PUBLISHER_KINESIS_STREAM_AUTOCREATE", False, "create missing streams", _boolean
    )
    stream_mode: str = _option(
        "PUBLISHER_KINESIS_STREAM_MODE",
        "ON_DEMAND",
        "mode of created streams",
        _choice("ON_DEMAND", "PROVISIONED"),
    )
    stream_shards: int = _option(
        "PUBLISHER_KINESIS_STREAM_SHARDS", 4, "shards of created streams", _integer(1, 10_000)
    )
    stream_probe_interval_ms: int = _option(
        "PUBLISHER_KINESIS_STREAM_PROBE_INTERVAL_MS", 1000, "between status checks", _MILLISECONDS
    )
    publish_timeout_ms: int = _option(
        "PUBLISHER_KINESIS_PUBLISH_TIMEOUT_MS", 60_000, "deadline of a publish", _MILLISECONDS
    )


@attrs.frozen(kw_only=True)
class PublisherSettings:
    """Where events go."""

    type: str = _option(
        "PUBLISHER_TYPE",
        "",
        "kafka, kinesis, log, or the name of an installed publisher; unset: kafka where its"
        " bootstrap servers are set, else log",
        _text,
    )
    kafka: KafkaSettings = attrs.field(factory=KafkaSettings)
    pubsub: PubSubSettings = attrs.field(factory=PubSubSettings)
    kinesis: KinesisSettings = attrs.field(factory=KinesisSettings)


@attrs.frozen(kw_only=True)
class MetricSettings:
    """Where metrics go."""

    runtime_stats_record_interval_ms: int = _option(
        "METRIC_RUNTIME_STATS_RECORD_INTERVAL_MS", 10_000, "process gauges", _integer(10, 3_600_000)
    )
    statsd_enabled: bool = _option(
        "METRIC_STATSD_ENABLED", False, "send metrics to StatsD, with tags as Telegraf's", _boolean
    )
    statsd_address: str = _option(
        "METRIC_STATSD_ADDRESS", ":8125", "host:port of StatsD; no host: localhost", _udp_address
    )
    statsd_flush_period_ms: int = _option(
        "METRIC_STATSD_FLUSH_PERIOD_MS",
        10_000,
        "between two times that metrics are sent to StatsD",
        _integer(10, 3_600_000),
    )
    prometheus_enabled: bool = _option(
        "METRIC_PROMETHEUS_ENABLED", False, "serve metrics to Prometheus", _boolean
    )
    prometheus_path: str = _option("METRIC_PROMETHEUS_PATH", "/metrics", "path", _text)
    prometheus_port: int = _option("METRIC_PROMETHEUS_PORT", 9090, "port", _PORT)
    label_values: int = _option(
        "METRIC_LABEL_VALUES",
        100,
        "distinct values of a label that clients choose; further ones read `other`",
        _integer(1, 100_000),
    )


@attrs.frozen(kw_only=True)
class LogSettings:
    """Raccoon's own log."""

    level: str = _option(
        "LOG_LEVEL",
        "info",
        "debug, info, warn, error, fatal or panic",
        _choice("debug", "info", "warn", "error", "fatal", "panic"),
    )


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


class Option(NamedTuple):
    """One row of the table: a setting's names, default and meaning."""

    variable: str
    default: Any
    meaning: str
    parse: Parser
    section: type[Any]
    attribute: str

    @property
    def flag(self) -> str:
        """The option's flag without the leading dashes."""
        return self.variable.lower().replace("_", ".")

    @property
    def default_shown(self) -> str:
        """The default as people read it."""
        return shown(self.variable, self.default) or "none"


def _walk(section: type[Any]) -> Iterator[Option]:
    attrs.resolve_types(section)
    for field in attrs.fields(section):
        if "variable" in field.metadata:
            meta = field.metadata
            yield Option(
                meta["variable"], field.default, meta["meaning"], meta["parse"], section, field.name
            )
        elif attrs.has(field.type):
            yield from _walk(field.type)


OPTIONS: tuple[Option, ...] = tuple(_walk(Settings))
_BY_VARIABLE = {option.variable: option for option in OPTIONS}
_PREFIXES = tuple({option.variable.split("_")[0] + "_" for option in OPTIONS})


def shown(variable: str, value: Any) -> str:
    """A value as it may be printed: secrets masked, lists as they are written."""
    name = variable.lower().replace("_", ".")
    if value and any(word in name for word in _SECRET_WORDS):
        return MASK
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)


def read_file(path: str) -> dict[str, Any]:
    """The settings of a YAML file, by variable name.

    Raises:
        ConfigError: the file cannot be read, or does not hold a mapping.
    """
    try:
        with open(path, encoding="utf-8") as file:
            document = yaml.safe_load(file)
    except OSError as error:
        raise ConfigError([f"--config {path}: {error.strerror}"]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError([f"--config {path}: not YAML: {reason}"]) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError([f"--config {path}: expected a mapping of sections"])
    found: dict[str, Any] = {}

    def flatten(node: dict[Any, Any], words: tuple[str, ...]) -> None:
        for key, value in node.items():
            path = (*words, str(key))
            if isinstance(value, dict):
                flatten(value, path)
            elif value is not None:
                found["_".join(path).upper().replace(".", "_")] = value

    flatten(document, ())
    return found


def load(
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    path: str | None = None,
) -> Settings:
    """Read the configuration: a flag goes before the environment, that before the file.

    Args:
        flags: given flags, by variable name.
        environment: the process's environment. An empty value counts as unset.
        path: a YAML file, or None.

    Raises:
        ConfigError: holds every problem found, each naming the option, the value and what was
            expected.
    """
    file = read_file(path) if path else {}
    problems: list[str] = []
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    kafka_client: dict[str, str] = {}
    layers: tuple[tuple[str, Mapping[str, Any]], ...] = (
        (f"file {path}", file),
        ("environment", {k: v for k, v in environment.items() if v != ""}),
        ("flag", flags),
    )
    for source, layer in layers:
        for variable, value in layer.items():
            if variable.startswith(KAFKA_CLIENT_PREFIX) and not isinstance(value, (list, tuple)):
                if value is None or value == "":
                    continue
                name = variable.removeprefix(KAFKA_CLIENT_PREFIX).lower().replace("_", ".")
                kafka_client[name] = _kafka_value(value)
                sources[variable] = source
            elif option := _BY_VARIABLE.get(variable):
                if value is None:
                    continue
                try:
                    values[variable] = option.parse(value)
                except ValueError as error:
                    problems.append(
                        f"{variable}: {shown(variable, value)!r} from the {source};"
                        f" expected {error}"
                    )
                sources[variable] = source
            elif source.startswith("file"):
                close = difflib.get_close_matches(variable, _BY_VARIABLE, 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                problems.append(f"{variable}: unknown key in {path}{hint}")
    if problems:
        raise ConfigError(problems)
    settings = cast(Settings, _build(Settings, values, kafka_client, sources))
    if problems := _inconsistencies(settings):
        raise ConfigError(problems)
    return settings


def _kafka_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _build(
    section: type[Any],
    values: Mapping[str, Any],
    kafka_client: Mapping[str, str],
    sources: Mapping[str, str],
) -> Any:
    arguments: dict[str, Any] = {}
    for field in attrs.fields(section):
        variable = field.metadata.get("variable")
        if variable in values:
            arguments[field.name] = values[variable]
        elif attrs.has(field.type):
            arguments[field.name] = _build(field.type, values, kafka_client, sources)
    if section is KafkaSettings:
        arguments["client"] = dict(kafka_client)
    if section is Settings:
        arguments["sources"] = dict(sources)
    return section(**arguments)


def largest_request(limits: LimitSettings) -> int:
    """Bytes of memory that the largest allowed request is charged with."""
    for_events = (EVENT_OVERHEAD + TYPE_OVERHEAD) * limits.events
    return limits.request_bytes + REQUEST_OVERHEAD + for_events


def _inconsistencies(settings: Settings) -> list[str]:
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


def describe(settings: Settings) -> list[str]:
    """The effective configuration, one `VARIABLE=value  # source` a line, secrets masked."""
    lines = []
    for option in OPTIONS:
        value = shown(
            option.variable, getattr(_section(settings, option.section), option.attribute)
        )
        source = settings.sources.get(option.variable, "default")
        lines.append(f"{option.variable}={value}  # {source}")
    for name, value in sorted(settings.publisher.kafka.client.items()):
        variable = KAFKA_CLIENT_PREFIX + name.upper().replace(".", "_")
        lines.append(f"{variable}={shown(variable, value)}  # {settings.sources[variable]}")
    return lines


def _section(settings: Settings, kind: type[Any]) -> Any:
    sections = [settings.publisher.kafka, settings.publisher.pubsub, settings.publisher.kinesis]
    sections += [getattr(settings, field.name) for field in attrs.fields(Settings)]
    return next(section for section in sections if type(section) is kind)


def default_file() -> str | None:
    """`config.yaml` of the working directory where there is one, as in the Go server."""
    return "config.yaml" if os.path.isfile("config.yaml") else None
