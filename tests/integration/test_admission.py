"""Many clients that hold all but the last byte of a large body each."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable

from twisted.trial.unittest import SynchronousTestCase

from tests.edges.frames import BINARY, CONTINUATION, client_frame, upgrade_request
from tests.integration.clients import CODECS, protobuf_request
from tests.integration.daemon import Daemon

CLIENTS = 200
MIB = 1 << 20
BODY = protobuf_request("held", [("click", b"x" * (4 * MIB - 200))])
BUDGET = 64 * MIB
NO_MASK = b"\0\0\0\0"
# What Python and malloc hold beside the bytes that count.
ALLOWANCE = 24 * MIB
HEAD = (
    b"POST /api/v1/events HTTP/1.1\r\nHost: a\r\nX-User-ID: a\r\n"
    b"Content-Type: application/proto\r\n"
)


def by_length() -> bytes:
    """A body of a known length."""
    return b"%bContent-Length: %d\r\n\r\n%b" % (HEAD, len(BODY), BODY[:-1])


def in_chunks() -> bytes:
    """A body in chunks."""
    size = 65_536
    chunks = [BODY[start : start + size] for start in range(0, len(BODY), size)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + framed[:-3]


def in_a_frame() -> bytes:
    """A message in one frame."""
    return client_frame(BINARY, BODY, mask=NO_MASK)[:-1]


def in_fragments() -> bytes:
    """A message in many frames."""
    size = 65_536
    return b"".join(
        client_frame(
            CONTINUATION if start else BINARY, BODY[start : start + size], fin=False, mask=NO_MASK
        )
        for start in range(0, len(BODY), size)
    )


class HeldBodyTests(SynchronousTestCase):
    """Memory stays within its budget, others are served, and the refused ones are told."""

    def setUp(self) -> None:
        self.daemon = Daemon(
            {"PUBLISHER_TYPE": "log", "EVENT_ACK": 1, "WORKER_BUFFER_MAX_BYTES": BUDGET}
        )
        self.addCleanup(self.daemon.kill)
        self.daemon.start()
        self.serve()

    def serve(self) -> None:
        """Other clients, on all protocols."""
        for name, connect in CODECS.items():
            with connect(self.daemon, f"other-{name}") as client:
                self.assertTrue(client.send("a", [("click", b"{}")]).ok)

    def check(self, held: Callable[[], bytes], told: bytes, websocket: bool = False) -> None:
        """All clients hold what they can; those that cannot are told."""
        body = held()
        before = most = self.daemon.resident()
        poll = select.epoll()
        left: dict[int, tuple[socket.socket, memoryview]] = {}
        answers: dict[int, bytes] = {}
        for number in range(CLIENTS):
            client = socket.create_connection(("127.0.0.1", self.daemon.http_port), timeout=10)
            self.addCleanup(client.close)
            if websocket:
                client.sendall(upgrade_request(f"held-{number}"))
                self.assertIn(b" 101 ", client.recv(65_536))
            client.setblocking(False)
            left[client.fileno()] = client, memoryview(body)
            poll.register(client.fileno(), select.EPOLLIN | select.EPOLLOUT)
        quiet = 0
        while quiet < 20:
            ready = poll.poll(0.1)
            quiet += not ready
            for descriptor, events in ready:
                client, rest = left[descriptor]
                try:
                    if events & select.EPOLLIN:
                        came = client.recv(65_536)
                        answers[descriptor] = answers.get(descriptor, b"") + came
                        if not came:
                            raise ConnectionError
                    if events & select.EPOLLOUT and len(rest):
                        left[descriptor] = client, rest[client.send(rest[:262_144]) :]
                    if not len(left[descriptor][1]):
                        poll.modify(descriptor, select.EPOLLIN)
                except BlockingIOError:
                    pass
                except ConnectionError:
                    poll.unregister(descriptor)
            most = max(most, self.daemon.resident())
        refused = [answer for answer in answers.values() if told in answer]
        whole = sum(not len(rest) for _, rest in left.values())
        self.assertGreaterEqual(len(refused), CLIENTS - BUDGET // (4 * MIB))
        self.assertGreater(whole, 2)
        self.assertTrue(all(b"overloaded, retry" in answer for answer in refused))
        self.assertLess(most - before, BUDGET + ALLOWANCE)
        self.serve()

    def test_by_length(self) -> None:
        """REST, with a Content-Length."""
        self.check(by_length, b" 503 ")

    def test_in_chunks(self) -> None:
        """REST, in chunks."""
        self.check(in_chunks, b" 503 ")

    def test_in_a_frame(self) -> None:
        """WebSocket, in one frame."""
        self.check(in_a_frame, b"overloaded, retry", websocket=True)

    def test_in_fragments(self) -> None:
        """WebSocket, in fragments."""
        self.check(in_fragments, b"overloaded, retry", websocket=True)
