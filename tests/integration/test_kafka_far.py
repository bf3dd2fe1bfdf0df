"""A Kafka that takes a while to answer, as one in another data center does."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from tests.engines.kafka import KafkaBroker
from tests.engines.link import SlowLink
from tests.integration.clients import CODECS
from tests.integration.daemon import Daemon

_DELAY = 0.01
_CLIENTS = 4
_WARM = 40
_SECONDS = 2.0


class FarTests(SynchronousTestCase):
    """What waiting for Kafka costs."""

    def setUp(self) -> None:
        directory = TemporaryDirectory(prefix="raccoon-kafka-")
        self.addCleanup(directory.cleanup)
        link = SlowLink(_DELAY)
        self.addCleanup(link.close)
        self.broker = KafkaBroker(
            Path(directory.name),
            properties={"advertised.listeners": f"PLAINTEXT://127.0.0.1:{link.port}"},
        )
        link.target = self.broker.port
        self.broker.start()
        self.addCleanup(self.broker.stop)
        self.broker.create_topic("far")

    def send(self, daemon: Daemon, number: int, requests: int, until: float) -> int:
        """So many requests one after another, and more until then; gives how many they were."""
        sent = 0
        with CODECS["websocket-binary"](daemon, f"client-{number}") as client:
            while sent < requests or time.monotonic() < until:
                answer = client.send(f"{number}-{sent}", [("far", b"%d" % sent)] * 10)
                self.assertTrue(answer.ok, answer)
                sent += 1
        return sent

    def send_all(self, daemon: Daemon, requests: int, until: float = 0) -> int:
        """The same from several clients at once."""
        sent: list[int] = []
        threads = [
            threading.Thread(
                target=lambda number=number: sent.append(self.send(daemon, number, requests, until))
            )
            for number in range(_CLIENTS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(_CLIENTS, len(sent))
        return sum(sent)

    def test_waiting_is_for_free(self) -> None:
        """While events wait for Kafka no processor is kept busy, and few wait for others.

        What waits for a partition that has something on its way costs librdkafka a whole processor.
        """
        daemon = Daemon(
            {
                "EVENT_ACK": "1",
                "EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "%s",
                "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": self.broker.bootstrap,
            }
        )
        self.addCleanup(daemon.kill)
        daemon.start()
        self.send_all(daemon, _WARM)
        before, began = daemon.processor_time(), time.monotonic()
        sent = self.send_all(daemon, 1, began + _SECONDS)
        lasted = time.monotonic() - began
        share = (daemon.processor_time() - before) / lasted
        self.assertLess(share, 0.4, f"{sent} requests in {lasted} s")
        self.assertGreater(sent / lasted, _CLIENTS / _DELAY / 3)
        self.assertEqual(0, daemon.stop(), daemon.log())
