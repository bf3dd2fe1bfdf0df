"""A StatsD that keeps what it was sent."""

from __future__ import annotations

import re
import socket
import threading
from collections import Counter

from tests.integration.daemon import Labels

_LINE = re.compile(r"([a-z_]+)((?:,[a-z_]+=[^,=:|@#\s]+)*):([0-9.]+)\|(c|g|ms)(?:\|@([0-9.]+))?")
_SO_RCVBUFFORCE = 33
_BUFFER = 32 << 20

Series = tuple[str, Labels]


class StatsdCapture:
    """Receives on a free port of 127.0.0.1 until it is closed.

    Attributes:
        counters: sums by name and tags.
        gauges: the last value by name and tags.
        timings: how many values by name and tags, at the rates they came with.
        datagrams: how many came.
        largest: bytes of the largest.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.counters: Counter[Series] = Counter()
        self.gauges: dict[Series, float] = {}
        self.timings: Counter[Series] = Counter()
        self.malformed: list[str] = []
        self.datagrams = 0
        self.largest = 0
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Receive what has come, and no more."""
        if self._thread.is_alive():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"", self._socket.getsockname())
            self._thread.join()
        self._socket.close()

    def counted(self, name: str) -> int:
        """A counter's sum over all its tags."""
        return round(sum(value for (found, _), value in self.counters.items() if found == name))

    def _receive(self) -> None:
        while datagram := self._socket.recv(65536):
            self.datagrams += 1
            self.largest = max(self.largest, len(datagram))
            for line in datagram.decode().split("\n"):
                self._take(line)

    def _take(self, line: str) -> None:
        found = _LINE.fullmatch(line)
        if found is None:
            self.malformed.append(line)
            return
        name, tags, value, kind, rate = found.groups()
        pairs = (tag.split("=") for tag in tags.split(",")[1:])
        series = (name, frozenset((key, text) for key, text in pairs))
        if kind == "c":
            self.counters[series] += float(value)  # type: ignore[assignment]
        elif kind == "g":
            self.gauges[series] = float(value)
        else:
            self.timings[series] += 1 / float(rate or 1)  # type: ignore[assignment]
