"""The start on the real client, which is asked nothing."""

from __future__ import annotations

import logging
import os
import threading

from twisted.trial.unittest import SynchronousTestCase

from raccoon.errors import StartError
from raccoon.publisher.kinesis import publisher as kinesis
from raccoon.publisher.kinesis.publisher import KinesisPublisher
from tests.fakes import FakeMetrics
from tests.publisher.kinesis.case import (
    make_context,
)


class StartTests(SynchronousTestCase):
    """The real client, which is asked nothing."""

    def test_destination(self) -> None:
        """It says where events go, and that metadata cannot be sent."""
        self.patch(os, "environ", {"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL": "http://[::1]:9"})
        publisher = KinesisPublisher(make_context(FakeMetrics(), metadata=True))
        self.addCleanup(publisher.close, 0)
        with self.assertLogs(kinesis.__name__, logging.WARNING) as logs:
            publisher.start()
        self.assertEqual(publisher.destination, "Kinesis at http://[::1]:9, streams %s")
        said = [line for line in logs.output if "EVENT_METADATA_ENABLED" in line]
        self.assertEqual(len(said), 1)

    def test_no_region(self) -> None:
        """Without a region it does not start, and leaves no thread."""
        nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        self.patch(os, "environ", nothing)
        before = threading.active_count()
        publisher = KinesisPublisher(make_context(FakeMetrics()))
        error = self.assertRaises(StartError, publisher.start)
        self.assertIn("PUBLISHER_KINESIS_AWS_REGION: missing", str(error))
        self.assertEqual(threading.active_count(), before)
