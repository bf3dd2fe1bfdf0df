"""Which drivers a process loads."""

from __future__ import annotations

import json
import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

# Run by a fresh interpreter: constructs the publisher named by the first argument, then says
# which drivers are loaded.
LOADED_DRIVERS = """
import json, sys
from raccoon import app, tap
from raccoon.config import load
from raccoon.metrics.registry import Metrics
from raccoon.publisher import PublisherContext
from raccoon.publisher.factory import make_publisher
from raccoon.supervision import Supervisor

settings = load(
    {"PUBLISHER_TYPE": sys.argv[1], "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, {}
)
make_publisher(PublisherContext(settings, Metrics(), Supervisor(Metrics())))
drivers = ("confluent_kafka", "google.cloud", "google.pubsub_v1", "boto3", "botocore")
print(json.dumps([name for name in drivers if name in sys.modules]))
"""


class DriverTests(SynchronousTestCase):
    """Which drivers are loaded."""

    def loaded(self, publisher: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-c", LOADED_DRIVERS, publisher],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(0, done.returncode, done.stderr)
        drivers: list[str] = json.loads(done.stdout)
        return drivers

    def test_none_for_the_log(self) -> None:
        """With the log as the destination no driver is loaded."""
        self.assertEqual([], self.loaded("log"))

    def test_kafkas_alone(self) -> None:
        """With Kafka as the destination no other driver is loaded."""
        self.assertEqual(["confluent_kafka"], self.loaded("kafka"))
