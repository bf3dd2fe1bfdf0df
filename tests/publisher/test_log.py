"""Tests of raccoon.publisher.log."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from raccoon.config import load
from raccoon.errors import PublishError
from raccoon.interfaces import IPublisher
from raccoon.payload import show
from raccoon.publisher import PublisherContext, log
from raccoon.publisher.log import LogPublisher
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics, make_request


class LogPublisherTests(SynchronousTestCase):
    """The log as a destination."""

    def setUp(self) -> None:
        environment = {"EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "to-%s"}
        self.publisher = LogPublisher(
            PublisherContext(load({}, environment), FakeMetrics(), Supervisor(FakeMetrics()))
        )

    def publish(self, *requests: Any) -> tuple[list[PublishError | None], list[dict[str, Any]]]:
        with self.assertLogs("raccoon.publisher.log", "INFO") as logged:
            outcomes = self.publisher.publish(requests)
        return outcomes, [
            {**vars(record)["fields"], "text": record.getMessage()} for record in logged.records
        ]

    def test_interface(self) -> None:
        """It is an IPublisher, named log."""
        verifyObject(IPublisher, self.publisher)
        self.assertEqual("log", self.publisher.name)
        self.assertTrue(self.publisher.reachable)

    def test_one_line_an_event(self) -> None:
        """Each event is one record with its topic, type, size and content."""
        _, fields = self.publish(
            make_request(events=[("click", b'{"a":1}'), ("page", b"\xff")]),
            make_request(events=[("click", b"\x08\x01")]),
        )
        self.assertEqual(
            [
                {
                    "topic": "to-click",
                    "type": "click",
                    "size": 7,
                    "form": "json",
                    "text": 'event {"a":1}',
                },
                {"topic": "to-page", "type": "page", "size": 1, "form": "hex", "text": "event ff"},
                {
                    "topic": "to-click",
                    "type": "click",
                    "size": 2,
                    "form": "protobuf",
                    "text": "event {1: 1}",
                },
            ],
            fields,
        )

    def test_confirms_everything(self) -> None:
        """Every request is confirmed, one outcome each."""
        outcomes, _ = self.publish(make_request(), make_request())
        self.assertEqual([None, None], outcomes)

    def test_event_that_cannot_be_shown(self) -> None:
        """It fails alone, for good; all others are written."""

        def show_or_fail(payload: bytes) -> tuple[str, str]:
            if payload == b"bad":
                raise RecursionError("too deep")
            return show(payload)

        self.patch(log, "show", show_or_fail)
        outcomes, fields = self.publish(
            make_request(events=[("click", b"1"), ("page", b"bad"), ("click", b"2")]),
            make_request(events=[("click", b"3")]),
        )
        self.assertEqual(["event 1", "event 2", "event 3"], [each["text"] for each in fields])
        failed, good = outcomes
        self.assertIsNone(good)
        assert failed is not None
        self.assertEqual("1 of 3 events failed: the event cannot be shown: too deep", str(failed))
        self.assertEqual({"page": 1}, failed.lasting)

    def test_nothing_is_ever_left(self) -> None:
        """Closing leaves no event behind."""
        self.publisher.start()
        self.assertEqual(0, self.publisher.close(1.0))


class RouteTests(SynchronousTestCase):
    """Where an event goes."""

    def route(self, pattern: str, event_type: str) -> str:
        settings = load({}, {"EVENT_DISTRIBUTION_PUBLISHER_PATTERN": pattern})
        return PublisherContext(settings, FakeMetrics(), Supervisor(FakeMetrics())).route(
            event_type
        )

    def test_type_in_the_pattern(self) -> None:
        """The first %s of the pattern is replaced by the event's type."""
        self.assertEqual("clickstream-page-log", self.route("clickstream-%s-log", "page"))
        self.assertEqual("page-%s", self.route("%s-%s", "page"))

    def test_pattern_without_type(self) -> None:
        """A pattern without %s sends everything to one place."""
        self.assertEqual("all", self.route("all", "page"))

    def test_type_that_looks_like_a_pattern(self) -> None:
        """A type is taken as it is."""
        self.assertEqual("a-%s-b", self.route("a-%s-b", "%s"))
