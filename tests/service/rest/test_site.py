"""The HTTP server around the routes: limits, deadlines, and connections that go on or end."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.edges.bodies import json_body, protobuf_body, read_protobuf
from tests.edges.edge import Edge, HttpClient
from tests.edges.frames import upgrade_request
from tests.edges.http import chunked, http_request
from tests.fakes import make_settings

JSON = ("Content-Type", "application/json")
PROTOBUF = ("Content-Type", "application/proto")
CHUNKED = ("Transfer-Encoding", "chunked")


def post(guid: str = "guid", *headers: tuple[str, str], version: str = "HTTP/1.1") -> bytes:
    """A POST of one JSON event."""
    return http_request(headers=[JSON, *headers], body=json_body(guid), version=version)


class Trickle:
    """Sends bytes to a client's connection one a second."""

    def __init__(self, client: HttpClient, data: bytes) -> None:
        self._client = client
        self._data = data
        self.seconds = 0

    def until_closed(self) -> None:
        """Go on until the server closes, or nothing is left."""
        for byte in self._data:
            if self._client.closed:
                return
            self._client.send(bytes([byte]))
            self._client.edge.advance(1)
            self.seconds += 1


class BodyLimitTests(SynchronousTestCase):
    """LIMIT_REQUEST_BYTES, whichever way the length is told."""

    def setUp(self) -> None:
        self.edge = Edge(make_settings(limits={"request_bytes": 1024}))
        self.client = self.edge.connect()

    def check_refused(self) -> None:
        reply = self.client.reply()
        self.assertEqual(reply.status, 413)
        self.assertEqual(reply.header("content-type"), "application/json")
        self.assertEqual(reply.header("connection"), "close")
        answer = reply.json()
        self.assertEqual((answer["status"], answer["code"]), (2, 2))
        self.assertIn("LIMIT_REQUEST_BYTES", answer["reason"])
        self.assertEqual(self.edge.collector.requests, [])
        self.assertEqual(
            self.edge.metrics.total("batches_read_total", ("failed", "readerr", "NA")), 1
        )

    def test_content_length_is_refused_before_the_body_comes(self) -> None:
        """A length over the limit is a 413 with the headers alone, and the connection ends."""
        self.client.send(http_request(headers=[JSON, ("Content-Length", "1025")]))
        self.check_refused()
        self.assertTrue(self.client.closed)

    def test_body_that_comes_with_the_headers(self) -> None:
        """A body over the limit that comes in one piece with its headers is refused once."""
        self.client.send(http_request(headers=[JSON], body=b"x" * 1025))
        self.check_refused()

    def test_body_at_the_limit_is_taken(self) -> None:
        """A body of exactly the limit is served."""
        body = json_body("a") + b" " * 1024
        self.client.send(http_request(headers=[JSON], body=body[:1024]))
        self.assertEqual(self.edge.collector.guids, ["a"])

    def test_chunked_body_is_refused_while_it_comes(self) -> None:
        """A chunked body is a 413 as soon as it is over the limit."""
        self.client.send(http_request(headers=[JSON, CHUNKED]))
        for _ in range(2):
            self.client.send(b"200\r\n" + b"x" * 512 + b"\r\n")
        self.assertEqual(self.client.replies(), [])
        self.client.send(b"1\r\nx\r\n")
        self.check_refused()

    def test_chunked_body_that_comes_whole(self) -> None:
        """A chunked body over the limit that comes in one piece is refused once."""
        body = chunked(b"x" * 600, b"y" * 600)
        self.client.send(http_request(headers=[JSON, CHUNKED]) + body)
        self.check_refused()

    def test_chunked_body_within_the_limit_is_served(self) -> None:
        """A chunked body within the limit is put together and served."""
        body = json_body("a")
        self.client.send(http_request(headers=[JSON, CHUNKED]) + chunked(body[:10], body[10:]))
        self.assertEqual(self.edge.collector.guids, ["a"])

    def test_refusal_is_told_in_the_clients_form(self) -> None:
        """A protobuf client reads its 413 as protobuf."""
        self.client.send(http_request(headers=[PROTOBUF, ("Content-Length", "4096")]))
        reply = self.client.reply()
        self.assertEqual(reply.header("content-type"), "application/proto")
        self.assertIn("LIMIT_REQUEST_BYTES", read_protobuf(reply.body)["reason"])

    def test_what_still_comes_is_dropped(self) -> None:
        """After a 413 the rest of the body, and any request behind it, is not served."""
        self.client.send(http_request(headers=[JSON, ("Content-Length", "2000")]))
        self.check_refused()
        self.client.send(b"x" * 2000 + post("behind"))
        self.assertEqual(self.edge.collector.requests, [])
        self.assertEqual(self.client.replies(), [])

    def test_refused_connection_ends_soon(self) -> None:
        """A client that does not hang up after its 413 is cut off, however its body came."""
        for data in (
            http_request(headers=[JSON, ("Content-Length", "1025")]),
            http_request(headers=[JSON], body=b"x" * 1025),
            http_request(headers=[JSON, CHUNKED]) + chunked(b"x" * 1025),
        ):
            client = self.edge.connect()
            client.send(data)
            self.assertEqual(client.reply().status, 413)
            self.edge.advance(5, step=0.5)
            self.assertFalse(client.socket.connected, data[:200])


class HeaderLimitTests(SynchronousTestCase):
    """LIMIT_HEADER_BYTES and LIMIT_HEADERS."""

    def setUp(self) -> None:
        self.edge = Edge(make_settings(limits={"header_bytes": 1024, "headers": 10}))
        self.client = self.edge.connect()

    def check_refused(self, limit: str) -> None:
        reply = self.client.reply()
        self.assertEqual(reply.status, 431)
        self.assertEqual(reply.phrase, b"Request Header Fields Too Large")
        self.assertEqual(reply.header("connection"), "close")
        self.assertIn(limit.encode(), reply.body)
        self.assertEqual(self.edge.collector.requests, [])
        self.assertTrue(self.client.closed)

    def test_many_bytes_in_many_headers(self) -> None:
        """Headers that together are over the limit are a 431."""
        headers = [(f"X-{i}", "x" * 200) for i in range(8)]
        self.client.send(http_request(headers=[JSON, *headers]))
        self.check_refused("LIMIT_HEADER_BYTES")

    def test_one_long_header(self) -> None:
        """One header over the limit is a 431 before its line ends."""
        self.client.send(b"POST /api/v1/events HTTP/1.1\r\nX-Long: " + b"x" * 2000)
        self.check_refused("LIMIT_HEADER_BYTES")

    def test_long_request_line(self) -> None:
        """A request line over the limit is a 431."""
        self.client.send(http_request("GET", "/" + "x" * 2000))
        self.check_refused("LIMIT_HEADER_BYTES")

    def test_many_headers(self) -> None:
        """More headers than the limit are a 431."""
        headers = [(f"X-{i}", "x") for i in range(20)]
        self.client.send(http_request(headers=headers))
        self.check_refused("LIMIT_HEADERS")

    def test_whole_request_with_many_headers_is_not_served(self) -> None:
        """A request refused for its headers is refused once, and its events are not taken."""
        headers = [(f"X-{i}", "x") for i in range(20)]
        self.client.send(post("a", *headers))
        self.check_refused("LIMIT_HEADERS")

    def test_headers_at_the_limit_are_taken(self) -> None:
        """As many headers as LIMIT_HEADERS are served."""
        headers = [(f"X-{i}", "x") for i in range(7)]  # beside Host, Content-Type and -Length
        self.client.send(post("a", *headers))
        self.assertEqual(self.edge.collector.guids, ["a"])

    def test_limits_hold_for_each_request_anew(self) -> None:
        """Headers of earlier requests on a connection do not count."""
        for guid in "abc":
            self.client.send(post(guid, *[(f"X-{i}", "x" * 80) for i in range(7)]))
            self.edge.collector.deliver()
        self.assertEqual([reply.status for reply in self.client.replies()], [200] * 3)


class MalformedTests(SynchronousTestCase):
    """What is no HTTP."""

    def check(self, data: bytes) -> None:
        edge = Edge()
        client = edge.connect()
        client.send(data)
        reply = client.reply()
        self.assertEqual((reply.status, reply.header("connection")), (400, "close"), data)
        self.assertEqual(edge.collector.requests, [])
        self.assertTrue(client.closed)

    def test_request_line(self) -> None:
        """Nonsense in place of a request line is a 400."""
        self.check(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
        self.check(b"GET\r\n\r\n")

    def test_header_line(self) -> None:
        """A header without a colon is a 400, and the request is not served."""
        self.check(b"POST /ping HTTP/1.1\r\nHost: x\r\nnonsense\r\n\r\n")
        self.check(
            b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\nnonsense\r\n"
            b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        )

    def test_content_length_that_is_no_number(self) -> None:
        """A Content-Length that is no number is a 400."""
        self.check(http_request(headers=[JSON, ("Content-Length", "-1")]))
        self.check(http_request(headers=[JSON, ("Content-Length", "ten"), ("X-Next", "x")]))

    def test_content_length_of_many_digits(self) -> None:
        """A length of more digits than Python converts is one too large; leading zeros are none."""
        for digits in (16, 4300, 4301, 12_000):
            for first, status in ((b"1", 413), (b"0", 400)):
                client = Edge().connect()
                client.send(
                    b"POST /api/v1/events HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\n\r\n"
                    % (first * digits)
                )
                self.assertEqual(status, client.reply().status)
                self.assertEqual(status == 413, client.closed)

    def test_odd_numbers_anywhere(self) -> None:
        """No header or chunk with a number of whatever size leaves a traceback."""
        numbers = (b"9" * 5000, b"-1", b"0x10", b"1_0", b"\xb2", b"1" * 5000 + b".5", b"")
        for number in numbers:
            for head in (
                b"POST /api/v1/events HTTP/1.1\r\nHost: a:%b\r\nContent-Length: 0\r\n\r\n",
                b"POST /api/v1/events HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"%b\r\n",
                b"GET /ping HTTP/1.1\r\nHost: a\r\nRange: bytes=%b-\r\n\r\n",
                b"GET /ping HTTP/1.%b\r\nHost: a\r\n\r\n",
                b"GET http://a:%b/ping HTTP/1.1\r\nHost: a\r\n\r\n",
                b"OPTIONS /api/v1/events HTTP/1.1\r\nHost: a\r\nOrigin: http://a:%b\r\n\r\n",
                upgrade_request().replace(b"Version: 13", b"Version: %b"),
                upgrade_request().replace(b"Host: raccoon.test", b"Host: raccoon.test:%b"),
                upgrade_request("a", [("Origin", "http://a:PORT")]).replace(b"PORT", b"%b"),
            ):
                edge = Edge()
                edge.connect().send(head.replace(b"%b", number))
                edge.advance(100, step=10)
                edge.hang_up()
        self.assertEqual([], self.flushLoggedErrors())

    def test_two_lengths(self) -> None:
        """A request with two lengths, on which proxies would not agree, is a 400."""
        body = json_body()
        for headers in (
            [CHUNKED, ("Content-Length", str(len(body)))],
            [("Content-Length", str(len(body))), CHUNKED],
            [("Content-Length", "5"), ("Content-Length", str(len(body)))],
        ):
            self.check(http_request(headers=[JSON, *headers]) + body)

    def test_chunk_size_that_is_no_number(self) -> None:
        """A chunk whose size is no number is a 400."""
        self.check(http_request(headers=[JSON, CHUNKED]) + b"zz\r\n")


class DeadlineTests(SynchronousTestCase):
    """Time limits of each phase of a request, whatever trickles in."""

    def setUp(self) -> None:
        self.edge = Edge(
            make_settings(
                limits={
                    "header_timeout_ms": 10_000,
                    "body_timeout_ms": 20_000,
                    "idle_timeout_ms": 60_000,
                }
            )
        )
        self.client = self.edge.connect()

    def check_timed_out(self, part: str) -> None:
        reply = self.client.reply()
        self.assertEqual(reply.status, 408)
        self.assertEqual(reply.header("connection"), "close")
        self.assertIn(part.encode(), reply.body)
        self.assertEqual(self.edge.collector.requests, [])
        self.edge.advance(5, step=1)
        self.assertFalse(self.client.socket.connected)

    def test_headers_that_trickle(self) -> None:
        """Headers of which a byte comes each second are a 408 once their time is over."""
        trickle = Trickle(self.client, post())
        trickle.until_closed()
        self.assertIn(trickle.seconds, range(10, 13))
        self.check_timed_out("headers")

    def test_headers_that_stop(self) -> None:
        """A request that stops within its headers is a 408."""
        self.client.send(b"POST /api/v1/events HTTP/1.1\r\nHost: x\r\n")
        self.edge.advance(11, step=1)
        self.check_timed_out("headers")

    def test_body_that_trickles(self) -> None:
        """A body of which a byte comes each second is a 408 once its time is over."""
        self.client.send(http_request(headers=[JSON, ("Content-Length", "500")]))
        trickle = Trickle(self.client, b"x" * 500)
        trickle.until_closed()
        self.assertIn(trickle.seconds, range(20, 23))
        self.check_timed_out("body")

    def test_chunked_body_that_trickles(self) -> None:
        """A chunked body of a byte a second is a 408 too."""
        self.client.send(http_request(headers=[JSON, CHUNKED]) + b"ff\r\n")
        trickle = Trickle(self.client, b"x" * 250)
        trickle.until_closed()
        self.assertIn(trickle.seconds, range(20, 23))
        self.check_timed_out("body")

    def test_slow_request_within_its_times_is_served(self) -> None:
        """Headers and a body that take long, each within its time, are served."""
        head, _, body = post("a").partition(b"\r\n\r\n")
        self.client.send(head)
        self.edge.advance(9, step=1)
        self.client.send(b"\r\n\r\n" + body[:-1])
        self.edge.advance(19, step=1)
        self.client.send(body[-1:])
        self.assertEqual(self.edge.collector.guids, ["a"])

    def test_second_request_has_its_own_times(self) -> None:
        """On a connection that goes on, each request's time begins with its first byte."""
        self.client.send(post("a"))
        self.edge.collector.deliver()
        self.assertEqual(self.client.reply().status, 200)
        self.edge.advance(50, step=1)
        data = post("b")
        self.client.send(data[:20])
        self.edge.advance(9, step=1)
        self.assertFalse(self.client.closed)
        self.client.send(data[20:])
        self.assertEqual(self.edge.collector.guids, ["a", "b"])
        self.edge.collector.deliver()
        self.assertEqual(self.client.reply().status, 200)

    def test_second_request_that_trickles(self) -> None:
        """A trickling request is a 408 on a connection that was served before, too."""
        self.client.send(post("a"))
        self.edge.collector.deliver()
        self.client.replies()
        trickle = Trickle(self.client, post("b"))
        trickle.until_closed()
        self.assertIn(trickle.seconds, range(10, 13))
        self.assertEqual(self.client.reply().status, 408)

    def test_connection_without_a_request(self) -> None:
        """A connection on which nothing comes is closed without a word after the idle time."""
        self.edge.advance(59, step=1)
        self.assertFalse(self.client.closed)
        self.edge.advance(2, step=1)
        self.assertFalse(self.client.socket.connected)
        self.assertEqual(self.client.replies(), [])

    def test_idle_time_begins_with_the_answer(self) -> None:
        """A connection is idle from its last answer on."""
        self.client.send(post("a"))
        self.edge.advance(30, step=1)
        self.edge.collector.deliver()
        self.assertEqual(self.client.reply().status, 200)
        self.edge.advance(59, step=1)
        self.assertFalse(self.client.closed)
        self.edge.advance(2, step=1)
        self.assertFalse(self.client.socket.connected)

    def test_answer_may_take_long(self) -> None:
        """No deadline of the client's cuts a request off that waits for its destination."""
        self.client.send(post("a"))
        self.edge.advance(300, step=10)
        self.edge.collector.deliver()
        self.assertEqual(self.client.reply().status, 200)


class ConnectionTests(SynchronousTestCase):
    """Connections that serve several requests, or end."""

    def test_keep_alive(self) -> None:
        """An HTTP/1.1 connection serves one request after another."""
        edge = Edge(ack=0)
        client = edge.connect()
        for guid in "abc":
            client.send(post(guid))
            self.assertEqual(client.reply().json()["data"], {"req_guid": guid})
        self.assertFalse(client.closed)

    def test_connection_close(self) -> None:
        """`Connection: close` ends the connection after the answer."""
        edge = Edge()
        client = edge.connect()
        client.send(post("a", ("Connection", "close")))
        self.assertFalse(client.closed)
        edge.collector.deliver()
        edge.advance(0)
        reply = client.reply()
        self.assertEqual((reply.status, reply.header("connection")), (200, "close"))
        self.assertFalse(client.socket.connected)

    def test_http_1_0(self) -> None:
        """An HTTP/1.0 client gets a whole answer with its length, and then the end."""
        edge = Edge(ack=0)
        client = edge.connect()
        client.send(post("a", version="HTTP/1.0"))
        reply = client.reply()
        self.assertEqual((reply.status, reply.json()["data"]), (200, {"req_guid": "a"}))
        self.assertEqual(reply.header("content-length"), str(len(reply.body)))
        self.assertFalse(client.socket.connected)

    def test_ping_by_http_1_0(self) -> None:
        """A health check by HTTP/1.0 reads `pong`."""
        client = Edge().connect()
        client.send(http_request("GET", "/ping", version="HTTP/1.0"))
        reply = client.reply()
        self.assertEqual((reply.status, reply.body), (200, b"pong"))
        self.assertFalse(client.socket.connected)

    def test_pipelined_requests_are_answered_in_order(self) -> None:
        """Requests sent without waiting are answered in their order, each by its own guid."""
        edge = Edge(ack=0)
        client = edge.connect()
        client.send(
            post("a")
            + http_request("GET", "/ping")
            + http_request(headers=[PROTOBUF], body=protobuf_body("b"))
            + post("c")
        )
        first, ping, second, third = client.replies()
        self.assertEqual(first.json()["data"], {"req_guid": "a"})
        self.assertEqual(ping.body, b"pong")
        self.assertEqual(read_protobuf(second.body)["data"], {"req_guid": "b"})
        self.assertEqual(third.json()["data"], {"req_guid": "c"})

    def test_pipelined_requests_wait_for_the_first_answer(self) -> None:
        """A request sent before the answer to another is served once that one is answered."""
        edge = Edge()
        client = edge.connect()
        client.send(post("a") + post("b"))
        self.assertEqual(edge.collector.guids, ["a"])
        edge.collector.deliver(0)
        self.assertEqual(client.reply().json()["data"], {"req_guid": "a"})
        edge.advance(0)
        self.assertEqual(edge.collector.guids, ["a", "b"])
        edge.collector.deliver(1)
        self.assertEqual(client.reply().json()["data"], {"req_guid": "b"})

    def test_pipelining_client_is_not_read_without_end(self) -> None:
        """A client that pipelines while its first request waits is read only so far."""
        edge = Edge()
        client = edge.connect()
        client.send(post("a"))
        for _ in range(100):
            client.send(post("b") * 10)
        self.assertGreater(client.socket.unread, 0)
        for _ in range(1001):
            edge.collector.deliver_all()
            edge.advance(0)
        self.assertEqual(edge.collector.guids, ["a"] + ["b"] * 1000)
        self.assertEqual(len(client.replies()), 1001)

    def test_request_in_any_pieces(self) -> None:
        """A request that comes byte by byte within its time is served once."""
        edge = Edge(ack=0)
        client = edge.connect()
        for byte in post("a"):
            client.send(bytes([byte]))
        self.assertEqual(client.reply().json()["data"], {"req_guid": "a"})

    def test_client_gone_before_the_answer(self) -> None:
        """An answer to a client that hung up is dropped in silence, well or ill."""
        edge = Edge()
        for settle in (edge.collector.deliver, edge.collector.lose):
            client = edge.connect()
            client.send(post("a"))
            client.socket.hang_up()
            settle()
            edge.advance(0)
            self.assertEqual(client.replies(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_client_gone_amid_a_request(self) -> None:
        """A client that hangs up within a request leaves nothing behind."""
        edge = Edge()
        for part in (post("a")[:30], post("a")[:-1]):
            client = edge.connect()
            client.send(part)
            client.socket.hang_up()
        self.assertEqual(edge.collector.requests, [])
        self.assertEqual(edge.clock.getDelayedCalls(), [])
        self.assertEqual(len(edge.site.channels), 0)

    def test_expect_100_continue(self) -> None:
        """A client that asks first is told to go on, and then answered."""
        edge = Edge(ack=0)
        client = edge.connect()
        body = json_body("a")
        client.send(
            http_request(
                headers=[JSON, ("Content-Length", str(len(body))), ("Expect", "100-continue")]
            )
        )
        self.assertEqual(client.reply().status, 100)
        client.send(body)
        self.assertEqual(client.reply().json()["data"], {"req_guid": "a"})

    def test_expect_100_continue_for_too_much(self) -> None:
        """A client that asks first for a body over the limit is refused and not told to go on."""
        edge = Edge(make_settings(limits={"request_bytes": 1024}))
        client = edge.connect()
        client.send(
            http_request(headers=[JSON, ("Content-Length", "1025"), ("Expect", "100-continue")])
        )
        self.assertEqual(client.reply().status, 413)

    def test_headers_of_every_answer(self) -> None:
        """Each answer has one Date, one Server and one Content-Type."""
        for request in (post("a"), http_request("GET", "/ping"), http_request("GET", "/none")):
            reply = Edge(ack=0).ask(request)
            self.assertEqual(reply.version, b"HTTP/1.1")
            for name in ("date", "server", "content-type"):
                self.assertEqual(len(reply.headers.get(name, [])), 1, (request[:20], name))

    def test_answer_to_events_tells_its_length(self) -> None:
        """The answer to a request of events has its Content-Length, and is not chunked."""
        reply = Edge(ack=0).ask(post("a"))
        self.assertEqual(reply.header("content-length"), str(len(reply.body)))
        self.assertIsNone(reply.header("transfer-encoding"))

    def test_date_follows_the_clock(self) -> None:
        """The Date of an answer is that of its second."""
        edge = Edge(ack=0)
        first = edge.ask(post("a")).header("date")
        self.assertEqual(first, "Tue, 24 Nov 2026 03:53:50 GMT")
        edge.advance(1)
        self.assertEqual(edge.ask(post("a")).header("date"), "Tue, 24 Nov 2026 03:53:51 GMT")


class UnreadAnswerTests(SynchronousTestCase):
    """Clients that send requests and never read their answers."""

    def setUp(self) -> None:
        self.edge = Edge(make_settings(websocket={"write_wait_interval_ms": 5000}), ack=0)
        self.addCleanup(self.edge.hang_up)
        self.client = self.edge.connect()
        self.client.socket.client_reads = False

    def send_much(self) -> None:
        """More requests than the transport keeps answers of."""
        for _ in range(500):
            self.client.send(post())
        self.assertFalse(self.client.socket.reading)

    def test_dropped(self) -> None:
        """Such a client is dropped after SERVER_WEBSOCKET_WRITE_WAIT_INTERVAL_MS."""
        self.send_much()
        self.edge.advance(4.9)
        self.assertTrue(self.client.socket.connected)
        self.edge.advance(0.2)
        self.assertTrue(self.client.socket.aborted)
        self.assertEqual(set(), self.edge.site.channels)

    def test_one_that_reads_on(self) -> None:
        """One that reads on in time is served on, and may be slow again."""
        for _ in range(3):
            self.send_much()
            self.edge.advance(4)
            self.client.socket.read_on()
            self.client.socket.client_reads = False
            self.edge.advance(0)
        self.assertTrue(self.client.socket.connected)

    def test_idle(self) -> None:
        """One that reads nothing and sends no more does not hold its place after the idle time."""
        self.client.send(post())
        self.edge.advance(61, step=1)
        self.assertTrue(self.client.socket.connected, "an answer is still to be read")
        self.edge.advance(6, step=1)
        self.assertFalse(self.client.socket.connected)
        self.assertEqual(set(), self.edge.site.channels)

    def test_refused(self) -> None:
        """Nor does one that does not read why it was refused."""
        self.client.send(b"nonsense\r\n\r\n")
        self.edge.advance(8, step=1)
        self.assertFalse(self.client.socket.connected)
        self.assertEqual(set(), self.edge.site.channels)

    def test_stopping(self) -> None:
        """Nor one that is there when the server stops."""
        self.client.send(post())
        self.edge.site.close_idle()
        self.edge.advance(6, step=1)
        self.assertFalse(self.client.socket.connected)

    def test_nothing_left_behind(self) -> None:
        """A connection that ends leaves no timer."""
        self.send_much()
        self.client.socket.hang_up()
        self.assertEqual([], self.edge.clock.getDelayedCalls())


class ConnectionLimitTests(SynchronousTestCase):
    """LIMIT_HTTP_CONNECTIONS."""

    def setUp(self) -> None:
        self.edge = Edge(make_settings(limits={"http_connections": 2}), ack=0)

    def test_connections_over_the_limit_are_closed(self) -> None:
        """A connection over the limit is refused while those that are open are served."""
        clients = [self.edge.connect(), self.edge.connect()]
        self.assertRaises(ConnectionRefusedError, self.edge.connect)
        for client in clients:
            client.send(post("a"))
            self.assertEqual(client.reply().status, 200)

    def test_connection_that_ends_makes_room(self) -> None:
        """Once a connection ends, another is taken."""
        first = self.edge.connect()
        self.edge.connect()
        first.socket.hang_up()
        self.edge.connect().send(post("a"))
        self.assertEqual(self.edge.collector.guids, ["a"])

    def test_websocket_connections_do_not_count(self) -> None:
        """A connection that was upgraded leaves its place to another HTTP connection."""
        for number in range(5):
            self.edge.upgrade(f"phone-{number}")
        self.edge.connect()
        self.edge.connect()
        self.assertRaises(ConnectionRefusedError, self.edge.connect)
        self.edge.hang_up()

    def test_refused_upgrade_leaves_its_place(self) -> None:
        """A connection whose upgrade was refused is counted no more."""
        for _ in range(5):
            client = self.edge.connect()
            client.send(upgrade_request("x" * 300))
            self.assertEqual(client.reply().status, 400)


class StopTests(SynchronousTestCase):
    """What happens to connections when the server becomes quiet."""

    def test_idle_connections_close_and_others_after_their_answer(self) -> None:
        """An idle connection closes at once, one with a request under way after its answer."""
        edge = Edge()
        idle, busy = edge.connect(), edge.connect()
        busy.send(post("a"))
        edge.site.close_idle()
        edge.advance(0)
        self.assertFalse(idle.socket.connected)
        self.assertTrue(busy.socket.connected)
        edge.collector.deliver()
        edge.advance(0)
        self.assertEqual(busy.reply().status, 200)
        self.assertFalse(busy.socket.connected)
