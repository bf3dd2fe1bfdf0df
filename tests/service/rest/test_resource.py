"""What REST answers, by the bytes of the answer."""

from __future__ import annotations

import json

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from raccoon.messages import Identifier
from tests.edges.bodies import NOW, json_body, protobuf_body, read_protobuf
from tests.edges.edge import Edge
from tests.edges.http import Reply, http_request
from tests.fakes import make_settings

JSON = "application/json"
PROTOBUF = "application/proto"
SUCCESS, ERROR = 1, 2
OK, BAD_REQUEST, INTERNAL_ERROR = 1, 2, 3
SENT_TIME = int(NOW)
GROUP = "--default--"


def post(
    body: bytes = b"", content_type: str | None = JSON, headers: tuple[tuple[str, str], ...] = ()
) -> bytes:
    """A POST of events."""
    typed = [] if content_type is None else [("Content-Type", content_type)]
    return http_request(headers=[("X-User-ID", "phone"), *typed, *headers], body=body)


class StoredTests(SynchronousTestCase):
    """Requests that are stored as the acknowledgement level asks."""

    def test_json_is_answered_in_json_once_delivered(self) -> None:
        """A JSON request gets its JSON answer when the destination has confirmed it."""
        edge = Edge()
        client = edge.connect()
        client.send(post(json_body("a")))
        self.assertEqual(client.replies(), [])
        edge.collector.deliver()
        reply = client.reply()
        self.assertEqual(reply.status, 200)
        self.assertEqual(reply.header("content-type"), JSON)
        self.assertEqual(
            reply.json(),
            {"status": SUCCESS, "code": OK, "sent_time": SENT_TIME, "data": {"req_guid": "a"}},
        )

    def test_protobuf_is_answered_in_protobuf_once_delivered(self) -> None:
        """A protobuf request gets its protobuf answer when the destination has confirmed it."""
        edge = Edge()
        client = edge.connect()
        client.send(post(protobuf_body("b"), PROTOBUF))
        self.assertEqual(client.replies(), [])
        edge.collector.deliver()
        reply = client.reply()
        self.assertEqual(reply.status, 200)
        self.assertEqual(reply.header("content-type"), PROTOBUF)
        self.assertEqual(
            read_protobuf(reply.body),
            {"status": SUCCESS, "code": OK, "sent_time": SENT_TIME, "data": {"req_guid": "b"}},
        )

    def test_level_0_answers_before_the_destination_confirms(self) -> None:
        """At level 0 the answer does not wait for the destination."""
        edge = Edge(ack=0)
        reply = edge.ask(post(json_body("a")))
        self.assertEqual((reply.status, reply.json()["code"]), (200, OK))
        self.assertEqual(edge.collector.guids, ["a"])

    def test_request_reaches_the_collector_whole(self) -> None:
        """Guid, times, types, bytes and the client's identity arrive as they were sent."""
        for body, content_type in (
            (json_body("g", [("click", b"\x00\xff"), ("view", b"")]), JSON),
            (protobuf_body("g", [("click", b"\x00\xff"), ("view", b"")]), PROTOBUF),
        ):
            edge = Edge(make_settings(websocket={"conn_group_header": "X-Group"}))
            edge.connect().send(post(body, content_type, (("X-Group", "beta"),)))
            (request,) = edge.collector.requests
            self.assertEqual(request.identifier, Identifier("phone", "beta"))
            self.assertEqual((request.guid, request.sent_time), ("g", NOW))
            self.assertEqual(request.received_at, NOW)
            self.assertEqual(request.types, ["click", "view"])
            self.assertEqual(request.payloads, [b"\x00\xff", b""])

    def test_no_group_header_means_the_default_group(self) -> None:
        """A client that names no group is in the configured one."""
        edge = Edge(
            make_settings(websocket={"conn_group_header": "X-Group", "conn_group_default": "web"})
        )
        edge.connect().send(post(json_body()))
        self.assertEqual(edge.collector.requests[0].identifier.group, "web")

    def test_no_identity_is_not_refused(self) -> None:
        """REST takes a request without an id."""
        edge = Edge(ack=0)
        reply = edge.ask(http_request(headers=[("Content-Type", JSON)], body=json_body("a")))
        self.assertEqual(reply.status, 200)
        self.assertEqual(edge.collector.requests[0].identifier, Identifier("", "--default--"))

    def test_empty_protobuf_body_is_an_empty_request(self) -> None:
        """No bytes at all are a valid protobuf request."""
        reply = Edge(ack=0).ask(post(b"", PROTOBUF))
        self.assertEqual(reply.status, 200)
        self.assertEqual(read_protobuf(reply.body)["data"], {"req_guid": ""})

    def test_what_was_read_is_counted(self) -> None:
        """A request counts once, its events and their bytes by group and type."""
        edge = Edge(ack=0)
        edge.ask(post(json_body("a", [("click", b"123"), ("view", b"4"), ("click", b"56")])))
        group = "--default--"
        self.assertEqual(edge.metrics.total("batches_read_total", ("success", "NA", group)), 1)
        self.assertEqual(edge.metrics.total("events_rx_total", (group, "click")), 2)
        self.assertEqual(edge.metrics.total("events_rx_bytes_total", (group, "click")), 5)
        self.assertEqual(edge.metrics.total("events_rx_total", (group, "view")), 1)
        self.assertEqual(edge.metrics.total("events_rx_bytes_total", (group, "view")), 1)


class ContentTypeTests(SynchronousTestCase):
    """The content type chooses the codec of both directions."""

    def check(self, content_type: str, body: bytes, protobuf: bool) -> None:
        edge = Edge(ack=0)
        reply = edge.ask(post(body, content_type))
        self.assertEqual(reply.status, 200, content_type)
        self.assertEqual(reply.header("content-type"), content_type)
        answer = read_protobuf(reply.body) if protobuf else reply.json()
        self.assertEqual(answer["data"], {"req_guid": "guid"})

    def test_parameters_case_and_aliases_are_accepted_and_echoed(self) -> None:
        """Whatever spelling of a known type was sent is the answer's content type."""
        for content_type in (
            "application/json",
            "application/json; charset=utf-8",
            "application/json;charset=UTF-8",
            "Application/JSON",
            "application/json ; q=1",
        ):
            self.check(content_type, json_body(), protobuf=False)
        for content_type in (
            "application/proto",
            "application/protobuf",
            "application/x-protobuf",
            "APPLICATION/PROTO",
            "application/x-protobuf; messageType=SendEventRequest",
        ):
            self.check(content_type, protobuf_body(), protobuf=True)

    def check_invalid(self, reply: Reply) -> None:
        self.assertEqual(reply.status, 400)
        self.assertEqual(reply.header("content-type"), JSON)
        self.assertEqual(
            reply.json(),
            {
                "status": ERROR,
                "code": BAD_REQUEST,
                "sent_time": SENT_TIME,
                "reason": "invalid content type",
            },
        )

    def test_unknown_type_is_refused_in_json(self) -> None:
        """An unknown or empty content type gets a 400, always as JSON, and nothing is kept."""
        for content_type in ("text/plain", "application/jsonp", "application/xml", "", ";", "json"):
            edge = Edge()
            self.check_invalid(edge.ask(post(json_body(), content_type)))
            self.assertEqual(edge.collector.requests, [])
            self.assertEqual(
                edge.metrics.total("batches_read_total", ("failed", "unknowncontentype", "NA")), 1
            )

    def test_missing_type_is_refused_in_json(self) -> None:
        """A request without a content type is refused the same way."""
        self.check_invalid(Edge().ask(post(json_body(), None)))

    def test_connection_goes_on_after_a_refused_type(self) -> None:
        """A refusal of a whole request does not cost the connection."""
        edge = Edge(ack=0)
        client = edge.connect()
        client.send(post(json_body("a"), "text/plain") + post(json_body("b")))
        self.assertEqual([reply.status for reply in client.replies()], [400, 200])


class BadRequestTests(SynchronousTestCase):
    """Bodies and identities that cannot be accepted."""

    def check(self, reply: Reply, protobuf: bool, *words: str) -> None:
        self.assertEqual(reply.status, 400)
        answer = read_protobuf(reply.body) if protobuf else reply.json()
        reason = answer.pop("reason")
        self.assertEqual(
            answer, {"status": ERROR, "code": BAD_REQUEST, "sent_time": SENT_TIME}, "no data"
        )
        self.assertTrue(reason.startswith("deserialization failure"), reason)
        for word in words:
            self.assertIn(word, reason)

    def test_body_that_is_not_json(self) -> None:
        """What is no JSON, nothing at all included, is a bad request."""
        for body in (b"", b"{", b"[]", b"{}x", b'"a"', b"\xff\xfe", b"[" * 5000):
            edge = Edge()
            self.check(edge.ask(post(body)), False)
            self.assertEqual(edge.collector.requests, [])
            self.assertEqual(
                edge.metrics.total("batches_read_total", ("failed", "serde", GROUP)), 1
            )

    def test_reason_names_the_field(self) -> None:
        """A wrong field is named in the reason."""
        body = b'{"req_guid":"a","events":[{"type":"t","event_bytes":"***"}]}'
        self.check(Edge().ask(post(body)), False, "events[0].event_bytes")

    def test_body_that_is_not_protobuf(self) -> None:
        """What is no protobuf is a bad request, told in protobuf with the type echoed."""
        edge = Edge()
        reply = edge.ask(post(b"\x0a\xff\xff", "application/x-protobuf"))
        self.check(reply, True)
        self.assertEqual(reply.header("content-type"), "application/x-protobuf")
        self.assertEqual(edge.collector.requests, [])

    def test_refusal_in_json_echoes_the_content_type(self) -> None:
        """The content type of a bad request is echoed as it was sent."""
        reply = Edge().ask(post(b"{", "application/json; charset=utf-8"))
        self.assertEqual(reply.header("content-type"), "application/json; charset=utf-8")

    def test_id_over_the_limit(self) -> None:
        """An id longer than LIMIT_ID_LENGTH is a bad request that names the limit."""
        edge = Edge(make_settings(limits={"id_length": 5}))
        request = http_request(
            headers=[("X-User-ID", "sixsix"), ("Content-Type", JSON)], body=json_body()
        )
        self.check(edge.ask(request), False, "x-user-id", "LIMIT_ID_LENGTH")
        self.assertEqual(edge.collector.requests, [])

    def test_id_at_the_limit(self) -> None:
        """An id as long as LIMIT_ID_LENGTH is accepted."""
        settings = make_settings(limits={"id_length": 5}, websocket={"conn_group_default": "web"})
        self.assertEqual(Edge(settings, ack=0).ask(post(json_body())).status, 200)

    def test_group_over_the_limit(self) -> None:
        """A group longer than LIMIT_ID_LENGTH is a bad request too."""
        settings = make_settings(
            limits={"id_length": 5}, websocket={"conn_group_header": "X-Group"}
        )
        reply = Edge(settings).ask(post(json_body(), headers=(("X-Group", "longer"),)))
        self.check(reply, False, "x-group", "LIMIT_ID_LENGTH")

    def test_too_many_events(self) -> None:
        """More events than LIMIT_EVENTS are a bad request in either form."""
        settings = make_settings(limits={"events": 2})
        events = [("click", b"{}")] * 3
        self.check(Edge(settings).ask(post(json_body("a", events))), False, "LIMIT_EVENTS")
        self.check(
            Edge(settings).ask(post(protobuf_body("a", events), PROTOBUF)), True, "LIMIT_EVENTS"
        )

    def test_connection_goes_on(self) -> None:
        """The request after a bad one on the same connection is served."""
        edge = Edge(ack=0)
        client = edge.connect()
        client.send(post(b"{"))
        self.assertEqual(client.reply().status, 400)
        client.send(post(json_body()))
        self.assertEqual(client.reply().status, 200)


class NotStoredTests(SynchronousTestCase):
    """Requests that were read and could not be stored."""

    def test_publishing_failed_in_json(self) -> None:
        """A lost request is a 500 whose reason says how many of how many, and why."""
        edge = Edge()
        client = edge.connect()
        client.send(post(json_body("a", [("click", b"1"), ("click", b"2")])))
        edge.collector.lose(why="no leader")
        reply = client.reply()
        self.assertEqual(reply.status, 500)
        self.assertEqual(
            reply.json(),
            {
                "status": ERROR,
                "code": INTERNAL_ERROR,
                "sent_time": SENT_TIME,
                "reason": "cannot publish events: 2 of 2 events failed: no leader",
                "data": {"req_guid": "a"},
            },
        )

    def test_publishing_failed_in_protobuf(self) -> None:
        """A lost protobuf request is told so in protobuf."""
        edge = Edge()
        client = edge.connect()
        client.send(post(protobuf_body("a"), PROTOBUF))
        edge.collector.lose()
        reply = client.reply()
        self.assertEqual((reply.status, reply.header("content-type")), (500, PROTOBUF))
        answer = read_protobuf(reply.body)
        self.assertEqual((answer["status"], answer["code"]), (ERROR, INTERNAL_ERROR))
        self.assertTrue(answer["reason"].startswith("cannot publish events: "))
        self.assertEqual(answer["data"], {"req_guid": "a"})

    def test_overloaded(self) -> None:
        """A refused request is a 503 with Retry-After and asks to retry."""
        edge = Edge()
        edge.collector.overloaded = True
        for body, content_type in ((json_body("a"), JSON), (protobuf_body("a"), PROTOBUF)):
            reply = edge.ask(post(body, content_type))
            self.assertEqual(reply.status, 503)
            self.assertGreater(int(reply.header("retry-after") or ""), 0)
            answer = reply.json() if content_type == JSON else read_protobuf(reply.body)
            self.assertEqual(
                answer,
                {
                    "status": ERROR,
                    "code": INTERNAL_ERROR,
                    "sent_time": SENT_TIME,
                    "reason": "overloaded, retry",
                    "data": {"req_guid": "a"},
                },
            )

    def test_connection_goes_on_after_an_overload(self) -> None:
        """A client may retry on the connection on which it was refused."""
        edge = Edge(ack=0)
        client = edge.connect()
        edge.collector.overloaded = True
        client.send(post(json_body()))
        self.assertEqual(client.reply().status, 503)
        edge.collector.overloaded = False
        client.send(post(json_body()))
        reply = client.reply()
        self.assertEqual(reply.status, 200)
        self.assertIsNone(reply.header("retry-after"))


class RouteTests(SynchronousTestCase):
    """Paths and methods other than a POST of events."""

    def test_ping(self) -> None:
        """GET /ping is answered `pong`."""
        reply = Edge().ask(http_request("GET", "/ping"))
        self.assertEqual((reply.status, reply.body), (200, b"pong"))

    def test_alive(self) -> None:
        """GET /healthz is a 200, ready or not."""
        edge = Edge()
        edge.not_ready = ["no"]
        reply = edge.ask(http_request("GET", "/healthz"))
        self.assertEqual((reply.status, json.loads(reply.body)), (200, {"status": "alive"}))

    def test_ready(self) -> None:
        """GET /readyz is a 200 while the server is ready, else a 503 with the reasons."""
        edge = Edge()
        reply = edge.ask(http_request("GET", "/readyz"))
        self.assertEqual(reply.status, 200)
        self.assertEqual(json.loads(reply.body), {"ready": True, "reasons": []})
        edge.not_ready = ["the queue is nearly full"]
        reply = edge.ask(http_request("GET", "/readyz"))
        self.assertEqual(reply.status, 503)
        self.assertEqual(json.loads(reply.body), {"ready": False, "reasons": edge.not_ready})

    def test_ping_with_a_query(self) -> None:
        """What a load balancer appends to /ping does not matter."""
        self.assertEqual(Edge().ask(http_request("GET", "/ping?t=1")).body, b"pong")

    def test_head_of_ping_has_no_body(self) -> None:
        """HEAD /ping is a 200 without a body."""
        client = Edge().connect()
        client.send(http_request("HEAD", "/ping") + http_request("GET", "/ping"))
        head, get = client.replies(["HEAD", "GET"])
        self.assertEqual((head.status, get.status, get.body), (200, 200, b"pong"))

    def test_other_methods_of_the_events_path(self) -> None:
        """A method that the events path has not is a 405 that names those it has."""
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
            reply = Edge().ask(http_request(method, headers=[("Content-Type", JSON)], body=b"{}"))
            self.assertEqual(reply.status, 405, method)
            allowed = {name.strip() for name in (reply.header("allow") or "").split(",")}
            self.assertTrue({"GET", "POST"} <= allowed, allowed)
            self.assertNotIn(method, allowed - {"OPTIONS"})

    def test_other_methods_of_ping(self) -> None:
        """POST /ping is a 405 that names GET."""
        reply = Edge().ask(http_request("POST", "/ping", body=b""))
        self.assertEqual(reply.status, 405)
        self.assertIn("GET", reply.header("allow") or "")

    def test_other_paths(self) -> None:
        """Any other path is a 404, whatever the method."""
        for path in ("/", "/api/v1", "/api/v1/event", "/api/v1/events/x", "/metrics", "/%00"):
            for method in ("GET", "POST"):
                reply = Edge().ask(http_request(method, path, body=b""))
                self.assertEqual(reply.status, 404, (method, path))

    def test_query_of_the_events_path_is_passed_over(self) -> None:
        """A query string does not change the route."""
        edge = Edge(ack=0)
        request = http_request(
            path="/api/v1/events?source=app", headers=[("Content-Type", JSON)], body=json_body()
        )
        self.assertEqual(edge.ask(request).status, 200)

    def test_get_of_events_without_an_upgrade(self) -> None:
        """GET of the events path without an upgrade is refused, and says what was expected."""
        reply = Edge().ask(http_request("GET"))
        self.assertEqual(reply.status, 426)
        self.assertEqual(reply.header("upgrade"), "websocket")
        self.assertIn(b"WebSocket", reply.body)

    def test_answers_never_show_a_traceback(self) -> None:
        """A fault inside is a 500 that shows nothing of the server's insides."""
        edge = Edge()
        lost: Deferred[None] = fail(ZeroDivisionError("inside"))
        edge.collector.collect = lambda request: lost  # type: ignore[method-assign]
        self.addCleanup(self.flushLoggedErrors)
        self.addCleanup(lost.addErrback, lambda _: None)
        reply = edge.ask(post(json_body()))
        self.assertEqual(reply.status, 500)
        self.assertNotIn(b"inside", reply.body)
        self.assertNotIn(b"Error", reply.body)
        self.assertNotIn(b"Traceback", reply.body)
