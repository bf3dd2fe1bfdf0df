"""`twistd raccoon`: its options, and the service they describe."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.logger import ILogObserver
from twisted.python import usage
from twisted.python.logfile import LogFile

from raccoon import config
from raccoon.app import RaccoonService
from raccoon.errors import ConfigError, RaccoonError, StartError
from raccoon.logs import make_observer
from raccoon.metrics.registry import Metrics
from raccoon.processes.parent import ParentService
from raccoon.publisher import PublisherContext
from raccoon.publisher.factory import make_publisher
from raccoon.supervision import Supervisor

_KAFKA_FLAG = "--" + config.KAFKA_CLIENT_PREFIX.lower().replace("_", ".")


class Options(usage.Options):
    """Flags of `twistd raccoon`, made from the table of options."""

    synopsis = "[options]"
    longdesc = (
        "Collects batches of events over REST, WebSocket and gRPC and delivers them to Kafka or"
        " to the log. Each option below is also an environment variable"
        " (--server.websocket.port is SERVER_WEBSOCKET_PORT) and a key of the YAML file. A flag"
        " goes before the environment, that before the file. Any option of librdkafka is"
        " --publisher.kafka.client.NAME."
    )
    optFlags = [
        ["check-config", None, "Print the effective configuration with its sources, and exit."]
    ]
    optParameters = [
        ["config", "c", None, "YAML file [default: ./config.yaml, where there is one]"],
        ["http", None, None, "Endpoint of REST and WebSocket, such as tcp:8080."],
        ["grpc", None, None, "Address of gRPC, such as 0.0.0.0:8081."],
        ["workers", None, None, "Short for --server.workers."],
    ] + [
        [
            option.flag,
            None,
            None,
            f"{option.meaning} [default: {option.default_shown}]",
        ]
        for option in config.OPTIONS
    ]
    settings: config.Settings

    def __init__(self) -> None:
        super().__init__()
        self._kafka: dict[str, str] = {}

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Take the flags of librdkafka's options apart, then parse the rest."""
        rest: list[str] = []
        arguments = iter(options if options is not None else sys.argv[1:])
        for argument in arguments:
            if not argument.startswith(_KAFKA_FLAG):
                rest.append(argument)
                continue
            name, given, value = argument[2:].partition("=")
            if not given:
                value = next(arguments, "")
            if not value:
                raise usage.UsageError(f"option --{name} requires argument")
            self._kafka[name.upper().replace(".", "_")] = value
        super().parseOptions(rest)

    def postOptions(self) -> None:
        """Read the whole configuration; every problem is reported at once."""
        flags = {
            option.variable: self[option.flag]
            for option in config.OPTIONS
            if self[option.flag] is not None
        }
        if self["workers"] is not None:
            flags["SERVER_WORKERS"] = self["workers"]
        path = self["config"] or config.default_file()
        try:
            self.settings = config.load({**flags, **self._kafka}, os.environ, path)
        except ConfigError as error:
            # Not a UsageError: twistd would print its whole usage before the line that matters.
            raise SystemExit(f"raccoon: the configuration cannot be used:\n{error}") from None
        if self["check-config"]:
            _check_publisher(self.settings)
            sys.stdout.write("\n".join(config.describe(self.settings)) + "\n")
            raise SystemExit(0)
        if self.parent is not None:
            twistd_log.use_for(self.parent, self.settings.log.level)


def _check_publisher(settings: config.Settings) -> None:
    """Have the chosen publisher made, though not started."""
    try:
        metrics = Metrics()
        make_publisher(PublisherContext(settings, metrics, Supervisor(metrics)))
    except StartError as error:
        raise SystemExit(f"raccoon: {error}") from None


class TwistdLog:
    """The observer factory that twistd calls: Raccoon's lines, where twistd's options say.

    twistd takes its `logger` option as the dotted name of a callable without arguments, so the
    options of the run are kept here.
    """

    def __init__(self) -> None:
        self._path = "-"
        self._level = "info"
        self._started = False

    def use_for(self, twistd: usage.Options, level: str) -> None:
        """Write this run's log, unless the user chose another logger."""
        if not twistd.get("logger") and not twistd.get("syslog"):
            self._path = twistd.get("logfile") or ("-" if twistd.get("nodaemon") else "twistd.log")
            self._level = level
            twistd["logger"] = f"{__name__}.twistd_log"

    def __call__(self) -> ILogObserver:
        self._started = True
        stream = sys.stdout if self._path == "-" else LogFile.fromFullPath(self._path)
        return make_observer(stream, self._level)

    @property
    def on_terminal(self) -> bool:
        """Whether the log is before the eyes of the person who started the service."""
        return self._started and self._path == "-"


twistd_log = TwistdLog()


def makeService(options: Options) -> IService:
    """The service that the options describe."""
    from twisted.internet import reactor  # noqa: PLC0415 - importing it installs it

    show_errors_in_one_line()
    return service_for(reactor, options.settings, options["http"], options["grpc"])


def service_for(
    reactor: Any, settings: config.Settings, http: str | None = None, grpc: str | None = None
) -> MultiService:
    """The service itself, or the parent of the workers that are it together."""
    several = settings.server.workers > 1
    return (ParentService if several else RaccoonService)(reactor, settings, http, grpc)


def show_errors_in_one_line() -> None:
    """End the process with a line for an error of ours, not with a traceback."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not isinstance(error, RaccoonError):
            previous(kind, error, trace)
        elif not twistd_log.on_terminal and sys.__stderr__ is not None:
            # twistd's sys.stderr is its log, which has the error already.
            sys.__stderr__.write(f"raccoon: {error}\n")

    sys.excepthook = hook
