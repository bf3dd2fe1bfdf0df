"""Whatever a client sends, it is answered or cut off, and the service serves the next one."""

from __future__ import annotations

import json
import random
import threading
import time
from typing import Any

import grpc

from raccoon.proto.raccoon_pb2 import SendEventRequest, SendEventResponse
from tests.integration.case import SharedCase
from tests.integration.clients import (
    BAD_REQUEST,
    CODECS,
    grpc_channel,
    json_answer,
    json_request,
    protobuf_answer,
    protobuf_request,
)
from tests.integration.daemon import Daemon
from tests.integration.raw import (
    BINARY,
    CLOSE,
    CONTINUATION,
    EVENTS,
    FIN,
    PING,
    PONG,
    TEXT,
    HttpAnswer,
    RawSocket,
    RawWebSocket,
    frame,
    http_once,
    post,
)
from tests.integration.waiting import wait_until

_LIMIT = 1 << 20
_WRITE_WAIT_SECONDS = 1
_GROWTH = 50 << 20
_JSON, _PROTOBUF = "application/json", "application/proto"
_GOOD = [("click", b"{}")]
_GOOD_JSON = json_request("good", _GOOD)
_GOOD_PROTOBUF = protobuf_request("good", _GOOD)


class BadInputCase(SharedCase):
    """One service with the log publisher; after each test it is as well as before."""

    daemon: Daemon
    resident_before: int

    @classmethod
    def share_setup(cls) -> None:
        cls.daemon = cls.share_daemon(
            {
                "PUBLISHER_TYPE": "log",
                "LOG_LEVEL": "warn",
                "EVENT_ACK": 1,
                "LIMIT_REQUEST_BYTES": _LIMIT,
                "LIMIT_HEADER_TIMEOUT_MS": 1000,
                "LIMIT_BODY_TIMEOUT_MS": 1000,
                "SERVER_WEBSOCKET_WRITE_WAIT_INTERVAL_MS": _WRITE_WAIT_SECONDS * 1000,
            }
        )
        for _ in range(20):
            cls.serve_each()
        cls.resident_before = cls.daemon.resident()

    @classmethod
    def serve_each(cls) -> None:
        """A good request on each protocol succeeds."""
        for codec in CODECS:
            with CODECS[codec](cls.daemon, f"good-{codec}") as client:
                answer = client.send(codec, _GOOD)
            if not answer.ok or answer.guid != codec:
                raise AssertionError(f"{codec}: {answer}")

    def setUp(self) -> None:
        super().setUp()
        self.log_before = len(self.daemon.log())

    def tearDown(self) -> None:
        """The same process answers, holds no more memory, and has logged no surprise."""
        self.assertTrue(self.daemon.ping())
        self.assertTrue(self.daemon.alive(), self.daemon.log())
        self.serve_each()
        self.assertLess(self.daemon.resident() - self.resident_before, _GROWTH)
        log = self.daemon.log()[self.log_before :]
        self.assertNotIn("Traceback", log)
        self.assertNotIn("Unhandled", log)


class RestTests(BadInputCase):
    """The HTTP port."""

    def check_refused(self, name: str, answer: HttpAnswer, words: str = "") -> None:
        """The answer is a 400 of the wire contract."""
        self.assertEqual(answer.status, 400, f"{name}: {answer}")
        read = protobuf_answer if answer.headers["Content-Type"] == _PROTOBUF else json_answer
        told = read(answer.body)
        self.assertEqual(told.code, BAD_REQUEST, f"{name}: {told}")
        self.assertTrue(told.reason.startswith("deserialization failure"), f"{name}: {told}")
        self.assertIn(words, told.reason, name)
        self.assertIsNone(told.guid, name)

    def test_bodies_that_are_no_json(self) -> None:
        """A body that is not the JSON form of a request is a 400 whose reason names the field."""
        cases: dict[str, tuple[Any, str]] = {
            "empty": (b"", "not JSON"),
            "blank": (b"  ", "not JSON"),
            "truncated": (_GOOD_JSON[:-1], "not JSON"),
            "trailing": (_GOOD_JSON + b"x", "not JSON"),
            "two documents": (_GOOD_JSON * 2, "not JSON"),
            "NUL": (b"\0", "not JSON"),
            "NaN": (b'{"sent_time":{"seconds":NaN}}', "not JSON"),
            "invalid UTF-8": (b'{"req_guid":"\xff\xfe"}', "not JSON"),
            "overlong UTF-8": (b'{"req_guid":"\xc0\x80"}', "not JSON"),
            "UTF-16": ('{"req_guid":"a"}'.encode("utf-16"), "not JSON"),
            "lone surrogate": (b'{"req_guid":"\\ud800"}', "not JSON"),
            "nested arrays": (b"[" * 10_000, "not JSON"),
            "many nested arrays": (b"[" * 100_000, "LIMIT_EVENTS"),
            "nested objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, ""),
            "nested unknown key": (b'{"x":' + b"[" * 50 + b"]" * 50 + b"}", "LIMIT_JSON_DEPTH"),
            "an array": ([], "request: expected an object"),
            "a string": ("x", "request: expected an object"),
            "a number": (1, "request: expected an object"),
            "guid of a number": ({"req_guid": 1}, "req_guid"),
            "guid of an object": ({"req_guid": {}}, "req_guid"),
            "long guid": ({"req_guid": "x" * 10_000}, "LIMIT_GUID_LENGTH"),
            "events of an object": ({"events": {}}, "events"),
            "events of strings": ({"events": ["x"]}, "events[0]"),
            "event in an array": ({"events": [[]]}, "events[0]"),
            "type of a number": ({"events": [{"type": 1}]}, "events[0].type"),
            "type with a slash": ({"events": [{"type": "../x"}]}, "events[0].type"),
            "type with a line break": ({"events": [{"type": "a\nb"}]}, "events[0].type"),
            "long type": ({"events": [{"type": "x" * 121}]}, "events[0].type"),
            "too many events": ({"events": [{}] * 10_001}, "LIMIT_EVENTS"),
            "seconds of a string": ({"sent_time": {"seconds": "1"}}, "sent_time.seconds"),
            "seconds of a fraction": ({"sent_time": {"seconds": 1.5}}, "sent_time.seconds"),
            "seconds too large": (b'{"sent_time":{"seconds":1%s}}' % (b"0" * 400), ""),
            "seconds of 1e400": (b'{"sent_time":{"seconds":1e400}}', ""),
            "seconds over int64": ({"sent_time": {"seconds": 1 << 63}}, "sent_time.seconds"),
            "nanos over int32": ({"sent_time": {"nanos": 1 << 31}}, "sent_time.nanos"),
            "time of a number": ({"sent_time": 1}, "sent_time"),
            "time of a word": ({"sent_time": "yesterday"}, "sent_time"),
        }
        for name, (body, words) in cases.items():
            encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.check_refused(name, post(self.daemon.http_port, encoded), words)

    def test_event_bytes(self) -> None:
        """event_bytes that are neither base64 nor an array of bytes are named by their index."""
        cases: dict[str, Any] = {
            "no base64": "!!!!",
            "no padding": "YQ",
            "too much padding": "YQ===",
            "padding within": "YQ==YQ==",
            "URL-safe": "-_-_",
            "not ASCII": "é" * 4,
            "blank within": "YW Jj",
            "a number": 5,
            "an object": {},
            "true": True,
            "256": [0, 256],
            "-1": [-1],
            "a fraction": [1.5],
            "a huge number": [10**30],
            "a string within": ["a"],
            "an array within": [[]],
            "true within": [True],
        }
        for name, value in cases.items():
            body = json.dumps({"events": [{}, {"event_bytes": value}]}).encode()
            self.check_refused(name, post(self.daemon.http_port, body), "events[1].event_bytes")

    def test_odd_bodies_that_are_requests(self) -> None:
        """What Go's decoder takes is taken: nulls, unknown keys, letter case, line breaks."""
        bodies = [
            b"null",
            b"{}",
            b'{"events":null,"req_guid":null,"sent_time":null}',
            b'{"events":[null]}',
            b'{"events":[{"event_bytes":null,"type":null}]}',
            b'{"REQ_GUID":"a","Events":[{"EVENT_BYTES":"e30=","Type":"click"}]}',
            b'{"reqGuid":"a","events":[{"eventBytes":"e\\n3\\r0="}]}',
            b'{"sent_time":{"seconds":%d,"nanos":%d}}' % (-(1 << 63), (1 << 31) - 1),
            b'{"sentTime":"9999-12-31T23:59:59.999999999Z"}',
            b'{"sentTime":"0001-01-01T00:00:00+23:59"}',
            b'{"unknown":{"deep":[[[1]]]},"req_guid":"a","req_guid":"b"}',
            b'{"req_guid":"\\u0000\\n"}',
        ]
        for body in bodies:
            answer = post(self.daemon.http_port, body)
            self.assertEqual(answer.status, 200, f"{body!r}: {answer}")

    def test_protobuf_bodies(self) -> None:
        """Protobuf that does not parse is a 400; an empty body and unknown fields are requests."""
        source = random.Random(1)
        cases = {
            "truncated": _GOOD_PROTOBUF[:-1],
            "trailing": _GOOD_PROTOBUF + b"\xff",
            "field 0": b"\x00\x01",
            "wire type 7": b"\x0f",
            "length past the end": b"\x1a\xff\xff\xff\xff\x0f",
            "negative length": b"\x1a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            "endless varint": b"\x08" + b"\xff" * 20,
            "guid that is not UTF-8": b"\x0a\x02\xff\xfe",
            "type that is not UTF-8": b"\x1a\x04\x12\x02\xff\xfe",
            "end of no group": b"\x0c",
            "groups without end": b"\x23" * 100_000,
            "time within itself": b"\x12" * 1001,
            "text": b"hello, is it me you are looking for",
            "too many events": b"\x1a\x00" * 10_001,
            "JSON": _GOOD_JSON,
        }
        for name, body in cases.items():
            answer = post(self.daemon.http_port, body, _PROTOBUF)
            self.assertEqual(answer.headers["Content-Type"], _PROTOBUF, f"{name}: {answer}")
            self.check_refused(name, answer)
        for length in range(0, 400, 4):
            answer = post(self.daemon.http_port, source.randbytes(length), _PROTOBUF)
            self.assertIn(answer.status, (200, 400), answer)
        unknown = b"\x3a\x03abc" + b"\x40\x05" + b"\x4b\x4c" + b"\x55abcd"
        for body in (b"", unknown, _GOOD_PROTOBUF + unknown):
            answer = post(self.daemon.http_port, body, _PROTOBUF)
            self.assertEqual(answer.status, 200, f"{body!r}: {answer}")

    def test_content_types(self) -> None:
        """A known content type is taken in any dress and echoed; any other is a 400 in JSON."""
        known = {
            "application/json": _GOOD_JSON,
            "APPLICATION/Json": _GOOD_JSON,
            "application/json; charset=utf-8": _GOOD_JSON,
            "application/json;;;": _GOOD_JSON,
            "application/proto": _GOOD_PROTOBUF,
            "application/protobuf": _GOOD_PROTOBUF,
            "application/x-protobuf; messageType=x": _GOOD_PROTOBUF,
        }
        for content_type, body in known.items():
            answer = post(self.daemon.http_port, body, content_type)
            self.assertEqual(answer.status, 200, f"{content_type}: {answer}")
            self.assertEqual(answer.headers["Content-Type"], content_type)
        odd: list[str | bytes | None] = [
            None,
            "",
            ";",
            "text/plain",
            "json",
            "application/",
            "application/json, application/proto",
            "multipart/form-data; boundary=x",
            "application/x-www-form-urlencoded",
            b"\xff\xfe\x80",
            "x" * 8000,
        ]
        for given in odd:
            answer = post(self.daemon.http_port, _GOOD_JSON, given)
            self.assertEqual(answer.status, 400, f"{given!r}: {answer}")
            told = json_answer(answer.body)
            self.assertEqual((told.code, told.reason), (BAD_REQUEST, "invalid content type"))

    def test_oversized_bodies(self) -> None:
        """A body over the limit is a 413 and a closed connection, however it is announced."""
        head = f"POST {EVENTS} HTTP/1.1\r\nHost: a\r\nContent-Type: {_JSON}\r\n".encode()
        chunk = b"%x\r\n%s\r\n" % (65536, b"x" * 65536)
        cases = {
            "by its length": head + b"Content-Length: %d\r\n\r\n" % (_LIMIT + 1),
            "huge length": head + b"Content-Length: %d\r\n\r\n" % 10**15,
            "sent nevertheless": head
            + b"Content-Length: %d\r\n\r\n" % (_LIMIT * 4)
            + b"x" * (_LIMIT * 4),
            "in chunks": head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 17,
        }
        for name, data in cases.items():
            with RawSocket(self.daemon.http_port) as raw:
                raw.send(data)
                answer = raw.http_answer()
                self.assertEqual(answer.status, 413, f"{name}: {answer}")
                self.assertEqual(json_answer(answer.body).code, BAD_REQUEST, name)
                self.assertIn("LIMIT_REQUEST_BYTES", json_answer(answer.body).reason, name)
                self.assertTrue(raw.ended(), name)
        largest = b" " * (_LIMIT - len(_GOOD_JSON)) + _GOOD_JSON
        self.assertEqual(post(self.daemon.http_port, largest).status, 200)

    def test_malformed_http(self) -> None:
        """Bytes that are no HTTP request are refused with a 4xx or cut off."""
        post_head = f"POST {EVENTS} HTTP/1.1\r\nHost: a\r\nContent-Type: {_JSON}\r\n".encode()
        cases = {
            "garbage": bytes(range(256)) * 4 + b"\r\n\r\n",
            "one word": b"hello\r\n\r\n",
            "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\r\n\r\n",
            "HTTP/9": b"GET /ping HTTP/9.9\r\n\r\n",
            "header without colon": b"GET /ping HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n",
            "long line": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
            "long header": b"GET /ping HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
            "many headers": b"GET /ping HTTP/1.1\r\n" + b"X: x\r\n" * 5000 + b"\r\n",
            "negative length": post_head + b"Content-Length: -1\r\n\r\n",
            "length of a word": post_head + b"Content-Length: many\r\n\r\n",
            "two lengths": post_head + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}}",
            "length and chunks": post_head
            + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "bad chunk": post_head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
            "endless chunk size": post_head
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + b"1" * 100_000,
        }
        for name, data in cases.items():
            answer = http_once(self.daemon.http_port, data)
            self.assertTrue(answer.status == 0 or 400 <= answer.status < 500, f"{name}: {answer}")

    def test_nothing_is_taken_after_a_refusal(self) -> None:
        """What follows a refused request on its connection is no request any more."""
        head = f"POST {EVENTS} HTTP/1.1\r\nHost: a\r\nContent-Type: {_JSON}\r\n".encode()
        good = head + b"Content-Length: %d\r\n\r\n" % len(_GOOD_JSON) + _GOOD_JSON
        pieces = -(-_LIMIT // 65536)
        large = b"10000\r\n" + bytes(65536) + b"\r\n"
        refused = {
            "no HTTP": b"hello\r\n\r\n",
            "HTTP/9": b"GET /ping HTTP/9.9\r\n\r\n",
            "bad header": b"GET /ping HTTP/1.1\r\nnocolon\r\n\r\n",
            "unknown encoding": head + b"Transfer-Encoding: gzip\r\n\r\n",
            "two lengths": head + b"Content-Length: 0\r\nContent-Length: 1\r\n\r\n",
            "bad chunk": head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
            "large": head
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + large * pieces
            + b"1\r\nx\r\n0\r\n\r\n",
        }
        before = self.daemon.metric("batches_read_total", status="success")
        taken: list[str] = []
        statuses: dict[str, int] = {}
        for name, data in refused.items():
            with RawSocket(self.daemon.http_port) as raw:
                raw.send(data + good)
                statuses[name] = raw.http_answer().status
                self.assertTrue(raw.ended(), name)
            after = self.daemon.metric("batches_read_total", status="success")
            if after != before:
                taken.append(name)
                before = after
        self.assertEqual(taken, [])
        self.assertEqual(statuses, {name: 413 if name == "large" else 400 for name in refused})

    def test_other_paths_and_methods(self) -> None:
        """Another path is a 404 and another method a 405, whatever they are."""
        cases = {
            ("GET", "/"): 404,
            ("GET", "/api/v1/events/"): 404,
            ("POST", "/ping"): 405,
            ("PUT", EVENTS): 405,
            ("DELETE", EVENTS): 405,
            ("GET", "/%00/../../etc/passwd"): 404,
            ("GET", "/%ff"): 404,
            ("GET", "/" + "a/" * 2000): 404,
            ("BREW", "/pot"): 404,
        }
        for (method, path), status in cases.items():
            request = f"{method} {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
            answer = http_once(self.daemon.http_port, request)
            self.assertEqual(answer.status, status, f"{method} {path[:50]}: {answer}")

    def test_slow_and_vanishing_clients(self) -> None:
        """A request without an end has a deadline, and a client that leaves is forgotten."""
        head = f"POST {EVENTS} HTTP/1.1\r\nHost: a\r\nContent-Type: {_JSON}\r\n".encode()
        unfinished = [b"P", head, head + b"Content-Length: 100\r\n\r\n{"]
        for data in unfinished:
            for _ in range(20):
                with RawSocket(self.daemon.http_port) as raw:
                    raw.send(data)
        with RawSocket(self.daemon.http_port) as raw:
            raw.send(head + b"Content-Length: %d\r\n\r\n" % len(_GOOD_JSON) + _GOOD_JSON)
        began = time.monotonic()
        for data in unfinished:
            with RawSocket(self.daemon.http_port) as raw:
                raw.send(data)
                self.assertIn(raw.http_answer().status, (0, 408), data)
                self.assertTrue(raw.ended())
        self.assertLess(time.monotonic() - began, 10)

    def test_odd_identities(self) -> None:
        """An id that is too long or cannot be printed is a 400; odd ones that are neither pass."""
        for value, status in (
            (b"x" * 257, 400),
            (b"a\x00b", 400),
            (b"a\x1bb", 400),
            (b"", 200),
            (b"\xe9t\xe9", 200),
            (b"x" * 256, 200),
        ):
            head = f"POST {EVENTS} HTTP/1.1\r\nHost: a\r\nContent-Type: {_JSON}\r\n".encode()
            answer = http_once(
                self.daemon.http_port,
                head
                + b"X-User-ID: %s\r\nContent-Length: %d\r\n\r\n" % (value, len(_GOOD_JSON))
                + _GOOD_JSON,
            )
            self.assertEqual(answer.status, status, f"{value!r}: {answer}")


class WebSocketTests(BadInputCase):
    """WebSocket frames by hand."""

    def connect(self, client_id: str, receive_buffer: int | None = None) -> RawWebSocket:
        """A connection that is closed at the test's end."""
        raw = RawWebSocket(self.daemon.http_port, client_id, receive_buffer)
        self.addCleanup(raw.socket.close)
        return raw

    def check_good(self, raw: RawWebSocket) -> None:
        """A good message is the next one to be answered."""
        raw.send(frame(BINARY, _GOOD_PROTOBUF))
        opcode, payload = raw.read_frame()
        self.assertEqual(opcode, BINARY)
        self.assertTrue(protobuf_answer(payload).ok, payload)

    def test_undecodable_messages(self) -> None:
        """A message that is no request is answered in its own form, and the connection goes on."""
        raw = self.connect("undecodable")
        cases = [
            (TEXT, b""),
            (TEXT, b"{"),
            (TEXT, _GOOD_PROTOBUF[:5]),
            (TEXT, b"[" * 50_000),
            (TEXT, b'{"events":[{"event_bytes":"!"}]}'),
            (BINARY, b"\xff"),
            (BINARY, _GOOD_PROTOBUF[:-1]),
            (BINARY, b"\x1a\x00" * 10_001),
        ]
        for opcode, payload in cases:
            raw.send(frame(opcode, payload))
            answered, body = raw.read_frame()
            self.assertEqual(answered, opcode, payload)
            told = json_answer(body) if opcode == TEXT else protobuf_answer(body)
            self.assertEqual((told.code, told.guid), (BAD_REQUEST, ""), payload)
            self.assertTrue(told.reason.startswith("cannot deserialize request: "), told)
            self.check_good(raw)
        raw.send(frame(BINARY, b""))
        self.assertTrue(protobuf_answer(raw.read_frame()[1]).ok)

    def test_protocol_errors(self) -> None:
        """A frame against RFC 6455 closes its connection with the code of its kind."""
        cases = {
            "not masked": (frame(BINARY, _GOOD_PROTOBUF, masked=False), {1002}),
            "reserved bit": (frame(BINARY, _GOOD_PROTOBUF, head=FIN | 0x40), {1002}),
            "reserved opcode": (frame(3, b""), {1002}),
            "reserved control opcode": (frame(11, b""), {1002}),
            "long ping": (frame(PING, b"x" * 126), {1002}),
            "fragmented ping": (frame(PING, b"x", head=0), {1002}),
            "continuation of nothing": (frame(CONTINUATION, b"x"), {1002}),
            "message within a message": (frame(TEXT, b"a", head=0) + frame(TEXT, b"b"), {1002}),
            "text that is not UTF-8": (frame(TEXT, b"\xff\xfe"), {1007}),
            "cut UTF-8": (frame(TEXT, "é".encode()[:1]), {1007}),
            "surrogate in UTF-8": (frame(TEXT, b"\xed\xa0\x80"), {1007}),
            "large message": (frame(BINARY, bytes(_LIMIT + 1)), {1009}),
            "large in fragments": (
                frame(BINARY, bytes(_LIMIT), head=0) + frame(CONTINUATION, bytes(1)),
                {1009},
            ),
            "huge length": (b"\x82\xff" + (1 << 62).to_bytes(8, "big") + bytes(4), {1009}),
            "length over 63 bits": (b"\x82\xff" + b"\xff" * 8 + bytes(4), {1002, 1009}),
            "close of one byte": (frame(CLOSE, b"x"), {1002}),
            "close with a reserved code": (frame(CLOSE, b"\x03\xed"), {1002}),
        }
        for number, (name, (data, codes)) in enumerate(cases.items()):
            raw = self.connect(f"protocol-{number}")
            raw.send(data)
            self.assertIn(raw.close_code(), codes, name)

    def test_fragments(self) -> None:
        """A message in thousands of fragments, with pings among them, is one request."""
        raw = self.connect("fragments")
        request = protobuf_request("pieces", [("click", b"x" * 3000)])
        frames = [frame(BINARY, request[:1], head=0)]
        for index in range(1, len(request) - 1):
            frames.append(frame(CONTINUATION, request[index : index + 1], head=0))
            if index % 500 == 0:
                frames.append(frame(PING, b"between"))
        frames.append(frame(CONTINUATION, request[-1:]))
        frames.append(frame(CONTINUATION, b"", head=0)[:0])
        raw.send(b"".join(frames))
        pongs = 0
        opcode, payload = raw.read_frame()
        while opcode == PONG:
            pongs += 1
            opcode, payload = raw.read_frame()
        self.assertEqual(pongs, (len(request) - 2) // 500)
        answer = protobuf_answer(payload)
        self.assertTrue(answer.ok)
        self.assertEqual(answer.guid, "pieces")
        self.check_good(raw)

    def test_unfinished_messages_are_bounded(self) -> None:
        """Fragments without end are cut off at the size of a message."""
        raw = self.connect("unfinished")
        raw.send(frame(BINARY, b"", head=0))
        piece = frame(CONTINUATION, bytes(65536), head=0)
        raw.send(piece * 64)
        self.assertTrue(raw.ended(), "the close was not answered, and the connection stayed")

    def test_one_byte_at_a_time(self) -> None:
        """Frames may come in any pieces."""
        raw = self.connect("bytewise")
        data = frame(TEXT, _GOOD_JSON) + frame(PING, b"p") + frame(BINARY, _GOOD_PROTOBUF)
        for index in range(len(data)):
            raw.send(data[index : index + 1])
            if index % 8 == 0:
                time.sleep(0.001)
        answers = [raw.read_frame() for _ in range(3)]
        self.assertEqual(sorted(opcode for opcode, _ in answers), [TEXT, BINARY, PONG])

    def test_ping_flood(self) -> None:
        """10,000 pings are answered in order with their payloads, and delay others little."""
        raw = self.connect("pings")
        flood = b"".join(frame(PING, b"%d" % number) for number in range(10_000))
        sender = threading.Thread(target=raw.send, args=(flood,), daemon=True)
        sender.start()
        self.assertTrue(self.daemon.ping(timeout=2))
        pongs = [raw.read_frame() for _ in range(10_000)]
        sender.join(10)
        self.assertEqual(pongs, [(PONG, b"%d" % number) for number in range(10_000)])
        self.check_good(raw)

    def test_messages_after_close(self) -> None:
        """After the client's close its messages are not taken and not answered."""
        read_before = self.daemon.metric("batches_read_total", status="success")
        raw = self.connect("closed")
        raw.send(frame(CLOSE, b"\x03\xe8") + frame(BINARY, _GOOD_PROTOBUF) * 100)
        self.assertEqual(raw.close_code(), 1000)
        self.assertEqual(self.daemon.metric("batches_read_total", status="success"), read_before)

    def test_clients_that_vanish(self) -> None:
        """A client that goes away with requests in flight leaves nothing behind."""
        for number in range(50):
            raw = self.connect(f"vanish-{number}")
            raw.send(frame(BINARY, _GOOD_PROTOBUF) * 20)
            raw.socket.close()
        wait_until(lambda: self.daemon.metric("connections_count_current") == 0, "an empty table")

    def test_client_that_never_reads(self) -> None:
        """A client that sends and never reads is dropped, and others are served meanwhile."""
        raw = self.connect("deaf", receive_buffer=4096)
        message = frame(TEXT, b"x") * 1000  # each is answered by 100 bytes
        raw.socket.settimeout(1)
        resident = self.daemon.resident()
        served: list[bool] = []
        deadline = time.monotonic() + 30
        dropped = False
        while not dropped:
            self.assertLess(time.monotonic(), deadline, "it was not dropped")
            try:
                raw.socket.sendall(message)
            except TimeoutError:
                served.append(self.daemon.ping(timeout=2))
            except ConnectionError:
                dropped = True
        self.assertTrue(all(served))
        self.assertLess(self.daemon.resident() - resident, _GROWTH / 2)
        wait_until(lambda: self.daemon.metric("connections_count_current") == 0, "an empty table")
        self.assertIn("its answers are not read", self.daemon.log())

    def test_bad_upgrades(self) -> None:
        """An upgrade that is none is refused, and its connection is not leaked."""
        request = f"GET {EVENTS} HTTP/1.1\r\nHost: a\r\nX-User-ID: a\r\n"
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        version = "Sec-WebSocket-Version: 13\r\n"
        cases = {
            "no upgrade": request,
            "no key": request + upgrade + version,
            "short key": request + upgrade + version + "Sec-WebSocket-Key: AA==\r\n",
            "no version": request + upgrade + key,
            "version 99": request + upgrade + key + "Sec-WebSocket-Version: 99\r\n",
            "other protocol": request + "Upgrade: h2c\r\nConnection: Upgrade\r\n",
            "no connection header": request + "Upgrade: websocket\r\n" + key + version,
            "two keys": request + upgrade + key + key + version,
            "foreign origin": request + upgrade + key + version + "Origin: http://b\r\n",
            "bad origin": request + upgrade + key + version + "Origin: http://[::\r\n",
            "long id": f"GET {EVENTS} HTTP/1.1\r\nHost: a\r\nX-User-ID: {'x' * 300}\r\n"
            + upgrade
            + key
            + version,
        }
        for name, text in cases.items():
            answer = http_once(self.daemon.http_port, text.encode() + b"\r\n")
            self.assertTrue(400 <= answer.status < 500, f"{name}: {answer}")
        self.assertEqual(self.daemon.metric("connections_count_current"), 0)


class GrpcTests(BadInputCase):
    """The gRPC port."""

    def setUp(self) -> None:
        super().setUp()
        self.channel = grpc_channel(self.daemon)
        self.addCleanup(self.channel.close)
        self.call_raw = self.channel.unary_unary(
            "/raystack.raccoon.v1beta1.EventService/SendEvent",
            request_serializer=bytes,
            response_deserializer=SendEventResponse.FromString,
        )
        self.metadata = (("x-user-id", "grpc"),)

    def check_status(
        self,
        body: bytes,
        metadata: tuple[tuple[str, str | bytes], ...],
        code: grpc.StatusCode,
        words: str,
    ) -> None:
        """The call fails with this status."""
        with self.assertRaises(grpc.RpcError) as caught:
            self.call_raw(body, metadata=metadata, timeout=10)
        self.assertEqual(caught.exception.code(), code, caught.exception)
        self.assertIn(words, caught.exception.details())

    def test_without_metadata(self) -> None:
        """A call without the id's metadata is an INVALID_ARGUMENT that says so."""
        self.check_status(
            _GOOD_PROTOBUF,
            (),
            grpc.StatusCode.INVALID_ARGUMENT,
            "connection id header missing",
        )

    def check_refused(
        self, body: bytes, metadata: tuple[tuple[str, str | bytes], ...], words: str
    ) -> None:
        """The call ends with a response that says why its request was refused."""
        response = self.call_raw(body, metadata=metadata, timeout=10)
        self.assertEqual((response.status, response.code), (2, 2))
        self.assertIn("cannot deserialize request: ", response.reason)
        self.assertIn(words, response.reason)

    def test_odd_metadata(self) -> None:
        """An id that is too long is refused by its limit, too much metadata by gRPC itself."""
        self.check_refused(_GOOD_PROTOBUF, (("x-user-id", "x" * 300),), "LIMIT_ID_LENGTH")
        with self.assertRaises(grpc.RpcError):
            self.call_raw(
                _GOOD_PROTOBUF, metadata=(*self.metadata, ("x-big", "x" * 100_000)), timeout=10
            )
        for metadata in (
            (*self.metadata, ("trace-bin", bytes(range(256)))),
            (("x-user-id", "one"), ("x-user-id", "two")),
            (("x-user-id", ""),),
        ):
            self.assertEqual(self.call_raw(_GOOD_PROTOBUF, metadata=metadata, timeout=10).status, 1)

    def test_messages_that_are_no_request(self) -> None:
        """Bytes that are no SendEventRequest are refused in a response, with the reason."""
        self.check_refused(b"\xff", self.metadata, "not a protobuf SendEventRequest")
        self.check_refused(b"\x0a\x02\xff\xfe", self.metadata, "SendEventRequest")
        self.check_refused(_GOOD_PROTOBUF[:-1], self.metadata, "SendEventRequest")
        self.check_refused(b"\x1a\x00" * 10_001, self.metadata, "LIMIT_EVENTS")
        self.assertEqual(self.call_raw(b"", metadata=self.metadata, timeout=10).status, 1)
        unknown = _GOOD_PROTOBUF + b"\x3a\x03abc"
        self.assertEqual(self.call_raw(unknown, metadata=self.metadata, timeout=10).status, 1)

    def test_over_the_size(self) -> None:
        """A message over the limit is a RESOURCE_EXHAUSTED, and the channel goes on."""
        self.check_status(
            bytes(_LIMIT + 1), self.metadata, grpc.StatusCode.RESOURCE_EXHAUSTED, str(_LIMIT)
        )
        self.assertEqual(
            self.call_raw(_GOOD_PROTOBUF, metadata=self.metadata, timeout=10).status, 1
        )

    def test_unknown_methods(self) -> None:
        """Another service or method is UNIMPLEMENTED."""
        for path in ("/raystack.raccoon.v1beta1.EventService/Delete", "/a/b"):
            method = self.channel.unary_unary(
                path, request_serializer=bytes, response_deserializer=bytes
            )
            with self.assertRaises(grpc.RpcError) as caught:
                method(b"", metadata=self.metadata, timeout=10)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)

    def test_streams_to_the_unary_method(self) -> None:
        """A client that streams no message, or two, gets a status and nothing hangs."""
        method = self.channel.stream_unary(
            "/raystack.raccoon.v1beta1.EventService/SendEvent",
            request_serializer=bytes,
            response_deserializer=SendEventResponse.FromString,
        )
        with self.assertRaises(grpc.RpcError) as caught:
            method(iter(()), metadata=self.metadata, timeout=10)
        self.assertNotEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        try:
            method(iter([_GOOD_PROTOBUF] * 2), metadata=self.metadata, timeout=10)
        except grpc.RpcError as error:
            self.assertNotEqual(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)

    def test_cancelled_calls(self) -> None:
        """Calls cancelled at any moment leave nothing behind."""
        request = protobuf_request("cancelled", [("click", b"x" * 1000)] * 20)
        for number in range(300):
            call = self.call_raw.future(request, metadata=self.metadata, timeout=10)
            if number % 3:
                time.sleep(0.0002 * (number % 10))
            call.cancel()
        wait_until(lambda: self.daemon.metric("requests_waiting_current") == 0, "no waiting call")

    def test_past_their_deadline(self) -> None:
        """Calls whose deadline passes are DEADLINE_EXCEEDED or answered, and the next one is."""
        request = protobuf_request("late", [("click", b"x" * 80)] * 10_000)
        ended = set()
        for milliseconds in (1, 2, 4, 8, 16, 32, 64, 20_000):
            call = self.call_raw.future(
                request, metadata=self.metadata, timeout=milliseconds / 1000
            )
            ended.add(call.code())
        self.assertEqual(ended, {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED})

    def test_no_grpc_at_all(self) -> None:
        """Bytes that are no HTTP/2, and HTTP/2 that goes nowhere, end their own connection only."""
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        for data in (
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            bytes(range(256)) * 100,
            preface + b"\xff" * 9,
            preface + bytes(1000),
        ):
            with RawSocket(self.daemon.grpc_port) as raw:
                raw.send(data)
                self.assertTrue(raw.ended(), data[:30])

    def test_vanishing_channels(self) -> None:
        """Channels closed with calls in flight leave nothing behind."""
        for _ in range(30):
            channel = grpc_channel(self.daemon)
            method = channel.unary_unary(
                "/raystack.raccoon.v1beta1.EventService/SendEvent",
                request_serializer=SendEventRequest.SerializeToString,
                response_deserializer=SendEventResponse.FromString,
            )
            for _ in range(5):
                method.future(SendEventRequest(), metadata=self.metadata, timeout=10)
            channel.close()
