"""POSTs of events that are read in one piece, and that it makes no difference."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from raccoon.identification import Identification
from raccoon.intake import Arrival
from raccoon.service.rest.posts import PostReader
from raccoon.service.rest.resource import RestResource
from tests.edges.bodies import json_body
from tests.edges.edge import Edge, HttpClient
from tests.edges.http import http_request
from tests.fakes import make_settings
from tests.service.rest import test_resource, test_site

JSON = ("Content-Type", "application/json")


def reader(cross_origin: bool = False, **limits: int) -> PostReader:
    """A reader for clients that send X-User-ID and X-Group."""
    settings = make_settings(websocket={"conn_group_header": "X-Group"}, limits=limits)
    identification = Identification(settings.websocket, settings.limits)
    return PostReader(identification, settings.limits, cross_origin)


def post(*headers: tuple[str, str], body: bytes = b"{}", version: str = "HTTP/1.1") -> bytes:
    """A POST of JSON."""
    return http_request(headers=[JSON, *headers], body=body, version=version)


class ReadTests(SynchronousTestCase):
    """PostReader.read"""

    def test_all_of_a_plain_post(self) -> None:
        """What the application needs of it is found, in any letter case and spacing."""
        data = (
            b"POST /api/v1/events HTTP/1.1\r\nHost: h\r\nx-user-ID:\t a b \r\nX-GROUP:g\xe9\r\n"
            b"content-TYPE: application/json \r\nAccept:\r\nconnection: Keep-Alive\r\n"
            b"CONTENT-LENGTH: 3\r\n\r\n{ }"
        )
        self.assertEqual(reader().read(data), Arrival(b"application/json", "a b", "g\xe9", b"{ }"))

    def test_nothing_but_a_length(self) -> None:
        """A body of no bytes, of a client that says nothing of itself, is a request."""
        data = b"POST /api/v1/events HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
        self.assertEqual(reader().read(data), Arrival(b"", None, None, b""))

    def test_what_is_not_plain(self) -> None:
        """The general parser is left whatever asks for more than an answer."""
        whole = post()
        others = {
            "another route": whole.replace(b"events", b"event"),
            "a query": whole.replace(b"events", b"events?a"),
            "another method": whole.replace(b"POST", b"PUT"),
            "another version": post(version="HTTP/1.0"),
            "an incomplete head": whole[: whole.index(b"\r\n\r\n")],
            "an incomplete body": whole[:-1],
            "one request and a piece": whole + b"P",
            "a chunked body": post(("Transfer-Encoding", "chunked")),
            "an expectation": post(("Expect", "100-continue")),
            "an upgrade": post(("Upgrade", "h2c")),
            "the last request": post(("Connection", "close")),
            "a hop-by-hop header": post(("Connection", "keep-alive, te")),
            "no length": b"POST /api/v1/events HTTP/1.1\r\nA: b\r\n\r\n{}",
            "two lengths": post(("content-length", "2")),
            "a length that is none": whole.replace(b"Length: 2", b"Length: +2"),
            "an endless length": whole.replace(b"Length: 2", b"Length: " + b"0" * 5000 + b"2"),
            "two ids": post(("X-User-ID", "a"), ("X-User-ID", "b")),
            "a folded header": whole.replace(b"\r\n\r\n", b"\r\n b: c\r\n\r\n"),
            "a space in a name": post(("a b", "c")),
            "a space before the colon": whole.replace(b"Type:", b"Type :"),
            "a nameless header": post(("", "c")),
            "no colon": whole.replace(b"\r\n\r\n", b"\r\nab\r\n\r\n"),
            "a NUL": post(("a", "\0")),
            "a line feed": post(("a", "b\nc: d")),
            "a bare line feed at the end": whole.replace(b"\r\n", b"\n"),
        }
        self.assertIsNotNone(reader().read(whole))
        for what, data in others.items():
            self.assertIsNone(reader().read(data), what)

    def test_limits(self) -> None:
        """What is over a limit is the general parser's to refuse; what is at it is taken."""
        data = post(body=b"x" * 1024)
        self.assertIsNotNone(reader(request_bytes=1024).read(data))
        self.assertIsNone(reader(request_bytes=1024).read(post(body=b"x" * 1025)))
        head = len(data) - 1024
        self.assertIsNotNone(reader(header_bytes=head).read(data))
        self.assertIsNone(reader(header_bytes=head - 1).read(data))
        count = data.count(b"\r\n") - 1
        self.assertIsNotNone(reader(headers=count).read(data))
        self.assertIsNone(reader(headers=count - 2).read(data))

    def test_origin(self) -> None:
        """An Origin matters only where there is a cross-origin policy."""
        data = post(("Origin", "http://a"))
        self.assertIsNotNone(reader().read(data))
        self.assertIsNone(reader(cross_origin=True).read(data))


class HandledTests(SynchronousTestCase):
    """A request that came in one piece, while it is handled."""

    def test_what_comes_meanwhile_waits(self) -> None:
        """The next requests are handled after the answer, in order, whole or not."""
        edge = Edge()
        client = edge.connect()
        client.send(post(body=json_body("a")))
        following = post(body=json_body("b")) + post(body=json_body("c"))
        client.send(following[:-1])
        client.send(following[-1:])
        self.assertEqual(edge.collector.guids, ["a"])
        for guid in ("a", "b", "c"):
            edge.collector.deliver()
            self.assertEqual(client.reply().json()["data"], {"req_guid": guid})
        self.assertEqual(edge.collector.guids, ["a", "b", "c"])

    def test_many_refusals_in_one_read(self) -> None:
        """Requests that are answered at once, as many as a read can hold, exhaust no stack."""
        client = Edge().connect()
        one = b"POST /api/v1/events HTTP/1.1\r\nContent-Length: 0\r\n\r\n"
        client.send(one * 1200)
        self.assertEqual([reply.status for reply in client.replies()], [400] * 1200)

    def test_client_that_left(self) -> None:
        """An answer to a client that is gone goes nowhere, and logs nothing."""
        edge = Edge()
        client = edge.connect()
        client.send(post(body=json_body()))
        client.socket.hang_up()
        edge.collector.deliver()
        self.assertEqual(client.replies(), [])
        self.assertEqual(len(edge.site.channels), 0)

    def test_long_handling(self) -> None:
        """The deadline for an idle connection does not hold for one that waits for its answer."""
        edge = Edge(make_settings(limits={"idle_timeout_ms": 10_000}))
        client = edge.connect()
        client.send(post(body=json_body()))
        edge.advance(35, step=1)
        self.assertFalse(client.closed)
        edge.collector.deliver()
        self.assertEqual(client.reply().status, 200)
        edge.advance(9.9)
        self.assertFalse(client.closed)
        edge.advance(0.2)
        self.assertTrue(client.closed)

    def test_empty_lines_between(self) -> None:
        """An empty line after each request, which some clients send, is passed over."""
        edge = Edge(make_settings(limits={"header_timeout_ms": 5000}), ack=0)
        client = edge.connect()
        for line in (b"\r\n", b"\r\n", b"\r", b"\n", b""):
            if line != b"\n":
                client.send(post(body=json_body()))
                self.assertEqual(client.reply().status, 200)
            client.send(line)
        edge.advance(20, step=1)
        self.assertFalse(client.closed)
        client.send(post(body=json_body()))
        self.assertEqual(client.reply().status, 200)

    def test_client_that_does_not_read(self) -> None:
        """A client that sends and sends and does not read its answers is read no more, and goes on
        when it reads."""
        edge = Edge(ack=0)
        client = edge.connect()
        client.socket.client_reads = False
        sent = 0
        while not client.socket.unread and sent < 10_000:
            client.send(post(body=json_body()))
            sent += 1
        self.assertLess(sent, 10_000)
        client.socket.read_on()
        edge.advance(0)
        client.send(post(body=json_body()))
        self.assertEqual(client.socket.unread, 0)
        self.assertEqual(len(client.replies()), sent + 1)

    def test_client_that_reads_late(self) -> None:
        """What a client sent while it did not read is served once it reads."""
        edge = Edge()
        client = edge.connect()
        client.send(post(body=json_body("a")))
        client.send(post(body=json_body("b", [("t", b"x" * 20_000)])))
        client.socket.client_reads = False
        client.socket.write(b"x" * 70_000)
        edge.collector.deliver()
        self.assertEqual(edge.collector.guids, ["a", "b"])
        client.socket.read_on()
        edge.collector.deliver()
        client.send(post(body=json_body("c")))
        self.assertEqual(edge.collector.guids, ["a", "b", "c"])

    def test_fault_of_the_server(self) -> None:
        """A handler that raises is a 500 and one traceback in the log."""

        def raises(_: RestResource, arrival: Arrival, reply: object) -> None:
            raise ZeroDivisionError

        self.patch(RestResource, "take", raises)
        client = Edge().connect()
        client.send(post())
        self.assertEqual(client.reply().status, 500)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        client.send(post())
        self.assertEqual(client.reply().status, 500, "the connection goes on")
        self.flushLoggedErrors(ZeroDivisionError)


class InPieces(SynchronousTestCase):
    """What other tests send comes in two reads, and so by the general parser."""

    def setUp(self) -> None:
        self.patch(HttpClient, "in_pieces", True)
        super().setUp()


class StoredInPiecesTests(InPieces, test_resource.StoredTests):
    """Requests that are stored."""


class ContentTypeInPiecesTests(InPieces, test_resource.ContentTypeTests):
    """Content types."""


class BadRequestInPiecesTests(InPieces, test_resource.BadRequestTests):
    """Requests that cannot be read."""


class NotStoredInPiecesTests(InPieces, test_resource.NotStoredTests):
    """Requests that are not stored."""


class RouteInPiecesTests(InPieces, test_resource.RouteTests):
    """Routes."""


class BodyLimitInPiecesTests(InPieces, test_site.BodyLimitTests):
    """Limits of a body."""


class HeaderLimitInPiecesTests(InPieces, test_site.HeaderLimitTests):
    """Limits of headers."""


class DeadlineInPiecesTests(InPieces, test_site.DeadlineTests):
    """Deadlines."""


class ConnectionInPiecesTests(InPieces, test_site.ConnectionTests):
    """Connections that go on or end."""
