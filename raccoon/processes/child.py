"""What a worker process runs: the service on shared ports, at its parent's word."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

if __name__ == "__main__":
    # The terminal's, which reach the parent too; before the imports that take a while.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)

import attrs
from twisted.internet.defer import Deferred, TimeoutError, inlineCallbacks
from twisted.logger import Logger, globalLogBeginner

from raccoon.app import RaccoonService
from raccoon.config import Settings
from raccoon.errors import RaccoonError
from raccoon.interfaces import IMetrics
from raccoon.logs import make_observer
from raccoon.messages import Identifier
from raccoon.processes.channel import Channel, encode, open_channel, read_message
from raccoon.processes.claims import SharedTable
from raccoon.processes.merging import Changes
from raccoon.processes.process import CHANNEL_FD, FIRST_HTTP_FD, read_settings
from raccoon.processes.relay import format_relayed
from raccoon.processes.sockets import SharedPort
from raccoon.service.edge import Shared
from raccoon.signals import stop_reactor

_CHANGES_SECONDS = 1.0
_FAREWELL_SECONDS = 1.0


class WorkerLink:
    """Between a worker's service and the parent.

    Args:
        reactor: everything runs on it.
        settings: of this worker.
        grpc: host:port.
    """

    _logger = Logger()

    def __init__(self, reactor: Any, settings: Settings, grpc: str) -> None:
        self._reactor = reactor
        self._channel = Channel(self._received, self._parent_lost)
        descriptors = range(FIRST_HTTP_FD, FIRST_HTTP_FD + settings.server.workers)
        self._port = SharedPort(reactor, descriptors, settings.server.index)
        shared = Shared(self._port.listen, self._make_table)
        self.service = RaccoonService(reactor, settings, None, grpc, shared)
        self._changes = Changes(self.service.metrics)
        self._supervisor = self.service.supervisor
        self._telling = self._supervisor.loop("telling the parent", self._tell, reactor)
        self._gone: Deferred[None] | None = None
        self._words: dict[str, Callable[..., None]] = {
            "verdict": self._verdict,
            "tell": self._tell,
            "cover": self._port.cover,
            "uncover": self._port.uncover,
            "stop": self._stop_reactor,
        }

    def start(self, end: socket.socket) -> None:
        """Serve, and tell the parent so.

        Raises:
            StartError: it cannot.
        """
        self.service.privilegedStartService()
        self.service.startService()
        end.sendall(encode("serving"))
        open_channel(self._reactor, end, self._channel)
        self._telling.start(_CHANGES_SECONDS, now=False)
        self._reactor.addSystemEventTrigger("before", "shutdown", self._stop)

    def _make_table(self, metrics: IMetrics) -> SharedTable:
        self._table = SharedTable(self._claim, self._release, metrics, self._reactor.callLater)
        return self._table

    def _claim(self, identifier: Identifier) -> None:
        self._channel.say("claim", *identifier)

    def _release(self, identifier: Identifier) -> None:
        self._channel.say("release", *identifier)

    def _verdict(self, reason: str | None) -> None:
        self._table.verdict(reason)

    def _tell(self) -> None:
        self._channel.say("changes", self._changes.take(self.service.take()))

    def _received(self, word: str, *rest: Any) -> None:
        self._supervisor.call("a word of the parent", self._obey, word, rest)

    def _obey(self, word: str, rest: tuple[Any, ...]) -> None:
        self._words[word](*rest)

    def _stop_reactor(self) -> None:
        stop_reactor(self._reactor)

    def _parent_lost(self) -> None:
        if self._gone is not None:
            self._gone.callback(None)
            return
        self._logger.error("the parent process is gone: stopping")
        self._stop_reactor()

    @inlineCallbacks
    def _stop(self) -> Any:
        yield self.service.stopService()
        self._telling.stop()
        self._tell()
        self._channel.say("left", self.service.left)
        if self._channel.is_open:
            self._gone = Deferred()
            transport: Any = self._channel.transport
            transport.loseConnection()
            with suppress(TimeoutError):
                yield self._gone.addTimeout(_FAREWELL_SECONDS, self._reactor)


def main() -> None:
    """Run the worker until it is told to stop or its parent is gone."""
    _name("raccoon-spare")
    end = socket.socket(fileno=CHANNEL_FD)
    word = read_message(end)
    if not word:
        return
    _, index, core = word
    _name(f"raccoon-{index}")
    if core is not None:
        os.sched_setaffinity(0, {core})
    settings, grpc = pickle.loads(read_settings())  # noqa: S301 - our parent wrote it
    settings = attrs.evolve(settings, server=attrs.evolve(settings.server, index=index))
    observer = make_observer(sys.stdout, settings.log.level, format_relayed)
    globalLogBeginner.beginLoggingTo([observer])
    from twisted.internet import reactor  # noqa: PLC0415 - importing it installs it

    try:
        WorkerLink(reactor, settings, grpc).start(end)
    except Exception as error:
        why = str(error) if isinstance(error, RaccoonError) else repr(error)
        end.sendall(encode("failed", why))
        os._exit(1)  # threads that were started already are not waited for
    reactor.run()


def _name(name: str) -> None:
    """What `ps` and `top` show."""
    with open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name)


if __name__ == "__main__":
    main()
