"""Many clients at once, and a record of what each was told."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import grpc
from websockets.exceptions import WebSocketException

from tests.integration.clients import CODECS, Client, protobuf_answer, protobuf_request
from tests.integration.daemon import Daemon
from tests.integration.raw import BINARY, RawWebSocket, frame

LOST = (OSError, EOFError, http.client.HTTPException, WebSocketException, grpc.RpcError)
_JOIN_SECONDS = 60
_RETRY_PAUSE = 0.01


def payloads(tag: str, seed: int = 0) -> Iterator[bytes]:
    """Endless event bytes, each different, of 0 to 400 random bytes behind a unique head."""
    source = random.Random(seed)
    number = 0
    while True:
        yield f"{tag}/{number}/".encode() + source.randbytes(source.randrange(400))
        number += 1


def in_threads(work: Callable[[int], None], count: int, timeout: float = _JOIN_SECONDS) -> None:
    """Run work(0) to work(count - 1) at once.

    Raises:
        AssertionError: one did not end within `timeout` seconds.
        Exception: the first that one of them raised.
    """
    errors: list[BaseException] = []

    def run(index: int) -> None:
        try:
            work(index)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    if errors:
        raise errors[0]
    if any(thread.is_alive() for thread in threads):
        raise AssertionError(f"the clients did not end in {timeout} s")


class Load:
    """Clients of every codec that send without end, until stopped or until they are cut off.

    Args:
        daemon: where to.
        event_type: of every event.
        clients_per_codec: each has a connection and a thread.
        events: in a request.
        tag: of the events' bytes, where several loads send to one topic; the event type else.
    """

    def __init__(
        self,
        daemon: Daemon,
        event_type: str,
        clients_per_codec: int = 2,
        events: int = 5,
        tag: str = "",
    ) -> None:
        self._daemon = daemon
        self._event_type = event_type
        self._events = events
        self._tag = tag or event_type
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self.sent: list[bytes] = []
        self.acknowledged: list[bytes] = []
        self.by_codec: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()
        self._threads = [
            threading.Thread(target=self._run, args=(codec, index), daemon=True)
            for codec in CODECS
            for index in range(clients_per_codec)
        ]

    def start(self) -> None:
        """Begin to send."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send no more; returns once every client has its last answer.

        Raises:
            AssertionError: one waits for it for more than a minute.
        """
        self._stopping.set()
        deadline = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0))
        if any(thread.is_alive() for thread in self._threads):
            raise AssertionError("a client has had no answer for a minute")

    def requests(self) -> int:
        """How many were acknowledged so far."""
        return self.by_codec.total()

    def on_all_codecs(self) -> bool:
        """Whether one was acknowledged in each codec."""
        return len(self.by_codec) == len(CODECS)

    def _run(self, codec: str, index: int) -> None:
        name = f"{codec}-{index}"
        source = payloads(f"{self._tag}/{name}", index)
        try:
            with CODECS[codec](self._daemon, name) as client:
                while not self._stopping.is_set():
                    self._send(client, codec, [next(source) for _ in range(self._events)])
        except LOST:
            pass

    def _send(self, client: Client, codec: str, batch: list[bytes]) -> None:
        with self._lock:
            self.sent += batch
        answer = client.send("guid", [(self._event_type, payload) for payload in batch])
        with self._lock:
            if answer.ok:
                self.acknowledged += batch
                self.by_codec[codec] += 1
            else:
                self.refusals[answer.reason] += 1
        if not answer.ok:
            time.sleep(_RETRY_PAUSE)


class Flood:
    """Requests at a rate at which Load's clients would be what is measured.

    Each connection has some requests in flight; all of one connection run in one thread.

    Args:
        daemon: where to.
        event_type: of every event.
        connections: of WebSocket, a thread each.
        in_flight: requests on each of them.
        events: in a request.
    """

    def __init__(
        self,
        daemon: Daemon,
        event_type: str,
        connections: int = 4,
        in_flight: int = 16,
        events: int = 5,
    ) -> None:
        self._daemon = daemon
        self._event_type = event_type
        self._connections = connections
        self._in_flight = in_flight
        self._events = events
        self._runs = 0
        self.acknowledged: list[bytes] = []
        self.refusals: Counter[str] = Counter()

    def send(self, requests: int, rate: float = 0, timeout: float = 300) -> float:
        """Have so many requests answered, on new connections; gives the seconds it took.

        Args:
            requests: in all.
            rate: requests a second at most; 0 for as many as there can be.
            timeout: seconds.
        """
        share, pause = requests // self._connections, self._connections / rate if rate else 0
        self._runs += 1
        began = time.monotonic()
        in_threads(lambda index: self._run(index, share, pause), self._connections, timeout)
        return time.monotonic() - began

    def _run(self, index: int, requests: int, pause: float) -> None:
        source = payloads(f"{self._event_type}/flood-{self._runs}-{index}", index)
        waiting: dict[str, list[bytes]] = {}
        sent = answered = 0
        acknowledged: list[bytes] = []
        began = time.monotonic()
        with RawWebSocket(self._daemon.http_port, f"flood-{self._runs}-{index}") as client:
            client.socket.settimeout(_JOIN_SECONDS)
            while answered < requests:
                time.sleep(max(began + answered * pause - time.monotonic(), 0))
                while sent < requests and len(waiting) < self._in_flight:
                    guid, sent = f"{sent}", sent + 1
                    waiting[guid] = [next(source) for _ in range(self._events)]
                    events = [(self._event_type, payload) for payload in waiting[guid]]
                    client.send(frame(BINARY, protobuf_request(guid, events)))
                _, message = client.read_frame()
                answer = protobuf_answer(message)
                batch = waiting.pop(answer.guid or "")
                answered += 1
                if answer.ok:
                    acknowledged += batch
                else:
                    self.refusals[answer.reason] += 1
        self.acknowledged += acknowledged
