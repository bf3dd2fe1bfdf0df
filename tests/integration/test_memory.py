"""Memory stays flat: idle connections are cheap, and what clients choose is bounded."""

from __future__ import annotations

import resource
import time

from twisted.trial.unittest import SynchronousTestCase

from raccoon.proto.raccoon_pb2 import SendEventRequest
from raccoon.proto.raccoon_pb2_grpc import EventServiceStub
from tests.integration.clients import grpc_channel, json_answer, json_request, protobuf_request
from tests.integration.daemon import Daemon
from tests.integration.load import in_threads
from tests.integration.raw import EVENTS, TEXT, RawSocket, RawWebSocket, frame
from tests.integration.waiting import wait_until

_CONNECTIONS = 2000
_BYTES_PER_CONNECTION = 20 * 1024
_DISTINCT = 20_000
_DISTINCT_GROWTH = 20 << 20
_SCRAPE_BYTES = 1 << 20
_PIPELINED = 20


def allow_open_files(count: int) -> None:
    """Raise this process's own limit where it is lower."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


class MemoryTests(SynchronousTestCase):
    """Each test has a service of its own, with the log publisher."""

    def start(self) -> Daemon:
        """A service whose log is quiet."""
        daemon = Daemon(
            {
                "PUBLISHER_TYPE": "log",
                "LOG_LEVEL": "error",
                "SERVER_WEBSOCKET_CONN_GROUP_HEADER": "X-Group",
                "METRIC_RUNTIME_STATS_RECORD_INTERVAL_MS": 200,
            }
        )
        self.addCleanup(daemon.kill)
        daemon.start()
        return daemon

    def settled(self, daemon: Daemon) -> int:
        """Resident memory after a moment without work."""
        time.sleep(0.5)
        return daemon.resident()

    def test_idle_connections(self) -> None:
        """2,000 idle WebSocket connections cost 20 KB each at most, and nothing once closed."""
        allow_open_files(_CONNECTIONS + 500)
        daemon = self.start()
        open_files = daemon.metric("server_open_files_current")
        warm = [RawWebSocket(daemon.http_port, f"warm-{number}") for number in range(100)]
        before = self.settled(daemon)
        connections = [
            RawWebSocket(daemon.http_port, f"idle-{number}") for number in range(_CONNECTIONS)
        ]
        everyone = warm + connections

        def close() -> None:
            for connection in everyone:
                connection.socket.close()

        self.addCleanup(close)
        self.assertEqual(daemon.metric("connections_count_current"), len(everyone))
        cost = (self.settled(daemon) - before) / _CONNECTIONS
        self.assertLess(cost, _BYTES_PER_CONNECTION)
        for connection in everyone[::2]:
            connection.send(frame(8, b"\x03\xe8"))
        for connection in everyone:
            connection.socket.close()
        wait_until(lambda: daemon.metric("connections_count_current") == 0, "an empty table")
        wait_until(
            lambda: daemon.metric("server_open_files_current") <= open_files + 5,
            "closed descriptors",
        )
        again = [RawWebSocket(daemon.http_port, f"idle-{number}") for number in range(100)]
        self.assertEqual(daemon.metric("connections_count_current"), 100)
        for connection in again:
            connection.socket.close()

    def test_distinct_values(self) -> None:
        """20,000 ids, groups, types and guids on reused connections cost little memory."""
        daemon = self.start()
        self.send_distinct(daemon, 0, 500)
        before = self.settled(daemon)
        self.send_distinct(daemon, 500, 500 + _DISTINCT)
        sent = 500 + _DISTINCT
        wait_until(lambda: daemon.metric("events_delivered_total") == sent, "all delivered")
        self.assertEqual(daemon.metric("events_rx_total"), sent)
        self.assertLess(self.settled(daemon) - before, _DISTINCT_GROWTH)
        self.assertLess(len(daemon.scrape()), _SCRAPE_BYTES)
        self.assertGreater(daemon.metric("events_rx_total", event_type="other"), _DISTINCT / 2)

    def send_distinct(self, daemon: Daemon, first: int, last: int) -> None:
        """Send one event for each number: REST eight tenths, WebSocket and gRPC one each."""
        numbers = range(first, last)
        in_threads(
            lambda index: (self.over_rest, self.over_websocket, self.over_grpc)[index](
                daemon,
                [
                    [n for n in numbers if n % 10 > 1],
                    [n for n in numbers if n % 10 == 1],
                    [n for n in numbers if n % 10 == 0],
                ][index],
            ),
            3,
        )

    def over_rest(self, daemon: Daemon, numbers: list[int]) -> None:
        """Pipelined on one connection, each request with an id and a group of its own."""
        with RawSocket(daemon.http_port) as raw:
            answers = raw.socket.makefile("rb")
            for start in range(0, len(numbers), _PIPELINED):
                some = numbers[start : start + _PIPELINED]
                raw.send(b"".join(map(rest_request, some)))
                for number in some:
                    self.assertTrue(answers.readline().startswith(b"HTTP/1.1 200 "))
                    length = 0
                    while (line := answers.readline()) != b"\r\n":
                        name, _, value = line.partition(b":")
                        if name.lower() == b"content-length":
                            length = int(value)
                    answer = json_answer(answers.read(length))
                    self.assertEqual(answer.guid, f"guid-{number}")

    def over_websocket(self, daemon: Daemon, numbers: list[int]) -> None:
        """One message after the other, on a new connection for every fifty."""
        for start in range(0, len(numbers), 50):
            with RawWebSocket(daemon.http_port, f"id-{numbers[start]}") as raw:
                for number in numbers[start : start + 50]:
                    raw.send(frame(TEXT, json_request(f"guid-{number}", distinct(number))))
                    self.assertTrue(json_answer(raw.read_frame()[1]).ok)

    def over_grpc(self, daemon: Daemon, numbers: list[int]) -> None:
        """One call after the other on one channel."""
        with grpc_channel(daemon) as channel:
            stub = EventServiceStub(channel)
            for number in numbers:
                request = SendEventRequest.FromString(
                    protobuf_request(f"guid-{number}", distinct(number))
                )
                metadata = (("x-user-id", f"id-{number}"), ("x-group", f"group-{number}"))
                response = stub.SendEvent(request, metadata=metadata, timeout=30)
                self.assertEqual(response.data["req_guid"], f"guid-{number}")


def distinct(number: int) -> list[tuple[str, bytes]]:
    """One event of a type that only this number has."""
    return [(f"type-{number}", b"%d" % number)]


def rest_request(number: int) -> bytes:
    """A request of a client, group and type that only this number has."""
    body = json_request(f"guid-{number}", distinct(number))
    return (
        f"POST {EVENTS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"X-User-ID: id-{number}\r\nX-Group: group-{number}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
