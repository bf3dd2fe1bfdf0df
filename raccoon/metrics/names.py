"""The table of metrics: names and labels that dashboards rely on, and Raccoon's additions."""

from __future__ import annotations

from typing import NamedTuple

COUNTER = "counter"
GAUGE = "gauge"
HISTOGRAM = "histogram"

MILLISECONDS = (1.0, 2.5, 5.0, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
SESSION = (1000.0, 10_000, 100_000, 600_000, 3_600_000)

# Labels whose values a client chooses: each is bounded by METRIC_LABEL_VALUES.
CLIENT_LABELS = frozenset({"conn_group", "event_type", "topic", "stream"})


class Metric(NamedTuple):
    """One metric: its exposed name, kind, labels, meaning and (histograms) buckets."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = MILLISECONDS


_GROUP = ("conn_group",)
_TOPIC = ("topic", "conn_group", "event_type")
_BROKER = ("broker",)
_STREAM = ("stream", "conn_group", "event_type")

METRICS = (
    Metric("server_ping_failure_total", COUNTER, _GROUP, "connections dropped: no pong"),
    Metric("server_pong_failure_total", COUNTER, _GROUP, "pongs that could not be sent"),
    Metric("connections_count_current", GAUGE, _GROUP, "live WebSocket connections"),
    Metric("user_connection_success_total", COUNTER, _GROUP, "WebSocket connections accepted"),
    Metric(
        "user_connection_failure_total",
        COUNTER,
        ("conn_group", "reason"),
        "WebSocket connections refused: ugfailure, exists or serverlimit",
    ),
    Metric(
        "user_session_duration_milliseconds",
        HISTOGRAM,
        _GROUP,
        "life of a WebSocket connection",
        SESSION,
    ),
    Metric("conn_close_err_count", COUNTER, (), "connections that could not be closed"),
    Metric(
        "batches_read_total",
        COUNTER,
        ("status", "reason", "conn_group"),
        "requests read, or failed to be read",
    ),
    Metric("events_rx_total", COUNTER, ("conn_group", "event_type"), "events in requests"),
    Metric(
        "events_rx_bytes_total",
        COUNTER,
        ("conn_group", "event_type"),
        "bytes of events in requests",
    ),
    Metric(
        "events_duplicate_total", COUNTER, ("conn_group", "reason"), "requests that were duplicates"
    ),
    Metric(
        "events_in_duplicates_total",
        COUNTER,
        (),
        "events in those requests, which events_rx_total leaves out",
    ),
    Metric(
        "batch_idle_in_channel_milliseconds",
        HISTOGRAM,
        ("worker",),
        "wait of a request in the queue",
    ),
    Metric("kafka_producebulk_tt_ms", HISTOGRAM, (), "one publish of a group to Kafka"),
    Metric("pubsub_producebulk_tt_ms", HISTOGRAM, (), "one publish of a group to Pub/Sub"),
    Metric("kinesis_producebulk_tt_ms", HISTOGRAM, (), "one publish of a group to Kinesis"),
    Metric("log_producebulk_tt_ms", HISTOGRAM, (), "one publish of a group to the log"),
    Metric("other_producebulk_tt_ms", HISTOGRAM, (), "one publish by an installed publisher"),
    Metric(
        "event_processing_duration_milliseconds",
        HISTOGRAM,
        _GROUP,
        "from the client's sent_time to published",
    ),
    Metric(
        "worker_processing_duration_milliseconds",
        HISTOGRAM,
        ("worker",),
        "from taken off the queue to published",
    ),
    Metric("server_processing_latency_milliseconds", HISTOGRAM, _GROUP, "from read to published"),
    Metric("ack_event_rtt_ms", HISTOGRAM, (), "from published to answered on WebSocket"),
    Metric("event_rtt_ms", HISTOGRAM, (), "from read to answered on WebSocket"),
    Metric("kafka_messages_delivered_total", COUNTER, _TOPIC, "events confirmed by Kafka"),
    Metric("kafka_messages_undelivered_total", COUNTER, _TOPIC, "events that Kafka did not take"),
    Metric(
        "kafka_unknown_topic_failure_total",
        COUNTER,
        ("topic", "event_type", "conn_group"),
        "events for a topic that does not exist",
    ),
    Metric(
        "kafka_message_too_large_total",
        COUNTER,
        _TOPIC,
        "events larger than the broker or topic takes",
    ),
    Metric("pubsub_messages_delivered_total", COUNTER, _TOPIC, "events confirmed by Pub/Sub"),
    Metric("pubsub_messages_undelivered_total", COUNTER, _TOPIC, "events Pub/Sub did not take"),
    Metric(
        "pubsub_unknown_topic_failure_total",
        COUNTER,
        _TOPIC,
        "events for a topic that does not exist",
    ),
    Metric(
        "pubsub_permission_failure_total",
        COUNTER,
        _TOPIC,
        "events that the credentials do not allow",
    ),
    Metric(
        "pubsub_unreachable_failure_total",
        COUNTER,
        _TOPIC,
        "events given up as Pub/Sub did not answer",
    ),
    Metric(
        "pubsub_topic_throughput_exceeded_total",
        COUNTER,
        _TOPIC,
        "events over a quota of publishing until their deadline",
    ),
    Metric(
        "pubsub_topics_limit_exceeded_total",
        COUNTER,
        _TOPIC,
        "events whose topic could not be made: over a quota",
    ),
    Metric("kinesis_messages_delivered_total", COUNTER, _STREAM, "events confirmed by Kinesis"),
    Metric("kinesis_messages_undelivered_total", COUNTER, _STREAM, "events Kinesis did not take"),
    Metric(
        "kinesis_unknown_stream_failure_total",
        COUNTER,
        _STREAM,
        "events for a stream that does not exist",
    ),
    Metric(
        "kinesis_stream_throughput_exceeded_total",
        COUNTER,
        _STREAM,
        "events over the throughput of their stream until their deadline",
    ),
    Metric(
        "kinesis_streams_limit_exceeded_total",
        COUNTER,
        _STREAM,
        "events whose stream could not be made: over the account's limits",
    ),
    Metric(
        "kinesis_message_too_large_total",
        COUNTER,
        _STREAM,
        "events larger than Kinesis or their stream takes",
    ),
    Metric(
        "kinesis_records_sent_again_total",
        COUNTER,
        ("stream",),
        "records that were refused or not answered, and are sent again",
    ),
    Metric("kafka_tx_messages_total", GAUGE, (), "librdkafka: messages sent to brokers"),
    Metric("kafka_tx_messages_bytes_total", GAUGE, (), "librdkafka: bytes of those messages"),
    Metric("kafka_brokers_tx_total", GAUGE, _BROKER, "librdkafka: requests sent to a broker"),
    Metric("kafka_brokers_tx_bytes_total", GAUGE, _BROKER, "librdkafka: bytes sent to a broker"),
    Metric(
        "kafka_brokers_rtt_average_milliseconds",
        GAUGE,
        _BROKER,
        "librdkafka: round trip to a broker in the last interval that had one",
    ),
    Metric(
        "requests_refused_total",
        COUNTER,
        ("reason",),
        "requests refused: overloaded, or journal where it is full or cannot be written",
    ),
    Metric("events_refused_total", COUNTER, ("reason",), "events in refused requests"),
    Metric("events_delivered_total", COUNTER, (), "events whose request was confirmed"),
    Metric("events_failed_total", COUNTER, (), "events whose delivery failed"),
    Metric("events_waiting_current", GAUGE, (), "events accepted and without an outcome"),
    Metric("requests_waiting_current", GAUGE, (), "requests accepted and without an outcome"),
    Metric(
        "queue_fullness_current", GAUGE, (), "0 to 1: how much of the room for requests is taken"
    ),
    Metric("ready_current", GAUGE, (), "1 where /readyz says so, else 0"),
    Metric(
        "supervised_failures_total",
        COUNTER,
        ("name",),
        "failures of a thread, loop or callback that must not end in silence",
    ),
    Metric("connections_limit_current", GAUGE, (), "live WebSocket connections at most"),
    Metric("journal_requests_current", GAUGE, (), "requests that wait in the journal alone"),
    Metric("journal_events_current", GAUGE, (), "events of those requests"),
    Metric("journal_bytes_current", GAUGE, (), "bytes of disk that waiting requests take"),
    Metric(
        "journal_oldest_age_seconds_current", GAUGE, (), "age of the oldest request waiting there"
    ),
    Metric("journal_commit_ms", HISTOGRAM, (), "one commit of the journal"),
    Metric(
        "journal_recovered_events_total",
        COUNTER,
        (),
        "events found waiting at the start, or taken back from the dead letters",
    ),
    Metric(
        "journal_replayed_events_total", COUNTER, (), "events delivered after a wait in the journal"
    ),
    Metric("journal_dead_lettered_events_total", COUNTER, (), "events that can never be delivered"),
    Metric("journal_dead_letters_current", GAUGE, (), "requests in the dead letters"),
    Metric("journal_dead_letters_bytes_current", GAUGE, (), "bytes of disk that they take"),
    Metric(
        "journal_postponed_requests_current",
        GAUGE,
        (),
        "undeliverable requests in the journal that the dead letters have no room for",
    ),
    Metric("journal_lost_events_total", COUNTER, (), "events in damaged files, unreadable"),
    Metric("journal_segments_damaged_total", COUNTER, (), "files of the journal set aside"),
    Metric("events_left_at_shutdown_current", GAUGE, (), "events undelivered when the flush ended"),
    Metric("destination_reachable_current", GAUGE, (), "1 where the destination answers, else 0"),
    Metric("reactor_lateness_milliseconds", HISTOGRAM, (), "how late the reactor ran a timer"),
    Metric("server_go_routines_count_current", GAUGE, (), "threads of the process"),
    Metric("server_mem_heap_alloc_bytes_current", GAUGE, (), "resident bytes of the process"),
    Metric("server_mem_gc_count_current", GAUGE, (), "garbage collections so far"),
    Metric("server_open_files_current", GAUGE, (), "open file descriptors"),
)
