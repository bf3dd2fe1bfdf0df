"""Every event of every encoding reaches Kafka, once and unchanged."""

from __future__ import annotations

from collections import Counter

from tests.engines.kafka import KafkaBroker
from tests.integration.case import SharedCase
from tests.integration.clients import CODECS
from tests.integration.daemon import Daemon
from tests.integration.load import in_threads, payloads

_REQUESTS = 1000
_EVENTS = 5
_CLIENTS = 8


class CodecTests(SharedCase):
    """One broker and one service, with acknowledgement after delivery."""

    broker: KafkaBroker
    daemon: Daemon

    @classmethod
    def share_setup(cls) -> None:
        cls.broker = cls.share_broker()
        cls.daemon = cls.share_daemon(
            {
                "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": cls.broker.bootstrap,
                "EVENT_ACK": 1,
                "EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "codec-%s",
            }
        )

    def check(self, codec: str) -> None:
        """Send 1,000 requests of 5 events of two types and compare Kafka with what was sent."""
        sent: list[Counter[tuple[str, bytes]]] = [Counter() for _ in range(_CLIENTS)]
        wrong: list[object] = []
        types = (f"{codec}.a", f"{codec}.b")

        def run(index: int) -> None:
            source = payloads(f"{codec}/{index}", index)
            with CODECS[codec](self.daemon, f"{codec}-{index}") as client:
                for number in range(_REQUESTS // _CLIENTS):
                    guid = f"{index}-{number}"
                    events = [(types[i % 2], next(source)) for i in range(_EVENTS)]
                    answer = client.send(guid, events)
                    if not answer.ok or answer.guid != guid:
                        wrong.append(answer)
                    sent[index].update((f"codec-{kind}", payload) for kind, payload in events)

        in_threads(run, _CLIENTS)
        self.assertEqual(wrong, [])
        everything = sum(sent, Counter())
        self.assertEqual(everything.total(), _REQUESTS * _EVENTS)
        stored = Counter(self.broker.read(f"codec-{kind}" for kind in types))
        self.assertEqual(everything - stored, Counter(), "events are missing")
        self.assertEqual(stored - everything, Counter(), "events came twice, or changed")

    def test_rest_json(self) -> None:
        """REST with JSON delivers each event once, byte for byte."""
        self.check("rest-json")

    def test_rest_protobuf(self) -> None:
        """REST with protobuf delivers each event once, byte for byte."""
        self.check("rest-protobuf")

    def test_websocket_text(self) -> None:
        """WebSocket text messages deliver each event once, byte for byte."""
        self.check("websocket-text")

    def test_websocket_binary(self) -> None:
        """WebSocket binary messages deliver each event once, byte for byte."""
        self.check("websocket-binary")

    def test_grpc(self) -> None:
        """gRPC delivers each event once, byte for byte."""
        self.check("grpc")
