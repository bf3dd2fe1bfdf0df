"""Tests of raccoon.intake."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from raccoon.deserialization import JsonDeserializer
from raccoon.intake import (
    FAULT,
    OVERLOADED,
    PUBLISH_FAILED,
    STORED,
    UNDECODABLE,
    UNDECODABLE_BY_REST,
    UNDELIVERABLE,
    UNIDENTIFIED,
    UNKNOWN_CONTENT_TYPE,
    Answer,
    Arrival,
    Codec,
    Intake,
)
from raccoon.messages import Identifier, Response
from raccoon.request import CollectRequest
from raccoon.serialization import JsonSerializer
from tests.edges.bodies import NOW, json_body
from tests.edges.collector import FakeCollector
from tests.edges.edge import make_context
from tests.fakes import FakeMetrics, make_settings

SUCCESS, ERROR = 1, 2
OK, BAD_REQUEST, INTERNAL_ERROR = 1, 2, 3
GROUP = "--default--"


class IntakeCase(SynchronousTestCase):
    """An intake of JSON bodies for a fake collector."""

    def setUp(self) -> None:
        settings = make_settings()
        self.clock = Clock()
        self.clock.advance(NOW)
        self.collector = FakeCollector()
        self.metrics = FakeMetrics()
        self.context = make_context(settings, self.clock, self.collector, self.metrics)
        self.codec = Codec(JsonDeserializer(settings.limits, settings.event), JsonSerializer())
        self.intake = self.context.intake("lines")
        self.answers: list[tuple[Answer, Response, CollectRequest | None, Any]] = []

    def respond(self, *answer: Any) -> None:
        """Keep an answer."""
        self.answers.append(answer)

    def take(
        self, body: bytes, client: str | None = "a", group: str | None = None, **changed: Any
    ) -> None:
        """One request arrives."""
        intake: Intake = changed.get("intake", self.intake)
        respond = changed.get("respond", self.respond)
        intake.take(Arrival(b"", client, group, body), self.codec, respond, "context")

    def answer(self) -> tuple[Answer, Response]:
        """The one answer that was given."""
        self.assertEqual(1, len(self.answers))
        answer, response, _, context = self.answers[0]
        self.assertEqual("context", context)
        return answer, response


class TableTests(IntakeCase):
    """Each outcome, and what is said of it."""

    def test_stored(self) -> None:
        """A request that reached its level is answered with success and its guid."""
        self.take(json_body("g"))
        self.assertEqual([], self.answers)
        self.collector.deliver()
        self.assertEqual((STORED, Response(SUCCESS, OK, int(NOW), "", "g")), self.answer())
        self.assertIs(self.collector.requests[0], self.answers[0][2])
        self.assertEqual(Identifier("a", GROUP), self.collector.requests[0].identifier)

    def test_overloaded(self) -> None:
        """A request that is refused may come again."""
        self.collector.overloaded = True
        self.take(json_body("g"))
        response = Response(ERROR, INTERNAL_ERROR, int(NOW), "overloaded, retry", "g")
        self.assertEqual((OVERLOADED, response), self.answer())
        self.assertTrue(OVERLOADED.retry)

    def test_publish_failed(self) -> None:
        """A failure that may pass is told with its reason."""
        self.take(json_body("g"))
        self.collector.lose(why="no leader")
        reason = "cannot publish events: 1 of 1 events failed: no leader"
        response = Response(ERROR, INTERNAL_ERROR, int(NOW), reason, "g")
        self.assertEqual((PUBLISH_FAILED, response), self.answer())

    def test_undeliverable(self) -> None:
        """A failure that lasts is a bad request, which is not to be sent again."""
        self.take(json_body("g"))
        self.collector.reject(why="no topic")
        reason = "cannot publish events, do not retry: 1 of 1 events failed: no topic"
        response = Response(ERROR, BAD_REQUEST, int(NOW), reason, "g")
        self.assertEqual((UNDELIVERABLE, response), self.answer())

    def test_undecodable(self) -> None:
        """A body that cannot be decoded is a bad request, counted in its client's group."""
        self.take(b"{")
        answer, response = self.answer()
        self.assertIs(UNDECODABLE, answer)
        self.assertIn("cannot deserialize request: not JSON: ", response.reason)
        self.assertEqual((ERROR, BAD_REQUEST, ""), (response.status, response.code, response.guid))
        self.assertEqual(1, self.metrics.total("batches_read_total", ("failed", "serde", GROUP)))

    def test_undecodable_in_other_words(self) -> None:
        """A protocol has words of its own for that."""
        self.take(b"{", intake=self.context.intake("REST", UNDECODABLE_BY_REST))
        answer, response = self.answer()
        self.assertIs(UNDECODABLE_BY_REST, answer)
        self.assertIn("deserialization failure: not JSON: ", response.reason)
        self.assertIsNone(response.guid)

    def test_unidentified(self) -> None:
        """A client without an id is refused where the protocol requires one, and only there."""
        self.take(json_body(), None, intake=self.context.intake("gRPC", requires_id=True))
        answer, response = self.answer()
        self.assertIs(UNIDENTIFIED, answer)
        self.assertEqual("connection id header missing", response.reason)
        self.take(json_body(), None)
        self.assertEqual("", self.collector.requests[0].identifier.id)

    def test_bad_id(self) -> None:
        """An id that cannot be one is a bad request."""
        self.take(json_body(), "x" * 300)
        answer, response = self.answer()
        self.assertIs(UNDECODABLE, answer)
        self.assertIn("LIMIT_ID_LENGTH", response.reason)
        self.assertEqual(1, self.metrics.total("batches_read_total", ("failed", "serde", "NA")))

    def test_refused_before_it_is_read(self) -> None:
        """A protocol refuses by a row of the table, too."""
        self.intake.refuse(
            UNKNOWN_CONTENT_TYPE, "unknowncontentype", "text/plain", self.respond, "context"
        )
        response = Response(ERROR, BAD_REQUEST, int(NOW), "invalid content type", None)
        self.assertEqual((UNKNOWN_CONTENT_TYPE, response), self.answer())
        labels = ("failed", "unknowncontentype", "NA")
        self.assertEqual(1, self.metrics.total("batches_read_total", labels))


class FaultTests(IntakeCase):
    """Whatever fails, each request is answered once."""

    def check_fault(self, step: str, guid: str) -> None:
        """The client was told of a fault, and so was the supervisor."""
        answer, response = self.answer()
        self.assertIs(FAULT, answer)
        reason = "the server failed to handle this request"
        self.assertEqual(Response(ERROR, INTERNAL_ERROR, int(NOW), reason, guid), response)
        self.assertEqual([f"{step} a request failed: boom"], self.context.supervisor.reasons())
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_decoding(self) -> None:
        """A decoder that raises what it should not costs its own request an answer of a fault."""

        def fail(body: bytes) -> None:
            raise ValueError("boom")

        self.patch(self.codec.deserializer, "deserialize", fail)
        self.take(json_body("g"))
        self.check_fault("decoding", "")

    def test_collecting(self) -> None:
        """A collector that raises leaves no request without an answer; its events failed."""
        self.collector.faults["collect"] = ValueError("boom")
        self.take(json_body("g"))
        self.check_fault("collecting", "g")
        self.assertEqual(1, self.metrics.total("events_failed_total"))

    def test_answering(self) -> None:
        """An answer that cannot be given is given in a plainer form."""

        def respond(answer: Answer, *rest: Any) -> None:
            if answer is STORED:
                raise ValueError("boom")
            self.respond(answer, *rest)

        self.take(json_body("g"), respond=respond)
        self.collector.deliver()
        self.check_fault("answering", "g")

    def test_never_answering(self) -> None:
        """Where no answer can be given at all, that is told, and nothing is raised."""

        def respond(*_: Any) -> None:
            raise ValueError("boom")

        self.take(json_body("g"), respond=respond)
        self.collector.deliver()
        reasons = ["answering a request failed: boom", "refusing a request failed: boom"]
        self.assertEqual(reasons, self.context.supervisor.reasons())
        self.flushLoggedErrors(ValueError)
