"""Tests of the fakes: they refuse what the real things refuse, and fail where a test says so."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.interface import InterfaceClass, Method
from zope.interface.verify import verifyObject

from raccoon.errors import PublishError
from raccoon.interfaces import ICollector, IJournal, IMetrics, IPublisher
from tests.edges.collector import FakeCollector
from tests.edges.socket import MemorySocket
from tests.fakes import Fake, FakeJournal, FakeMetrics, FakePublisher, make_request

FAKES: list[tuple[InterfaceClass, type[Fake]]] = [
    (ICollector, FakeCollector),
    (IJournal, FakeJournal),
    (IMetrics, FakeMetrics),
    (IPublisher, FakePublisher),
]


class FaultTests(SynchronousTestCase):
    """Fakes that fail."""

    def test_each_method_can_fail(self) -> None:
        """Each method of each interface raises what the test gives, before it does anything."""
        for interface, kind in FAKES:
            for name, method in interface.namesAndDescriptions():
                if not isinstance(method, Method):
                    continue
                fake = kind()
                fake.faults[name] = OSError(name)
                arguments = [None] * len(method.getSignatureInfo()["required"])
                self.assertRaises(OSError, getattr(fake, name), *arguments)

    def test_provide_their_interfaces(self) -> None:
        """Each fake has all that its interface asks for."""
        for interface, kind in FAKES:
            verifyObject(interface, kind())


class MisuseTests(SynchronousTestCase):
    """Fakes that are used as the real things must not be."""

    def test_metrics(self) -> None:
        """Metrics are taken under the names, kinds and labels of the table alone."""
        metrics: Any = FakeMetrics()
        self.assertRaises(KeyError, metrics.count, "no_such_metric_total", 1)
        self.assertRaises(AssertionError, metrics.gauge, "events_delivered_total", 1)
        self.assertRaises(AssertionError, metrics.count, "events_delivered_total", 1, ("x", "y"))

    def test_publisher(self) -> None:
        """A publisher is started once, and publishes between its start and its close."""
        publisher = FakePublisher()
        self.assertRaises(AssertionError, publisher.publish, [make_request()])
        publisher.start()
        self.assertRaises(AssertionError, publisher.start)
        self.assertEqual([None], publisher.publish([make_request()]))
        publisher.close(0)
        self.assertRaises(AssertionError, publisher.publish, [make_request()])

    def test_journal(self) -> None:
        """A journal hears of the delivery of what it has, once, and takes nothing while full."""
        journal, request = FakeJournal(), make_request()
        self.assertRaises(AssertionError, journal.delivered, [request])
        journal.full = "full"
        self.assertRaises(AssertionError, journal.add, request, False)
        self.assertIsNone(journal.retain(request, PublishError(1, 1, ["down"])))
        journal.full = ""
        journal.add(request, False)
        journal.delivered([request])
        self.assertRaises(AssertionError, journal.delivered, [request])

    def test_collector(self) -> None:
        """A client that asks for room where there is some goes on at once."""
        collector, resumed = FakeCollector(), []
        collector.when_room(lambda: resumed.append("at once"))
        collector.overloaded = True
        collector.when_room(lambda: resumed.append("later"))
        self.assertEqual(["at once"], resumed)
        collector.make_room()
        self.assertEqual(["at once", "later"], resumed)

    def test_collector_of_an_empty_request(self) -> None:
        """A request without events is acknowledged at once, at any level and in any load."""
        collector = FakeCollector()
        collector.overloaded = True
        self.successResultOf(collector.collect(make_request(events=())))


class Recorder:
    """A protocol that notes how much comes at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def dataReceived(self, data: bytes) -> None:
        self.sizes.append(len(data))

    def connectionLost(self, reason: object) -> None:
        pass


class SocketTests(SynchronousTestCase):
    """The connection in memory."""

    def setUp(self) -> None:
        self.socket = MemorySocket(Clock())
        self.socket.protocol = self.recorder = Recorder()

    def test_reads_are_bounded(self) -> None:
        """No more comes at once than a transport reads."""
        self.socket.deliver(b"x" * 100_000)
        self.assertEqual([65536, 34464], self.recorder.sizes)

    def test_writes_bytes_alone(self) -> None:
        """Anything but bytes is refused, also among several pieces."""
        socket: Any = self.socket
        self.assertRaises(AssertionError, socket.write, "text")
        self.assertRaises(AssertionError, socket.writeSequence, [b"a", bytearray(b"b")])

    def test_producer_of_a_lost_connection(self) -> None:
        """A producer that comes when the client is gone is stopped at once."""
        stopped = []

        class Producer:
            def stopProducing(self) -> None:
                stopped.append(True)

        self.socket.hang_up()
        self.socket.registerProducer(Producer(), True)
        self.assertEqual([True], stopped)
