"""Tests of raccoon.publisher.PublisherContext."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from raccoon.config import load
from raccoon.publisher import PublisherContext
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics, make_request


def context(**environment: str) -> PublisherContext:
    return PublisherContext(load({}, environment), FakeMetrics(), Supervisor(FakeMetrics()))


class PartitionKeyTests(SynchronousTestCase):
    """EVENT_PARTITION_KEY."""

    def key(
        self, choice: str, longest: int = 256, client: str = "client", group: str = "group"
    ) -> str | None:
        request = make_request("guid-1", client=client, group=group)
        return context(EVENT_PARTITION_KEY=choice).partition_key(request, "click", longest)

    def test_none(self) -> None:
        """No key is given unless one is asked for."""
        self.assertIsNone(context().partition_key(make_request(), "click", 256))
        self.assertIsNone(self.key("none"))

    def test_choices(self) -> None:
        """A client, a type or a request is the key."""
        self.assertEqual("web/anna", self.key("connection", client="anna", group="web"))
        self.assertEqual("click", self.key("type"))
        self.assertEqual("guid-1", self.key("request"))

    def test_longest(self) -> None:
        """A key over the destination's limit, counted in bytes, is replaced by its hash."""
        exact = self.key("connection", 10, client="ééé", group="abc")
        self.assertEqual("abc/ééé", exact)
        hashed = self.key("connection", 9, client="ééé", group="abc")
        self.assertRegex(hashed or "", "^[0-9a-f]{64}$")
        self.assertEqual(hashed, self.key("connection", 9, client="ééé", group="abc"))
        self.assertNotEqual(hashed, self.key("connection", 9, client="ééè", group="abc"))

    def test_empty(self) -> None:
        """An empty guid or type is no key."""
        keyed = context(EVENT_PARTITION_KEY="request")
        self.assertIsNone(keyed.partition_key(make_request(""), "click", 256))


class MetadataTests(SynchronousTestCase):
    """EVENT_METADATA_ENABLED."""

    def test_off(self) -> None:
        """Nothing is sent unless it is asked for."""
        self.assertIsNone(context().metadata(make_request(), 0))

    def test_on(self) -> None:
        """What tells duplicates apart, and where and when an event came in."""
        request = make_request("guid-1", group="web", received_at=12.3456)
        self.assertEqual(
            {
                "req_guid": "guid-1",
                "event_index": "7",
                "conn_group": "web",
                "received_at": "12346",
            },
            context(EVENT_METADATA_ENABLED="true").metadata(request, 7),
        )
