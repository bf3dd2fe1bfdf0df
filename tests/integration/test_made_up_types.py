"""A client that makes up event types: it fills no memory, and holds nobody up."""

from __future__ import annotations

import time

from tests.integration.clients import CODECS, protobuf_answer, protobuf_request
from tests.integration.journal_case import JournalCase
from tests.integration.load import in_threads
from tests.integration.raw import BINARY, RawWebSocket, frame
from tests.integration.waiting import wait_until

_CONNECTIONS = 2
_REQUESTS = 1500
_IN_FLIGHT = 16
_TYPES = 20
_GROWTH = 80 << 20
_GOOD_WITHIN = 5.0


class MadeUpTypesTests(JournalCase):
    """A broker that makes no topics by itself, and a journal that takes everything."""

    def make_up(self, port: int, index: int) -> None:
        """Have many requests answered, of types that were never used before."""
        with RawWebSocket(port, f"inventive-{index}") as client:
            client.socket.settimeout(60)
            sent = answered = 0
            while answered < _REQUESTS:
                while sent < _REQUESTS and sent - answered < _IN_FLIGHT:
                    events = [(f"new-{index}-{sent}-{kind}", b"x" * 100) for kind in range(_TYPES)]
                    client.send(frame(BINARY, protobuf_request(f"{sent}", events)))
                    sent += 1
                opcode, message = client.read_frame()
                if opcode == BINARY:
                    self.assertTrue(protobuf_answer(message).ok)
                    answered += 1

    def test_memory_and_others(self) -> None:
        """All of it ends among the dead letters, and a good request is delivered meanwhile."""
        self.broker.create_topic("good")
        daemon = self.start(PUBLISHER_KAFKA_CLIENT_TOPIC_METADATA_PROPAGATION_MAX_MS=1000)
        client = CODECS["websocket-binary"](daemon, "good")
        self.addCleanup(client.close)
        self.assertTrue(client.send("first", [("good", b"first")]).ok)
        before = daemon.resident()
        in_threads(lambda index: self.make_up(daemon.http_port, index), _CONNECTIONS)
        self.assertTrue(client.send("among", [("good", b"among")]).ok)
        sent = time.monotonic()
        while b"among" not in {value for _, value in self.broker.read(["good"])}:
            self.assertLess(time.monotonic() - sent, _GOOD_WITHIN)
        wait_until(
            lambda: daemon.metric("journal_dead_letters_current") == _CONNECTIONS * _REQUESTS,
            "all of it among the dead letters",
            120,
        )
        self.assertLess(daemon.resident() - before, _GROWTH)
        self.check_sum(daemon)
        self.assertEqual(0, daemon.stop(), daemon.log())
        self.assertNotIn("Traceback", daemon.log())
