"""A TCP link whose answers take a while, as those of a server that is far away do."""

from __future__ import annotations

import queue
import socket
import threading
import time
from contextlib import suppress

_PIECE = 1 << 16


class SlowLink:
    """Forwards connections to a port of 127.0.0.1.

    Args:
        delay: seconds that an answer takes longer.

    Attributes:
        port: where it listens.
        target: the port that it forwards to; to be set before the first connection.
    """

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.port: int = self._listener.getsockname()[1]
        self.target = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End it and all its connections."""
        for one in (self._listener, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                return
            self._sockets += [near, far]
            answers: queue.Queue[tuple[float, bytes]] = queue.Queue()
            for call, arguments in (
                (self._ask, (near, far)),
                (self._read, (far, answers)),
                (self._answer, (answers, near)),
            ):
                threading.Thread(target=call, args=arguments, daemon=True).start()

    def _ask(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while piece := near.recv(_PIECE):
                far.sendall(piece)
            far.shutdown(socket.SHUT_WR)

    def _read(self, far: socket.socket, answers: queue.Queue[tuple[float, bytes]]) -> None:
        piece = b"-"
        while piece:
            try:
                piece = far.recv(_PIECE)
            except OSError:
                piece = b""
            answers.put((time.monotonic() + self._delay, piece))

    def _answer(self, answers: queue.Queue[tuple[float, bytes]], near: socket.socket) -> None:
        with suppress(OSError):
            while True:
                due, piece = answers.get()
                time.sleep(max(due - time.monotonic(), 0))
                if not piece:
                    near.shutdown(socket.SHUT_WR)
                    return
                near.sendall(piece)
