"""One worker process, as its parent sees it."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from raccoon.processes.channel import Channel, encode, open_channel, read_message
from raccoon.processes.relay import Relay

SETTINGS_FD, CHANNEL_FD, FIRST_HTTP_FD = 0, 3, 4
_STARTS_WITHIN = 60.0


class WorkerProcess(ProcessProtocol):
    """Is spawned, begins, speaks to the parent, ends.

    Until it begins it is a spare: it has imported what it needs, which is most of a start.

    Attributes:
        serving: whether it has said that it serves.
        silent_looks: how often the parent has looked since it said something.
        left: events that it left undelivered, once it has said so.

    Args:
        reactor: spawns it.
        received: called with it and each message that it sends.
        ended: called with it and why, once it has ended.
    """

    def __init__(
        self,
        reactor: Any,
        received: Callable[..., None],
        ended: Callable[[WorkerProcess, str], None],
    ) -> None:
        self._reactor = reactor
        self.index: int | None = None
        self._received = received
        self._ended = ended
        self._relays = {fd: Relay(globalLogPublisher) for fd in (1, 2)}
        self._end: socket.socket | None = None
        self._channel: Channel | None = None
        self._process: Any = None
        self.started_at = reactor.seconds()
        self.serving = False
        self.silent_looks = 0
        self.left: int | None = None

    def spawn(self, settings: int, sockets: Sequence[socket.socket]) -> None:
        """Start the process.

        Args:
            settings: descriptor of a file with the pickled settings.
            sockets: HTTP's, of all workers.
        """
        self._end, other = socket.socketpair()
        descriptors: dict[int, Any] = {SETTINGS_FD: settings, 1: "r", 2: "r"}
        descriptors[CHANNEL_FD] = other.fileno()
        for number, shared in enumerate(sockets, FIRST_HTTP_FD):
            descriptors[number] = shared.fileno()
        # -P: a file of the working directory is not to be taken for a module.
        command = [sys.executable, "-P", "-m", "raccoon.processes.child"]
        self._process = self._reactor.spawnProcess(
            self, command[0], command, env=None, childFDs=descriptors
        )
        other.close()

    def begin(self, index: int, core: int | None) -> None:
        """Have it serve, as worker `index`, on a core of its own or on any."""
        assert self._end is not None
        self.index = index
        self.silent_looks = 0
        self.started_at = self._reactor.seconds()
        for relay in self._relays.values():
            relay.worker = index
        with suppress(OSError):  # its end is told by the reactor
            self._end.sendall(encode("begin", index, core))

    def wait(self) -> str | None:
        """Wait, blocking, until it serves; returns None, or why it does not."""
        assert self._end is not None
        self._end.settimeout(_STARTS_WITHIN)
        try:
            kind, *rest = read_message(self._end) or ("failed", "it ended before it served")
        except OSError:
            kind, rest = "failed", [f"it did not serve within {_STARTS_WITHIN:g} s"]
        self.serving = kind == "serving"
        return None if self.serving else f"worker {self.index}: {rest[0]}"

    def listen(self) -> None:
        """Have the reactor take what it says."""
        assert self._end is not None
        channel = Channel(self._message, self._channel_lost)
        self._channel = open_channel(self._reactor, self._end, channel)
        self._end = None

    def say(self, *message: Any) -> None:
        """Send it a message, if it still listens."""
        if self._channel is not None:
            self._channel.say(*message)

    def stop(self) -> None:
        """Have it stop in the orderly way; one that does not serve yet holds nothing."""
        if self.serving:
            self.say("stop")
        else:
            self.kill()

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessExitedAlready):
            self._process.signalProcess("KILL")

    def _message(self, *message: Any) -> None:
        self._received(self, *message)

    def _channel_lost(self) -> None:
        self._channel = None

    # From the reactor.

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        """It wrote to its log or to standard error."""
        self._relays[childFD].received(data, self._reactor.seconds())

    def processEnded(self, reason: Failure) -> None:
        """It has ended, and all it wrote has been read."""
        for relay in self._relays.values():
            relay.ended(self._reactor.seconds())
        self.serving = False
        status: Any = reason.value
        if status.signal:
            why = f"signal {signal.Signals(status.signal).name}"
        else:
            why = f"exit code {status.exitCode}"
        self._ended(self, why)


def settings_file(pickled: bytes) -> int:
    """A descriptor of a file in memory that all workers read; secrets are in it."""
    descriptor = os.memfd_create("raccoon-settings")
    os.write(descriptor, pickled)
    return descriptor


def read_settings() -> bytes:
    """In a worker: what the parent wrote; others read the same file, so the place stays."""
    return os.pread(SETTINGS_FD, os.fstat(SETTINGS_FD).st_size, 0)
