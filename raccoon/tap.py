"""`twistd raccoon`: its options, and the service they describe."""

from __future__ import annotations

import difflib
import os
import re
import sys
import textwrap
from collections.abc import Sequence
from itertools import groupby
from types import TracebackType
from typing import Any

from twisted.application.service import IService, MultiService
from twisted.logger import ILogObserver
from twisted.python import usage
from twisted.python.logfile import LogFile

from raccoon import __version__, config
from raccoon.app import RaccoonService
from raccoon.errors import ConfigError, RaccoonError, StartError
from raccoon.logs import make_observer
from raccoon.metrics.registry import Metrics
from raccoon.processes.parent import ParentService
from raccoon.publisher import PublisherContext
from raccoon.publisher.factory import make_publisher
from raccoon.supervision import Supervisor

_WIDTH = 80
_MEANING = " " * 8
_NO_BREAK = "\xa0"
_CHECK = ("check-config", None, "Print the effective configuration with its sources, and exit")
_GENERAL = (
    ("config", "c", None, "YAML file [default: config.yaml, if the working directory has one]"),
    ("http", None, None, "Endpoint of REST and WebSocket, such as tcp:8080"),
    ("grpc", None, None, "Address of gRPC, such as 0.0.0.0:8081"),
    ("workers", None, None, "Short for --server.workers"),
)
_FLAGS = {option.flag: option for option in config.OPTIONS}

# Any flag of a publisher that is not in the table of options: it is librdkafka's, or belongs to a
# publisher of another package.
_TABLED = "|".join(sorted({flag.split(".")[1] for flag in _FLAGS if flag.count(".") > 1}))
_FREE_FLAG = re.compile(rf"--publisher\.(?:kafka\.client\.|(?!(?:{_TABLED})\.)[^.=]+\.)")


class Options(usage.Options):
    """Flags of `twistd raccoon`, made from the table of options."""

    synopsis = "[options]"
    longdesc = (
        "Collects batches of events over REST, WebSocket and gRPC and delivers them to Kafka,"
        " Google Pub/Sub, Amazon Kinesis, the log, or the destination of another installed"
        " publisher.\n\n"
        "Each option below that has dots in its name is also an environment variable"
        " (--server.websocket.port is SERVER_WEBSOCKET_PORT) and a key of the YAML file. Flags"
        " override the environment, which overrides the file. Any option of librdkafka can be"
        " given as --publisher.kafka.client.NAME."
    )
    optFlags = [_CHECK]
    optParameters = [
        *_GENERAL,
        *((flag, None, None, option.meaning) for flag, option in _FLAGS.items()),
    ]
    settings: config.Settings

    def __init__(self) -> None:
        super().__init__()
        self._free: dict[str, str] = {}

    def getUsage(self, width: int | None = None) -> str:
        """The help, by section; at most 80 columns wide but for names that are longer."""
        lines = [textwrap.fill(text, _WIDTH) + "\n" for text in self.longdesc.split("\n\n")]
        lines += ["General", *_help(_CHECK[0], _CHECK[2])]
        for flag, short, _, meaning in _GENERAL:
            lines += _help(f"{flag}=" + (f", -{short}" if short else ""), meaning)
        lines += _help("version", "Print the version, and exit")
        lines += _help("help", "Print this, and exit")
        others = [option for section in config.sections() for option in config.options_of(section)]
        options = [*config.OPTIONS, *others]
        for section, members in groupby(options, key=lambda option: option.section):
            lines += ["", config.title(section)]
            for option in members:
                lines += _help(f"{option.flag}=", *_described(option))
        return "\n".join(lines) + "\n"

    def opt_version(self) -> None:
        """Print the version, and exit."""
        sys.stdout.write(f"Raccoon {__version__}\n")
        raise SystemExit(0)

    def parseArgs(self, *arguments: str) -> None:
        """Refuse what is no flag."""
        if arguments:
            raise usage.UsageError(f"unexpected argument {arguments[0]!r}; options begin with --")

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Set free flags aside, then parse the rest; what is wrong ends the process in a line."""
        rest: list[str] = []
        arguments = iter(options if options is not None else sys.argv[1:])
        try:
            for argument in arguments:
                if not _FREE_FLAG.match(argument):
                    rest.append(argument)
                    continue
                flag, given, value = argument.partition("=")
                if not given:
                    value = next(arguments, "")
                if not value:
                    raise usage.UsageError(f"option {flag} requires argument")
                self._free[config.variable_of(flag)] = value
            super().parseOptions(rest)
        except usage.UsageError as error:
            # twistd would print its whole usage before the line that matters, and exit with 0.
            raise SystemExit(f"raccoon: {error}{self._nearest(str(error))}") from None

    def _nearest(self, problem: str) -> str:
        unknown = re.search(r"--(\S+) not recognized", problem)
        known = [*_FLAGS, *(parameter[0] for parameter in _GENERAL), _CHECK[0]]
        close = (
            difflib.get_close_matches(unknown[1], [str(flag) for flag in known], 1)
            if unknown
            else []
        )
        return f"; did you mean --{close[0]}?" if close else ""

    def postOptions(self) -> None:
        """Read the whole configuration; every problem is reported at once."""
        flags = {
            option.variable: self[flag] for flag, option in _FLAGS.items() if self[flag] is not None
        }
        if self["workers"] is not None:
            flags["SERVER_WORKERS"] = self["workers"]
        path = self["config"] or config.default_file()
        try:
            self.settings = config.load({**flags, **self._free}, os.environ, path)
        except ConfigError as error:
            raise SystemExit(f"raccoon: the configuration cannot be used:\n{error}") from None
        if self["check-config"]:
            _check_publisher(self.settings)
            sys.stdout.write("\n".join(config.describe(self.settings)) + "\n")
            raise SystemExit(0)
        if self.parent is not None:
            twistd_log.use_for(self.parent, self.settings.log.level)


def _described(option: config.Option) -> tuple[str, str]:
    default = option.default_shown
    suffix = "[required]" if default == "required" else f"[default: {default}]"
    choices = option.expected if option.expected.startswith("one of") else ""
    return f"{option.meaning}; {choices}" if choices else option.meaning, suffix


def _help(flag: str, meaning: str, suffix: str = "") -> list[str]:
    # The suffix is not broken: no-break spaces hold it together.
    wrapped = textwrap.wrap(
        f"{meaning} {suffix.replace(' ', _NO_BREAK)}".rstrip(),
        _WIDTH,
        initial_indent=_MEANING,
        subsequent_indent=_MEANING,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [f"  --{flag}", *(line.replace(_NO_BREAK, " ") for line in wrapped)]


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
