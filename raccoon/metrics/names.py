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
        "batch_idle_in_channel_milliseconds",
        HISTOGRAM,
        ("worker",),
        "wait of a request in the queue",
    ),
    Metric("kafka_producebulk_tt_ms", HISTOGRAM, (), "one publish of a group to Kafka"),
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
    Metric("requests_refused_total", COUNTER, ("reason",), "requests refused: overloaded"),
    Metric("events_refused_total", COUNTER, ("reason",), "events in refused requests"),
    Metric("events_delivered_total", COUNTER, (), "events whose request was confirmed"),
    Metric("events_failed_total", COUNTER, (), "events whose delivery failed"),
    Metric("events_waiting_current", GAUGE, (), "events accepted and without an outcome"),
    Metric("requests_waiting_current", GAUGE, (), "requests accepted and without an outcome"),
    Metric("events_left_at_shutdown_current", GAUGE, (), "events undelivered when the flush ended"),
    Metric("destination_reachable_current", GAUGE, (), "1 where the destination answers, else 0"),
    Metric("reactor_lateness_milliseconds", HISTOGRAM, (), "how late the reactor ran a timer"),
    Metric("server_go_routines_count_current", GAUGE, (), "threads of the process"),
    Metric("server_mem_heap_alloc_bytes_current", GAUGE, (), "resident bytes of the process"),
    Metric("server_mem_gc_count_current", GAUGE, (), "garbage collections so far"),
    Metric("server_open_files_current", GAUGE, (), "open file descriptors"),
)
