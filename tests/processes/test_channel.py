"""Tests of raccoon.processes.channel."""

from __future__ import annotations

from typing import Any

from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from raccoon.processes.channel import Channel, encode


class ChannelTests(SynchronousTestCase):
    """One end on a transport in memory."""

    def setUp(self) -> None:
        self.received: list[tuple[Any, ...]] = []
        self.lost: list[bool] = []
        self.channel = Channel(
            lambda *message: self.received.append(message), lambda: self.lost.append(True)
        )
        self.transport = StringTransport()
        self.channel.makeConnection(self.transport)

    def test_messages(self) -> None:
        """A message arrives with its parts, whatever the pieces, a lone surrogate included."""
        sent = encode("claim", "id \ud800", "é") + encode("stop")
        for i in range(0, len(sent), 5):
            self.channel.dataReceived(sent[i : i + 5])
        self.assertEqual([("claim", "id \ud800", "é"), ("stop",)], self.received)

    def test_large(self) -> None:
        """A message may hold many thousand series."""
        self.channel.dataReceived(encode("changes", ["x" * 100] * 30_000))
        self.assertEqual(30_000, len(self.received[0][1]))

    def test_say(self) -> None:
        """What is said is what the other end reads."""
        self.channel.say("verdict", None)
        self.assertEqual(encode("verdict", None), self.transport.value())

    def test_lost(self) -> None:
        """When the other end is gone it is told once, and nothing more is sent."""
        self.channel.connectionLost(Failure(ConnectionDone()))
        self.channel.say("verdict", None)
        self.assertEqual(([True], b""), (self.lost, self.transport.value()))
