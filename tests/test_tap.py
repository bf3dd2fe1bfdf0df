"""Tests of raccoon.tap."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping

from twisted.logger import LogLevel
from twisted.python import usage
from twisted.trial.unittest import SynchronousTestCase

from raccoon import __version__, tap
from raccoon.app import RaccoonService
from raccoon.config import OPTIONS, KafkaSettings, Settings, WebSocketSettings, title
from raccoon.errors import ConfigError


class TapTestCase(SynchronousTestCase):
    """Parses options in an empty directory, with an environment of its own."""

    def setUp(self) -> None:
        directory = self.mktemp()
        os.mkdir(directory)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(directory)
        self.patch(os, "environ", {})

    def parse(self, *arguments: str, environment: Mapping[str, str] | None = None) -> tap.Options:
        self.patch(os, "environ", dict(environment or {}))
        options = tap.Options()
        options.parseOptions(list(arguments))
        return options

    def write(self, path: str, text: str) -> None:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)


class FlagTests(TapTestCase):
    """What the flags give."""

    def test_none(self) -> None:
        """Without flags, environment and file the settings are the defaults."""
        self.assertEqual(Settings(), self.parse().settings)

    def test_each_option_has_a_flag(self) -> None:
        """Every option of the table can be given as a flag, under its variable's words."""
        known = {parameter[0] for parameter in tap.Options.optParameters}
        self.assertEqual(set(), {option.flag for option in OPTIONS} - known)

    def test_flag(self) -> None:
        """A flag sets its option, with = and with a space."""
        options = self.parse("--server.websocket.port=1", "--server.grpc.port", "2")
        self.assertEqual(1, options.settings.websocket.port)
        self.assertEqual(2, options.settings.grpc.port)

    def test_endpoints(self) -> None:
        """The listeners' addresses are kept as they are given."""
        options = self.parse("--http=tcp:1:interface=127.0.0.1", "--grpc", "127.0.0.1:2")
        self.assertEqual("tcp:1:interface=127.0.0.1", options["http"])
        self.assertEqual("127.0.0.1:2", options["grpc"])

    def test_workers(self) -> None:
        """`--workers` is short for `--server.workers`."""
        self.assertEqual(3, self.parse("--workers=3").settings.server.workers)
        self.assertEqual(1, self.parse(environment={}).settings.server.workers)

    def test_librdkafka(self) -> None:
        """Any --publisher.kafka.client.NAME is a librdkafka option, with = and with a space."""
        options = self.parse(
            "--publisher.kafka.client.bootstrap.servers=a:1,b:2",
            "--publisher.kafka.client.linger.ms",
            "7",
            "--event.ack=1",
            "--publisher.kafka.client.sasl.password=a=b",
        )
        self.assertEqual(
            {"bootstrap.servers": "a:1,b:2", "linger.ms": "7", "sasl.password": "a=b"},
            options.settings.publisher.kafka.client,
        )
        self.assertEqual(1, options.settings.event.ack)

    def test_librdkafka_without_a_value(self) -> None:
        """A flag whose value is missing ends the start in one line, librdkafka's as any other."""
        for flag in ("--publisher.kafka.client.linger.ms", "--event.ack"):
            self.assertRefused("option --?\\S+ requires argument", flag)

    def test_kafka_settings_of_our_own(self) -> None:
        """An option of Kafka's that is not librdkafka's is parsed as ours."""
        options = self.parse("--publisher.kafka.flush.interval.ms=5")
        self.assertEqual(5, options.settings.publisher.kafka.flush_interval_ms)
        self.assertEqual({}, options.settings.publisher.kafka.client)

    def assertRefused(self, expected: str, *arguments: str) -> None:
        error = self.assertRaises(SystemExit, self.parse, *arguments)
        self.assertRegex(str(error.code), f"^raccoon: {expected}$")

    def test_unknown_flag(self) -> None:
        """A flag that does not exist is refused in one line, with the nearest that does."""
        self.assertRefused(
            "option --server.websocket.prot not recognized; did you mean --\\S+.port\\?",
            "--server.websocket.prot=1",
        )
        self.assertRefused("option --owl not recognized", "--owl")

    def test_unknown_flag_of_a_publisher(self) -> None:
        """A flag of a publisher that does not exist is refused among the other problems."""
        error = self.assertRaises(
            SystemExit, self.parse, "--publisher.kafak.flush.interval.ms=1", "--event.ack=7"
        )
        self.assertIn(
            "PUBLISHER_KAFAK_FLUSH_INTERVAL_MS: unknown flag;"
            " did you mean PUBLISHER_KAFKA_FLUSH_INTERVAL_MS?",
            str(error),
        )
        self.assertIn("EVENT_ACK", str(error))

    def test_stray_argument(self) -> None:
        """An argument that is no flag is refused in one line."""
        self.assertRefused("unexpected argument '8080'; options begin with --", "8080")

    def test_version(self) -> None:
        """--version prints Raccoon's version, not Twisted's."""
        printed = io.StringIO()
        self.patch(sys, "stdout", printed)
        error = self.assertRaises(SystemExit, self.parse, "--version")
        self.assertEqual((0, f"Raccoon {__version__}\n"), (error.code, printed.getvalue()))

    def test_help_fits_a_terminal(self) -> None:
        """The help is at most 80 columns wide, and shows the options by section."""
        lines = tap.Options().getUsage().splitlines()
        self.assertEqual([], [line for line in lines if len(line) > 80])
        self.assertEqual([], [line for line in lines if line.count("[") != line.count("]")])
        headings = [line for line in lines if line and not line.startswith(" ")]
        for section in (WebSocketSettings, KafkaSettings):
            self.assertIn(title(section), headings)

    def test_help_shows_meaning_and_default(self) -> None:
        """The help lists each option with its meaning and default."""
        text = " ".join(tap.Options().getUsage().split())
        self.assertIn("websocket.port= HTTP port (REST and WebSocket) [default: 8080]", text)
        self.assertIn("[default: clickstream-%s-log]", text)
        self.assertIn("one of debug, info, warn, error, fatal, panic [default: info]", text)


class PrecedenceTests(TapTestCase):
    """Which of several values is in force."""

    def test_environment(self) -> None:
        """The environment is read."""
        options = self.parse(environment={"SERVER_WEBSOCKET_PORT": "1"})
        self.assertEqual(1, options.settings.websocket.port)

    def test_flag_environment_file(self) -> None:
        """A flag goes before the environment, that before the file."""
        self.write("given.yaml", "server: {websocket: {port: 1, max_conn: 1, pinger_size: 1}}")
        settings = self.parse(
            "--config=given.yaml",
            "--server.websocket.port=3",
            environment={"SERVER_WEBSOCKET_PORT": "2", "SERVER_WEBSOCKET_MAX_CONN": "2"},
        ).settings
        self.assertEqual(
            (3, 2, 1),
            (settings.websocket.port, settings.websocket.max_conn, settings.websocket.pinger_size),
        )

    def test_file_of_the_directory(self) -> None:
        """config.yaml of the working directory is read where no file is given."""
        self.write("config.yaml", "log: {level: warn}")
        self.assertEqual("warn", self.parse().settings.log.level)

    def test_given_file_replaces_it(self) -> None:
        """A given file is read instead of the directory's, not beside it."""
        self.write("config.yaml", "log: {level: warn}")
        self.write("other.yaml", "event: {ack: 1}")
        settings = self.parse("-c", "other.yaml").settings
        self.assertEqual(("info", 1), (settings.log.level, settings.event.ack))


class ProblemTests(TapTestCase):
    """Options that cannot be used."""

    def test_all_at_once(self) -> None:
        """The problems of flags, environment and file are reported together, one a line."""
        self.write("config.yaml", "server: {websocket: {prot: 1}}")
        with self.assertRaises(SystemExit) as caught:
            self.parse("--event.ack=7", environment={"WORKER_POOL_SIZE": "many"})
        first, *problems = str(caught.exception).split("\n")
        self.assertEqual("raccoon: the configuration cannot be used:", first)
        self.assertEqual(
            ["EVENT_ACK", "SERVER_WEBSOCKET_PROT", "WORKER_POOL_SIZE"],
            sorted(problem.split(":")[0] for problem in problems),
        )

    def test_missing_file(self) -> None:
        """A given file that is not there ends the start with a line that names it."""
        error = self.assertRaises(SystemExit, self.parse, "--config=nowhere.yaml")
        self.assertIn("nowhere.yaml: No such file or directory", str(error))


class CheckConfigTests(TapTestCase):
    """--check-config."""

    def check(self, *arguments: str, environment: Mapping[str, str] | None = None) -> list[str]:
        printed = io.StringIO()
        self.patch(sys, "stdout", printed)
        with self.assertRaises(SystemExit) as caught:
            self.parse("--check-config", *arguments, environment=environment)
        self.assertEqual(0, caught.exception.code)
        return printed.getvalue().splitlines()

    def test_prints_values_and_sources(self) -> None:
        """It prints the effective value of every option and its source, and exits with 0."""
        self.write("config.yaml", "log: {level: warn}")
        lines = self.check(
            "--event.ack=1",
            "--publisher.kafka.client.bootstrap.servers=a:1",
            environment={"WORKER_POOL_SIZE": "3"},
        )
        self.assertEqual(
            [
                "EVENT_ACK=1  # flag",
                "LOG_LEVEL=warn  # file config.yaml",
                "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS=a:1  # flag",
                "WORKER_POOL_SIZE=3  # environment",
            ],
            sorted(line for line in lines if not line.endswith("# default")),
        )
        self.assertEqual(len(OPTIONS) + 1, len(lines))

    def test_masks_secrets(self) -> None:
        """It prints no secret."""
        lines = self.check(
            "--publisher.kafka.client.sasl.password=hunter2",
            environment={"PUBLISHER_KAFKA_CLIENT_SSL_KEY_PEM": "hunter3"},
        )
        self.assertIn("PUBLISHER_KAFKA_CLIENT_SASL_PASSWORD=********  # flag", lines)
        self.assertNotIn("hunter", "\n".join(lines))

    def test_fails_on_problems(self) -> None:
        """It reports problems as a start would."""
        for wrong in ("--event.ack=7", "--publisher.type=pigeon"):
            with self.assertRaises(SystemExit) as caught:
                self.parse("--check-config", wrong)
            self.assertTrue(str(caught.exception.code).startswith("raccoon: "))


class MakeServiceTests(TapTestCase):
    """makeService."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(sys, "excepthook", sys.excepthook)

    def test_makes_the_service(self) -> None:
        """The options make one service that does not run yet."""
        service = tap.makeService(self.parse())
        self.assertIsInstance(service, RaccoonService)
        self.assertFalse(service.running)

    def test_publisher_that_is_not_installed(self) -> None:
        """An unknown publisher ends the start with an error that lists those installed."""
        error = self.assertRaises(SystemExit, self.parse, "--publisher.type=pigeon")
        self.assertIn("PUBLISHER_TYPE: no publisher 'pigeon' is installed", str(error))
        self.assertIn("kafka, kinesis, log, pubsub", str(error))

    def test_own_errors_are_one_line(self) -> None:
        """An error of ours that ends the process is a line, not a traceback."""
        previous = []
        self.patch(sys, "excepthook", lambda *exception: previous.append(exception))
        self.patch(tap.twistd_log, "_path", "twistd.log")
        tap.makeService(self.parse())
        printed = io.StringIO()
        self.patch(sys, "__stderr__", printed)
        error = ConfigError(["LOG_LEVEL: no"])
        sys.excepthook(ConfigError, error, None)
        self.assertEqual("raccoon: LOG_LEVEL: no\n", printed.getvalue())
        self.assertEqual([], previous)

    def test_errors_that_the_terminal_shows_already(self) -> None:
        """An error that the log has put on the terminal is not shown twice."""
        self.patch(sys, "excepthook", lambda *_: None)
        self.patch(tap.twistd_log, "_path", "-")
        self.patch(tap.twistd_log, "_started", True)
        tap.makeService(self.parse())
        printed = io.StringIO()
        self.patch(sys, "__stderr__", printed)
        sys.excepthook(ConfigError, ConfigError(["LOG_LEVEL: no"]), None)
        self.assertEqual("", printed.getvalue())

    def test_other_errors_are_left_alone(self) -> None:
        """Any other error is shown as Python shows it."""
        previous = []
        self.patch(sys, "excepthook", lambda *exception: previous.append(exception))
        tap.makeService(self.parse())
        error = ValueError("x")
        sys.excepthook(ValueError, error, None)
        self.assertEqual([(ValueError, error, None)], previous)


class TwistdLogTests(TapTestCase):
    """Where the log goes."""

    def twistd(self, **given: object) -> usage.Options:
        options = usage.Options()
        options.update(given)
        return options

    def test_in_the_foreground(self) -> None:
        """In the foreground the log is on the terminal, once it has begun."""
        log, twistd = tap.TwistdLog(), self.twistd(nodaemon=True)
        log.use_for(twistd, "info")
        self.assertEqual("raccoon.tap.twistd_log", twistd["logger"])
        self.assertFalse(log.on_terminal)
        log()
        self.assertTrue(log.on_terminal)

    def test_as_a_daemon(self) -> None:
        """A daemon logs to twistd.log, or to the file that was given."""
        log = tap.TwistdLog()
        log.use_for(self.twistd(nodaemon=False), "info")
        self.assertFalse(log.on_terminal)

    def test_users_own_logger(self) -> None:
        """A logger that the user chose, or syslog, is left in its place."""
        for given in ({"logger": "a.b"}, {"syslog": True}):
            twistd = self.twistd(**given)
            tap.TwistdLog().use_for(twistd, "info")
            self.assertEqual(given.get("logger"), twistd.get("logger"))

    def test_writes_to_the_given_file(self) -> None:
        """The lines go to the given file, from the configured level up."""
        log = tap.TwistdLog()
        log.use_for(self.twistd(nodaemon=True, logfile="given.log"), "warn")
        observer = log()
        for level in (LogLevel.info, LogLevel.warn):
            observer(
                {
                    "log_level": level,
                    "log_namespace": "test",
                    "log_format": "at level {log_level.name}",
                    "log_time": 0.0,
                }
            )
        with open("given.log", encoding="utf-8") as file:
            self.assertEqual("1970-01-01T00:00:00.000Z warn     test at level warn\n", file.read())
