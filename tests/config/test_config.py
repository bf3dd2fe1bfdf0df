"""Tests of raccoon.config."""

from __future__ import annotations

import os
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from raccoon import config
from raccoon.errors import ConfigError

DOCUMENTED = {
    "SERVER_WEBSOCKET_PORT": 8080,
    "SERVER_WEBSOCKET_MAX_CONN": 30000,
    "SERVER_WEBSOCKET_READ_BUFFER_SIZE": 10240,
    "SERVER_WEBSOCKET_WRITE_BUFFER_SIZE": 10240,
    "SERVER_WEBSOCKET_CONN_ID_HEADER": "X-User-ID",
    "SERVER_WEBSOCKET_CONN_GROUP_HEADER": "",
    "SERVER_WEBSOCKET_CONN_GROUP_DEFAULT": "--default--",
    "SERVER_WEBSOCKET_PING_INTERVAL_MS": 30000,
    "SERVER_WEBSOCKET_PONG_WAIT_INTERVAL_MS": 60000,
    "SERVER_WEBSOCKET_WRITE_WAIT_INTERVAL_MS": 5000,
    "SERVER_WEBSOCKET_PINGER_SIZE": 1,
    "SERVER_WEBSOCKET_CHECK_ORIGIN": True,
    "SERVER_BATCH_DEDUP_IN_CONNECTION_ENABLED": False,
    "SERVER_CORS_ENABLED": False,
    "SERVER_CORS_ALLOWED_ORIGIN": (),
    "SERVER_CORS_ALLOWED_METHODS": ("GET", "HEAD", "POST", "OPTIONS"),
    "SERVER_CORS_ALLOWED_HEADERS": (),
    "SERVER_CORS_ALLOW_CREDENTIALS": False,
    "SERVER_CORS_PREFLIGHT_MAX_AGE_SECONDS": 0,
    "SERVER_GRPC_PORT": 8081,
    "WORKER_BUFFER_CHANNEL_SIZE": 100,
    "WORKER_BUFFER_FLUSH_TIMEOUT_MS": 5000,
    "WORKER_POOL_SIZE": 5,
    "WORKER_KAFKA_DELIVERY_CHANNEL_SIZE": 10,
    "EVENT_ACK": 0,
    "EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "clickstream-%s-log",
    "PUBLISHER_TYPE": "",
    "PUBLISHER_KAFKA_FLUSH_INTERVAL_MS": 1000,
    "PUBLISHER_KAFKA_DELIVERY_CHANNEL_SIZE": 10,
    "PUBLISHER_PUBSUB_CREDENTIALS": "",
    "PUBLISHER_PUBSUB_PROJECT_ID": "",
    "PUBLISHER_PUBSUB_TOPIC_AUTOCREATE": False,
    "PUBLISHER_PUBSUB_TOPIC_RETENTION_MS": 0,
    "PUBLISHER_PUBSUB_PUBLISH_DELAY_THRESHOLD_MS": 10,
    "PUBLISHER_PUBSUB_PUBLISH_COUNT_THRESHOLD": 100,
    "PUBLISHER_PUBSUB_PUBLISH_BYTE_THRESHOLD": 1000000,
    "PUBLISHER_PUBSUB_PUBLISH_TIMEOUT_MS": 60000,
    "PUBLISHER_KINESIS_AWS_REGION": "",
    "PUBLISHER_KINESIS_CREDENTIALS": "",
    "PUBLISHER_KINESIS_STREAM_AUTOCREATE": False,
    "PUBLISHER_KINESIS_STREAM_MODE": "ON_DEMAND",
    "PUBLISHER_KINESIS_STREAM_SHARDS": 4,
    "PUBLISHER_KINESIS_STREAM_PROBE_INTERVAL_MS": 1000,
    "PUBLISHER_KINESIS_PUBLISH_TIMEOUT_MS": 60000,
    "METRIC_RUNTIME_STATS_RECORD_INTERVAL_MS": 10000,
    "METRIC_STATSD_ENABLED": False,
    "METRIC_STATSD_ADDRESS": ":8125",
    "METRIC_STATSD_FLUSH_PERIOD_MS": 10000,
    "METRIC_PROMETHEUS_ENABLED": False,
    "METRIC_PROMETHEUS_PATH": "/metrics",
    "METRIC_PROMETHEUS_PORT": 9090,
    "LOG_LEVEL": "info",
}


class OptionTableTests(SynchronousTestCase):
    """The table of options."""

    def test_documented_defaults(self) -> None:
        """Every variable that existing deployments use is known, with the default they rely on."""
        known = {option.variable: option.default for option in config.OPTIONS}
        self.assertEqual(DOCUMENTED, {name: known.get(name, "unknown") for name in DOCUMENTED})

    def test_variables_are_unique(self) -> None:
        """No two options share a variable."""
        variables = [option.variable for option in config.OPTIONS]
        self.assertEqual(sorted(set(variables)), sorted(variables))

    def test_defaults_pass_their_own_parser(self) -> None:
        """Each default is a value that its option would accept."""
        refused = []
        for option in config.OPTIONS:
            if option.default == "":
                continue
            try:
                if option.parse(config.shown(option.variable, option.default)) != option.default:
                    refused.append(option.variable)
            except ValueError:
                refused.append(option.variable)
        self.assertEqual([], refused)

    def test_flag_is_the_variable_with_dots(self) -> None:
        """An option's flag is its variable in lower case with dots for underscores."""
        option = next(o for o in config.OPTIONS if o.variable == "SERVER_WEBSOCKET_CONN_ID_HEADER")
        self.assertEqual("server.websocket.conn.id.header", option.flag)

    def test_settings_are_frozen(self) -> None:
        """A section cannot be changed after it was read."""
        settings = config.load({}, {})
        with self.assertRaises(attrs.exceptions.FrozenInstanceError):
            settings.websocket.port = 1  # type: ignore[misc] # which is what is tested


class EnvironmentTests(SynchronousTestCase):
    """Values from the environment."""

    def test_nothing_given(self) -> None:
        """Without any value all settings are the defaults."""
        self.assertEqual(config.Settings(), config.load({}, {}))

    def test_each_kind(self) -> None:
        """Numbers, booleans, texts and lists are parsed into their kinds."""
        settings = config.load(
            {},
            {
                "SERVER_WEBSOCKET_PORT": "1234",
                "SERVER_CORS_ENABLED": "true",
                "SERVER_WEBSOCKET_CHECK_ORIGIN": "0",
                "SERVER_CORS_ALLOWED_ORIGIN": "https://a.example, https://b.example,",
                "EVENT_ACK": "1",
                "PUBLISHER_KINESIS_STREAM_MODE": "provisioned",
            },
        )
        self.assertEqual(1234, settings.websocket.port)
        self.assertIs(True, settings.cors.enabled)
        self.assertIs(False, settings.websocket.check_origin)
        self.assertEqual(("https://a.example", "https://b.example"), settings.cors.allowed_origin)
        self.assertEqual(1, settings.event.ack)
        self.assertEqual("PROVISIONED", settings.publisher.kinesis.stream_mode)

    def test_statsd_address(self) -> None:
        """StatsD is host:port, where the host may be missing, a name or an address."""
        for given in (
            ":8125",
            "statsd:1",
            "statsd-1.example.:65535",
            "10.0.0.1:8125",
            "[::1]:8125",
        ):
            settings = config.load({}, {"METRIC_STATSD_ADDRESS": given})
            self.assertEqual(given, settings.metric.statsd_address)
        for given in ("statsd", "statsd:", ":0", ":65536", "a b:1", "::1:8125", "udp://statsd:1"):
            error = self.assertRaises(
                ConfigError, config.load, {}, {"METRIC_STATSD_ADDRESS": given}
            )
            self.assertIn("METRIC_STATSD_ADDRESS", str(error))
            self.assertIn("expected host:port", str(error))

    def test_booleans(self) -> None:
        """true, false, 1 and 0 are booleans in any letter case."""
        for text, expected in (("true", True), ("TRUE", True), ("1", True), ("False", False)):
            settings = config.load({}, {"SERVER_CORS_ENABLED": text})
            self.assertIs(expected, settings.cors.enabled, text)

    def test_empty_is_unset(self) -> None:
        """An empty variable is as good as none."""
        settings = config.load({}, {"SERVER_WEBSOCKET_PORT": "", "LOG_LEVEL": ""})
        self.assertEqual(config.Settings(), settings)

    def test_foreign_variables_are_ignored(self) -> None:
        """Variables that are not options do no harm, even with a known beginning."""
        settings = config.load({}, {"PATH": "/bin", "SERVER_SOFTWARE": "x", "LOG_DIR": "y"})
        self.assertEqual(config.Settings(), settings)

    def test_kafka_client(self) -> None:
        """Any PUBLISHER_KAFKA_CLIENT_ variable is a librdkafka option, underscores as dots."""
        settings = config.load(
            {},
            {
                "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": "a:9092,b:9092",
                "PUBLISHER_KAFKA_CLIENT_QUEUE_BUFFERING_MAX_MS": "7",
                "PUBLISHER_KAFKA_CLIENT_ACKS": "",
            },
        )
        self.assertEqual(
            {"bootstrap.servers": "a:9092,b:9092", "queue.buffering.max.ms": "7"},
            settings.publisher.kafka.client,
        )


class WorkersTests(SynchronousTestCase):
    """How many processes serve."""

    def test_auto(self) -> None:
        """`auto` is one for each core that this process may use."""
        self.patch(os, "sched_getaffinity", lambda _: {2, 3, 7})
        for given in ("auto", "AUTO"):
            settings = config.load({}, {"SERVER_WORKERS": given})
            self.assertEqual((3, 0), (settings.server.workers, settings.server.index))

    def test_bad(self) -> None:
        """What is neither `auto` nor a number from 1 is told with what was expected."""
        for given in ("0", "all", "1.5"):
            with self.assertRaises(ConfigError) as caught:
                config.load({}, {"SERVER_WORKERS": given})
            self.assertIn("expected auto, or a whole number from 1", str(caught.exception))


class PublisherTypeTests(SynchronousTestCase):
    """Which publisher is in force."""

    def test_log_without_servers(self) -> None:
        """Unset and without Kafka's servers, events go to the log."""
        self.assertEqual("log", config.load({}, {}).publisher_type)

    def test_kafka_with_servers(self) -> None:
        """Unset but with Kafka's servers, events go to Kafka."""
        environment = {"PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": "a:9092"}
        self.assertEqual("kafka", config.load({}, environment).publisher_type)

    def test_chosen(self) -> None:
        """A given type goes before what the servers suggest."""
        environment = {
            "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": "a:9092",
            "PUBLISHER_TYPE": "log",
        }
        self.assertEqual("log", config.load({}, environment).publisher_type)


class ProblemTests(SynchronousTestCase):
    """Configurations that cannot be used."""

    def problems(self, environment: dict[str, str], flags: dict[str, Any] | None = None) -> Any:
        with self.assertRaises(ConfigError) as caught:
            config.load(flags or {}, environment)
        return caught.exception.problems

    def test_names_option_value_and_expectation(self) -> None:
        """A problem names the option, the value, where it came from and what was expected."""
        (problem,) = self.problems({"SERVER_WEBSOCKET_PORT": "eighty"})
        self.assertEqual(
            "SERVER_WEBSOCKET_PORT: 'eighty' from the environment;"
            " expected a whole number from 0 to 65535",
            problem,
        )

    def test_all_at_once(self) -> None:
        """Every problem is reported, not the first alone."""
        problems = self.problems(
            {
                "SERVER_WEBSOCKET_PORT": "70000",
                "SERVER_CORS_ENABLED": "maybe",
                "EVENT_ACK": "3",
                "LOG_LEVEL": "loud",
                "SERVER_WEBSOCKET_CONN_ID_HEADER": "X User",
                "EVENT_TYPE_PATTERN": "[",
            },
            {"WORKER_POOL_SIZE": "0"},
        )
        self.assertEqual(
            [
                "EVENT_ACK",
                "EVENT_TYPE_PATTERN",
                "LOG_LEVEL",
                "SERVER_CORS_ENABLED",
                "SERVER_WEBSOCKET_CONN_ID_HEADER",
                "SERVER_WEBSOCKET_PORT",
                "WORKER_POOL_SIZE",
            ],
            sorted(problem.split(":")[0] for problem in problems),
        )

    def test_together_with_what_does_not_fit(self) -> None:
        """Options that do not fit together are reported beside values that are wrong."""
        problems = self.problems(
            {"PUBLISHER_TYPE": "kafka", "EVENT_ACK": "2", "JOURNAL_ENABLED": "false"},
            {"WORKER_POOL_SIZE": "0", "METRIC_PROMETHEUS_PATH": "metrics"},
        )
        self.assertEqual(
            [
                "JOURNAL_ENABLED",
                "METRIC_PROMETHEUS_PATH",
                "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS",
                "WORKER_POOL_SIZE",
            ],
            sorted(problem.split(":")[0] for problem in problems),
        )

    def test_no_conclusions_from_wrong_values(self) -> None:
        """An option whose value is wrong is not compared with others."""
        for environment in (
            {"EVENT_ACK": "2", "JOURNAL_ENABLED": "flase"},
            {"LIMIT_REQUEST_BYTES": "many", "WORKER_BUFFER_MAX_BYTES": "4194304"},
        ):
            self.assertEqual(1, len(self.problems(environment)))

    def test_one_line_each(self) -> None:
        """A value with a line break does not break a problem's line."""
        (problem,) = self.problems({"SERVER_WEBSOCKET_PORT": "1\n2"})
        self.assertNotIn("\n", problem)

    def test_kafka_needs_servers(self) -> None:
        """Kafka without a broker's address is refused by the name of the missing option."""
        (problem,) = self.problems({"PUBLISHER_TYPE": "kafka"})
        self.assertTrue(problem.startswith("PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS: missing"))

    def test_kafka_takes_broker_list(self) -> None:
        """librdkafka's other name for the brokers will do."""
        environment = {
            "PUBLISHER_TYPE": "kafka",
            "PUBLISHER_KAFKA_CLIENT_METADATA_BROKER_LIST": "a:9092",
        }
        self.assertEqual("kafka", config.load({}, environment).publisher_type)

    def test_pubsub_needs_project(self) -> None:
        """Pub/Sub without a project is refused by the name of the missing option."""
        (problem,) = self.problems({"PUBLISHER_TYPE": "pubsub"})
        self.assertTrue(problem.startswith("PUBLISHER_PUBSUB_PROJECT_ID: missing"))

    def test_pubsub_retention(self) -> None:
        """A retention that Pub/Sub does not take is refused; none, and its bounds, are not."""
        name = "PUBLISHER_PUBSUB_TOPIC_RETENTION_MS"
        for value in ("1", "599999", "2678400001"):
            (problem,) = self.problems({name: value})
            self.assertEqual(
                f"{name}: {value!r} from the environment;"
                " expected 0, or a whole number from 600000 to 2678400000",
                problem,
            )
        for value in ("0", "600000", "2678400000"):
            settings = config.load({}, {name: value})
            self.assertEqual(int(value), settings.publisher.pubsub.topic_retention_ms)

    def test_metrics_path(self) -> None:
        """The path of the scrape begins with a slash."""
        (problem,) = self.problems({"METRIC_PROMETHEUS_PATH": "metrics"})
        self.assertTrue(problem.startswith("METRIC_PROMETHEUS_PATH: 'metrics'"))


class FileTests(SynchronousTestCase):
    """Values from a YAML file."""

    def write(self, text: str | bytes) -> str:
        path: str = self.mktemp()
        with open(path, "wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
        return path

    def problems(self, text: str | bytes) -> Any:
        path = self.write(text)
        with self.assertRaises(ConfigError) as caught:
            config.load({}, {}, path)
        return [problem.replace(path, "FILE") for problem in caught.exception.problems]

    def test_nested(self) -> None:
        """The file that the Go server reads gives the same settings here."""
        path = self.write(
            """
server:
  websocket:
    conn: {id_header: X-Id, group_header: X-Group, group_default: none}
    port: 1000
    check_origin: false
  batch: {dedup_in_connection_enabled: true}
  cors: {enabled: true, allowed_origin: [http://a, http://b]}
  grpc: {port: 1001}
worker: {buffer: {channel_size: 7, flush_timeout_ms: 8}, pool_size: 9}
event: {ack: 1, distribution_publisher_pattern: "%s"}
publisher:
  type: kafka
  kafka:
    client: {bootstrap_servers: "a:9092", enable_idempotence: true, retries: 3}
    flush_interval_ms: 10
metric: {prometheus: {enabled: true, port: 11}}
log: {level: debug}
"""
        )
        settings = config.load({}, {}, path)
        self.assertEqual("X-Id", settings.websocket.conn_id_header)
        self.assertEqual("X-Group", settings.websocket.conn_group_header)
        self.assertEqual("none", settings.websocket.conn_group_default)
        self.assertEqual(1000, settings.websocket.port)
        self.assertIs(False, settings.websocket.check_origin)
        self.assertIs(True, settings.websocket.dedup_enabled)
        self.assertEqual(("http://a", "http://b"), settings.cors.allowed_origin)
        self.assertEqual(1001, settings.grpc.port)
        self.assertEqual(7, settings.worker.buffer_channel_size)
        self.assertEqual(8, settings.worker.buffer_flush_timeout_ms)
        self.assertEqual(9, settings.worker.pool_size)
        self.assertEqual(1, settings.event.ack)
        self.assertEqual("%s", settings.event.distribution_publisher_pattern)
        self.assertEqual(
            {"bootstrap.servers": "a:9092", "enable.idempotence": "true", "retries": "3"},
            settings.publisher.kafka.client,
        )
        self.assertEqual(10, settings.publisher.kafka.flush_interval_ms)
        self.assertEqual(11, settings.metric.prometheus_port)
        self.assertEqual("debug", settings.log.level)

    def test_librdkafka_names(self) -> None:
        """A librdkafka option in the file may be written with its own dots."""
        path = self.write("publisher: {kafka: {client: {bootstrap.servers: 'a:9092'}}}")
        self.assertEqual(
            {"bootstrap.servers": "a:9092"}, config.load({}, {}, path).publisher.kafka.client
        )

    def test_precedence(self) -> None:
        """A flag goes before the environment, the environment before the file."""
        path = self.write("server: {websocket: {port: 1, max_conn: 1, pinger_size: 1}}")
        environment = {"SERVER_WEBSOCKET_PORT": "2", "SERVER_WEBSOCKET_MAX_CONN": "2"}
        settings = config.load({"SERVER_WEBSOCKET_PORT": "3"}, environment, path)
        self.assertEqual(3, settings.websocket.port)
        self.assertEqual(2, settings.websocket.max_conn)
        self.assertEqual(1, settings.websocket.pinger_size)

    def test_precedence_of_kafka_options(self) -> None:
        """librdkafka's options have the same precedence, one by one."""
        path = self.write("publisher: {kafka: {client: {acks: 1, linger_ms: 1, retries: 1}}}")
        settings = config.load(
            {"PUBLISHER_KAFKA_CLIENT_ACKS": "3"},
            {"PUBLISHER_KAFKA_CLIENT_ACKS": "2", "PUBLISHER_KAFKA_CLIENT_LINGER_MS": "2"},
            path,
        )
        self.assertEqual(
            {"acks": "3", "linger.ms": "2", "retries": "1"}, settings.publisher.kafka.client
        )

    def test_unknown_key(self) -> None:
        """An unknown key is a problem, and a similar option is proposed."""
        (problem,) = self.problems("server: {websocket: {prot: 1}}")
        self.assertEqual(
            "SERVER_WEBSOCKET_PROT: unknown key in FILE; did you mean SERVER_WEBSOCKET_PORT?",
            problem,
        )

    def test_unknown_and_wrong_together(self) -> None:
        """Unknown keys and wrong values of the file are reported together."""
        problems = self.problems("{nothing: {like: 1}, worker: {pool_size: many}}")
        self.assertEqual(2, len(problems))

    def test_null_is_unset(self) -> None:
        """A key without a value is as good as none."""
        path = self.write("server: {websocket: {port: }}\n")
        self.assertEqual(8080, config.load({}, {}, path).websocket.port)

    def test_section_without_content(self) -> None:
        """A section whose every line is commented out is as good as none."""
        path = self.write("worker:\n#  pool_size: 3\nserver:\n  websocket:\n")
        self.assertEqual(config.Settings(), config.load({}, {}, path))

    def test_empty_file(self) -> None:
        """An empty file gives the defaults."""
        self.assertEqual(config.Settings(), config.load({}, {}, self.write("")))

    def test_missing_file(self) -> None:
        """A file that is not there is a problem with the system's reason."""
        with self.assertRaises(ConfigError) as caught:
            config.load({}, {}, "nowhere.yaml")
        self.assertEqual(
            ("--config nowhere.yaml: No such file or directory",), caught.exception.problems
        )

    def test_not_yaml(self) -> None:
        """A file that is not YAML is one problem on one line."""
        for text in ("a: [", b"\xff\xfe\xff", "a: b: c"):
            (problem,) = self.problems(text)
            self.assertTrue(problem.startswith("--config FILE: not YAML: "), problem)
            self.assertNotIn("\n", problem)

    def test_not_a_mapping(self) -> None:
        """A file that holds a list is refused."""
        self.assertEqual(["--config FILE: expected a mapping of sections"], self.problems("[1]"))

    def test_wrong_shape(self) -> None:
        """A list where one value belongs is refused by the name of the option."""
        problems = self.problems("{log: {level: [debug]}, worker: {pool_size: 2.5}}")
        self.assertEqual(
            ["LOG_LEVEL", "WORKER_POOL_SIZE"], [problem.split(":")[0] for problem in problems]
        )

    def test_default_file(self) -> None:
        """config.yaml of the working directory is taken where there is one."""
        directory = self.mktemp()
        os.mkdir(directory)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(directory)
        self.assertIsNone(config.default_file())
        with open("config.yaml", "w", encoding="ascii") as file:
            file.write("log: {level: warn}")
        self.assertEqual("config.yaml", config.default_file())


class DescribeTests(SynchronousTestCase):
    """The effective configuration in print."""

    def test_every_option_with_its_source(self) -> None:
        """Each option is one line with its value and where that came from."""
        settings = config.load({"EVENT_ACK": "1"}, {"SERVER_CORS_ALLOWED_ORIGIN": "http://a,b"})
        lines = config.describe(settings)
        self.assertEqual(len(config.OPTIONS), len(lines))
        self.assertIn("EVENT_ACK=1  # flag", lines)
        self.assertIn("SERVER_CORS_ALLOWED_ORIGIN=http://a,b  # environment", lines)
        self.assertIn("SERVER_WEBSOCKET_CHECK_ORIGIN=true  # default", lines)
        self.assertIn("WORKER_POOL_SIZE=5  # default", lines)

    def test_secrets_are_masked(self) -> None:
        """The value of an option that holds a secret is never printed."""
        secrets = {
            "sasl.password",
            "ssl.key.password",
            "ssl.key.pem",
            "ssl.keystore.password",
            "sasl.oauthbearer.client.secret",
            "sasl.oauthbearer.assertion.private.key.passphrase",
            "sasl.oauthbearer.assertion.private.key.pem",
            "sasl.oauthbearer.config",
            "sasl.oauthbearer.extensions",
            "sasl.kerberos.kinit.cmd",
        }
        names = [config.KAFKA_CLIENT_PREFIX + s.upper().replace(".", "_") for s in secrets]
        settings = config.load({}, dict.fromkeys(names, "hunter2"))
        printed = [line for line in config.describe(settings) if "hunter2" in line]
        self.assertEqual([], printed)
        self.assertIn(
            f"PUBLISHER_KAFKA_CLIENT_SASL_PASSWORD={config.MASK}  # environment",
            config.describe(settings),
        )

    def test_kafka_options_are_shown(self) -> None:
        """A librdkafka option that is no secret is shown under its variable."""
        settings = config.load({}, {"PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": "a:9092"})
        self.assertIn(
            "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS=a:9092  # environment",
            config.describe(settings),
        )
