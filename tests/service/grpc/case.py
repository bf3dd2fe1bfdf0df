"""What tests of both gRPC methods share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from raccoon.intake import Codec
from raccoon.service.grpc.inbox import Inbox
from tests.edges.bodies import protobuf_body
from tests.edges.collector import FakeCollector


class GrpcCase(SynchronousTestCase):
    """Something that decodes requests and puts them into an inbox, for a collector."""

    inbox: Inbox
    codec: Codec
    collector: FakeCollector

    def turn(self) -> None:
        """The reactor turns."""
        raise NotImplementedError

    def check_stop_while_decoded(self, give: Callable[[bytes], object]) -> None:
        """From when a request is read until it is collected the inbox is not empty."""
        emptied: list[Deferred[None]] = []
        decode = self.codec.deserializer.deserialize

        def stop(body: bytes) -> Any:
            emptied.append(self.inbox.emptied())
            self.turn()
            return decode(body)

        self.patch(self.codec.deserializer, "deserialize", stop)
        give(protobuf_body("a"))
        self.assertNoResult(emptied[0])
        self.turn()
        self.assertEqual(self.collector.guids, ["a"])
        self.successResultOf(emptied[0])
