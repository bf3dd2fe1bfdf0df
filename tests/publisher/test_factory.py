"""Tests of raccoon.publisher.factory."""

from __future__ import annotations

import sys
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from raccoon.config import load
from raccoon.errors import ConfigError
from raccoon.interfaces import IPublisher
from raccoon.publisher import PublisherContext
from raccoon.publisher.factory import make_publisher
from raccoon.publisher.log import LogPublisher
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics
from tests.pigeon_post import install_pigeon_post


def make_context(name: str) -> PublisherContext:
    environment = {
        "PUBLISHER_TYPE": name,
        "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    }
    return PublisherContext(load({}, environment), FakeMetrics(), Supervisor(FakeMetrics()))


class ChoiceTests(SynchronousTestCase):
    """From a name to a publisher."""

    def test_log(self) -> None:
        """`log` is the log."""
        self.assertIsInstance(make_publisher(make_context("log")), LogPublisher)

    def test_kafka(self) -> None:
        """`kafka` is Kafka, constructed without a connection to it."""
        publisher = make_publisher(make_context("kafka"))
        verifyObject(IPublisher, publisher)
        self.assertEqual("kafka", publisher.name)

    def test_unknown(self) -> None:
        """A name that is not installed is refused with a list of those that are."""
        error = self.assertRaises(ConfigError, make_context, "owl")
        self.assertTrue(
            str(error).startswith(
                "PUBLISHER_TYPE: no publisher 'owl' is installed; expected one of"
            )
        )
        self.assertIn("kafka, kinesis, log, pubsub", str(error))


class InstalledPublisherTests(SynchronousTestCase):
    """A publisher of a third party's."""

    def setUp(self) -> None:
        install_pigeon_post(self)

    def test_found_by_its_entry_point(self) -> None:
        """A publisher that another package announces is constructed with the context."""
        context = make_context("pigeon")
        publisher: Any = make_publisher(context)
        self.assertTrue(IPublisher.providedBy(publisher))
        self.assertEqual("pigeon", publisher.name)
        self.assertIs(context, publisher.context)

    def test_loaded_only_when_chosen(self) -> None:
        """Its module is not imported while another publisher is chosen."""
        make_publisher(make_context("log"))
        self.assertNotIn("pigeon_post", sys.modules)

    def test_driver_is_missing(self) -> None:
        """A publisher whose driver cannot be imported is refused with the driver's name."""
        error = self.assertRaises(ConfigError, make_context, "driverless")
        self.assertIn("'driverless' cannot be imported", str(error))
        self.assertIn("no_such_driver", str(error))

    def test_object_is_missing(self) -> None:
        """A publisher that its package announces but does not hold is refused."""
        error = self.assertRaises(ConfigError, make_context, "extinct")
        self.assertIn("DodoPublisher", str(error))

    def test_options_reach_it(self) -> None:
        """The options that it declares reach it by its context, as an object of its own class."""
        environment = {
            "PUBLISHER_TYPE": "homing-pigeon",
            "PUBLISHER_HOMING_PIGEON_LOFT": "the attic",
        }
        settings = load({}, environment)
        publisher: Any = make_publisher(
            PublisherContext(settings, FakeMetrics(), Supervisor(FakeMetrics()))
        )
        self.assertEqual(("the attic", 2), (publisher.loft, publisher.speed))
