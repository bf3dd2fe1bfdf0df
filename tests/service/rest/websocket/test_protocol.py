"""WebSocket connections, from the upgrade's bytes to the last frame."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from raccoon.messages import Identifier
from raccoon.service.rest.websocket.frames import take_message
from tests.edges.bodies import NOW, json_body, protobuf_body
from tests.edges.edge import Edge, WebSocketClient
from tests.edges.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    client_frame,
    read_answer,
    upgrade_request,
)
from tests.edges.http import Reply, http_request
from tests.fakes import make_settings

SUCCESS, ERROR = 1, 2
OK, BAD_REQUEST, INTERNAL_ERROR, MAX_CONNECTIONS, MAX_USERS = 1, 2, 3, 4, 5
SENT_TIME = int(NOW)


def stored(guid: str) -> dict[str, Any]:
    """The answer to a request that reached its acknowledgement level."""
    return {"status": SUCCESS, "code": OK, "sent_time": SENT_TIME, "data": {"req_guid": guid}}


class EdgeTestCase(SynchronousTestCase):
    """A test that ends with every client gone."""

    def make_edge(self, ack: int = 1, **sections: Any) -> Edge:
        """A server with some options changed."""
        edge = Edge(make_settings(**sections), ack)
        self.addCleanup(edge.hang_up)
        return edge

    def check_close(self, frame: Frame, code: int, reason: str | None = None) -> None:
        """A frame is a close with this code and reason."""
        self.assertEqual(frame.opcode, CLOSE)
        self.assertEqual(frame.close_code(), code)
        if reason is not None:
            self.assertEqual(frame.close_reason(), reason)


class UpgradeTests(EdgeTestCase):
    """Who may connect."""

    def ask(self, edge: Edge, request: bytes) -> Reply:
        client = edge.connect()
        client.send(request)
        return client.reply()

    def test_accepted(self) -> None:
        """An upgrade is answered with the key's proof, and the connection is counted."""
        edge = self.make_edge()
        reply = edge.upgrade().upgrade
        self.assertEqual(reply.header("sec-websocket-accept"), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        self.assertEqual((reply.header("upgrade") or "").lower(), "websocket")
        self.assertEqual(reply.header("connection"), "Upgrade")
        group = ("--default--",)
        self.assertEqual(edge.metrics.total("user_connection_success_total", group), 1)
        self.assertEqual(edge.metrics.level("connections_count_current", group), 1)

    def test_extensions_and_subprotocols_are_not_taken_up(self) -> None:
        """Offers of compression or of a subprotocol are passed over."""
        edge = self.make_edge()
        reply = edge.upgrade(
            headers=[
                ("Sec-WebSocket-Extensions", "permessage-deflate"),
                ("Sec-WebSocket-Protocol", "chat"),
            ]
        ).upgrade
        self.assertIsNone(reply.header("sec-websocket-extensions"))
        self.assertIsNone(reply.header("sec-websocket-protocol"))

    def test_identity_of_requests(self) -> None:
        """Each request carries the id and the group of its connection."""
        edge = self.make_edge(websocket={"conn_group_header": "X-Group"})
        edge.upgrade("phone", [("X-Group", "beta")]).text(json_body("a"))
        edge.upgrade("phone").text(json_body("b"))
        self.assertEqual(
            [request.identifier for request in edge.collector.requests],
            [Identifier("phone", "beta"), Identifier("phone", "--default--")],
        )

    def test_same_host(self) -> None:
        """An Origin with the host of the request passes, whatever its scheme and case."""
        for origin in ("http://raccoon.test", "https://raccoon.test", "https://Raccoon.TEST"):
            edge = self.make_edge()
            self.assertEqual(edge.upgrade(headers=[("Origin", origin)]).upgrade.status, 101)

    def test_no_origin(self) -> None:
        """A client that is no browser sends no Origin, and passes."""
        self.assertEqual(self.make_edge().upgrade().upgrade.status, 101)

    def test_other_host(self) -> None:
        """An Origin of another host or port is refused with 403, and counted."""
        for origin in (
            "http://elsewhere.test",
            "http://raccoon.test:81",
            "http://raccoon.test.evil.test",
            "http://evil.test/raccoon.test",
            "null",
        ):
            edge = self.make_edge()
            reply = self.ask(edge, upgrade_request("phone", [("Origin", origin)]))
            self.assertEqual(reply.status, 403, origin)
            group = "--default--"
            self.assertEqual(
                edge.metrics.total("user_connection_failure_total", (group, "ugfailure")), 1
            )
            self.assertEqual(edge.metrics.total("user_connection_success_total"), 0)

    def test_origin_that_is_no_url(self) -> None:
        """An Origin in which there is no host is not this host: 403."""
        reply = self.ask(self.make_edge(), upgrade_request("phone", [("Origin", "nonsense")]))
        self.assertEqual(reply.status, 403)

    def test_origin_is_not_checked_where_it_is_off(self) -> None:
        """Without SERVER_WEBSOCKET_CHECK_ORIGIN any Origin passes."""
        for origin in ("http://elsewhere.test", "https://raccoon.test:444", "null"):
            edge = self.make_edge(websocket={"check_origin": False})
            self.assertEqual(edge.upgrade(headers=[("Origin", origin)]).upgrade.status, 101)

    def test_id_over_the_limit(self) -> None:
        """An upgrade with an id longer than LIMIT_ID_LENGTH is a 400 and ends."""
        edge = self.make_edge(limits={"id_length": 20})
        client = edge.connect()
        client.send(upgrade_request("x" * 21))
        self.assertEqual(client.reply().status, 400)
        edge.advance(0)
        self.assertFalse(client.socket.connected)

    def test_upgrade_that_is_no_websocket_handshake(self) -> None:
        """An upgrade without a key, or of an unknown version, is a 400 and ends."""
        good = upgrade_request().decode()
        for request in (
            good.replace("Sec-WebSocket-Key: ", "X-Not-Key: "),
            good.replace("Version: 13", "Version: 99"),
            good.replace("Version: 13", "Version: x"),
        ):
            edge = self.make_edge()
            client = edge.connect()
            client.send(request.encode())
            self.assertEqual(client.reply().status, 400)
            edge.advance(0)
            self.assertFalse(client.socket.connected)

    def test_deadlines_of_http_end_with_the_upgrade(self) -> None:
        """A WebSocket connection outlives the time of an idle HTTP connection."""
        edge = self.make_edge(
            limits={"idle_timeout_ms": 1000}, websocket={"ping_interval_ms": 3_000_000}
        )
        client = edge.upgrade()
        edge.advance(30, step=1)
        client.text(json_body("late"))
        self.assertEqual(edge.collector.guids, ["late"])


class MessageTests(EdgeTestCase):
    """Requests and their answers."""

    def test_text(self) -> None:
        """A text message is JSON, and is answered by JSON in a text message once delivered."""
        edge = self.make_edge()
        client = edge.upgrade()
        client.text(json_body("a"))
        self.assertEqual(client.frames(), [])
        edge.collector.deliver()
        frame = client.frame()
        self.assertEqual(frame.opcode, TEXT)
        self.assertEqual(read_answer(frame), stored("a"))

    def test_binary(self) -> None:
        """A binary message is protobuf, and is answered by protobuf in a binary message."""
        edge = self.make_edge()
        client = edge.upgrade()
        client.binary(protobuf_body("b"))
        self.assertEqual(client.frames(), [])
        edge.collector.deliver()
        frame = client.frame()
        self.assertEqual(frame.opcode, BINARY)
        self.assertEqual(read_answer(frame), stored("b"))

    def test_level_0(self) -> None:
        """At level 0 the answer does not wait for the destination."""
        client = self.make_edge(ack=0).upgrade()
        client.binary(protobuf_body("a"))
        self.assertEqual(client.answer(), stored("a"))

    def test_both_forms_on_one_connection(self) -> None:
        """Each answer takes its own request's form."""
        client = self.make_edge(ack=0).upgrade()
        client.send(
            client_frame(TEXT, json_body("a")),
            client_frame(BINARY, protobuf_body("b")),
            client_frame(TEXT, json_body("c")),
        )
        frames = client.frames()
        self.assertEqual([frame.opcode for frame in frames], [TEXT, BINARY, TEXT])
        self.assertEqual([read_answer(f) for f in frames], [stored("a"), stored("b"), stored("c")])

    def test_request_reaches_the_collector_whole(self) -> None:
        """Guid, times, types and bytes arrive as they were sent, large ones too."""
        events = [("click", b"\x00\xff" * 40_000), ("view", b"")]
        edge = self.make_edge()
        client = edge.upgrade()
        client.binary(protobuf_body("b", events))
        client.text(json_body("j", events))
        for request in edge.collector.requests:
            self.assertEqual((request.sent_time, request.received_at), (NOW, NOW))
            self.assertEqual(request.types, ["click", "view"])
            self.assertEqual(request.payloads, [b"\x00\xff" * 40_000, b""])
        self.assertEqual(edge.collector.guids, ["b", "j"])

    def test_answers_in_any_order(self) -> None:
        """Each request is answered when its own outcome is known."""
        edge = self.make_edge()
        client = edge.upgrade()
        for guid in "abc":
            client.text(json_body(guid))
        edge.collector.deliver(2)
        edge.collector.lose(0)
        edge.collector.deliver(1)
        answers = client.answers()
        self.assertEqual([answer["data"]["req_guid"] for answer in answers], ["c", "a", "b"])
        self.assertEqual([answer["code"] for answer in answers], [OK, INTERNAL_ERROR, OK])

    def test_answers_together(self) -> None:
        """What is settled together is answered in one write, while more is in flight or not."""
        edge = self.make_edge()
        client = edge.upgrade()
        for guid in "abcdef":
            client.text(json_body(guid))
        writes: list[bytes] = []
        write = client.socket.write

        def note(data: bytes) -> None:
            writes.append(data)
            write(data)

        self.patch(client.socket, "write", note)
        for settled in ((0, 1, 2), (3, 4, 5)):
            for index in settled:
                edge.collector.deliver(index)
            edge.advance(0)
        self.assertEqual(client.answers(), [stored(guid) for guid in "abcdef"])
        self.assertEqual(len(writes), 2)

    def test_how_long_answers_took(self) -> None:
        """Since the request came, and since it was published; only of what was published."""
        edge = self.make_edge()
        client = edge.upgrade()
        for guid in "abc":
            client.text(json_body(guid))
        edge.advance(2)
        for request in edge.collector.requests[:2]:
            request.published_at = NOW + 1.5
        for index in range(3):
            edge.collector.deliver(index)
        edge.advance(0)
        self.assertEqual(edge.metrics.observed("event_rtt_ms"), [2000, 2000])
        self.assertEqual(edge.metrics.observed("ack_event_rtt_ms"), [500, 500])

    def test_client_gone_with_answers_to_send(self) -> None:
        """Answers that were to go out together to a client that left are dropped in silence."""
        edge = self.make_edge()
        client = edge.upgrade()
        for guid in "ab":
            client.text(json_body(guid))
        edge.collector.deliver(0)
        client.socket.hang_up()
        edge.advance(0)
        self.assertEqual(client.frames(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_publishing_failed(self) -> None:
        """A lost request is told so in its own form, with its guid, and the connection goes on."""
        edge = self.make_edge()
        client = edge.upgrade()
        for frame in (client_frame(TEXT, json_body("a")), client_frame(BINARY, protobuf_body("a"))):
            client.send(frame)
            edge.collector.lose(why="no leader")
            answer = client.frame()
            self.assertEqual(answer.opcode, frame[0] & 0x0F)
            self.assertEqual(
                read_answer(answer),
                {
                    "status": ERROR,
                    "code": INTERNAL_ERROR,
                    "sent_time": SENT_TIME,
                    "reason": "cannot publish events: 1 of 1 events failed: no leader",
                    "data": {"req_guid": "a"},
                },
            )

    def check_bad(self, client: WebSocketClient, opcode: int) -> None:
        frame = client.frame()
        self.assertEqual(frame.opcode, opcode)
        answer = read_answer(frame)
        reason = answer.pop("reason")
        self.assertEqual(
            answer,
            {
                "status": ERROR,
                "code": BAD_REQUEST,
                "sent_time": SENT_TIME,
                "data": {"req_guid": ""},
            },
        )
        self.assertTrue(reason.startswith("cannot deserialize request: "), reason)

    def test_bad_messages(self) -> None:
        """What cannot be decoded is told so in its own form, and the connection stays open."""
        edge = self.make_edge(ack=0)
        client = edge.upgrade()
        bad_texts = (b"", b"{", b"[]", b'{"req_guid":1}', b"nonsense", "ü".encode(), b"[" * 1000)
        for payload in bad_texts:
            client.text(payload)
            self.check_bad(client, TEXT)
        for payload in (b"\x0a\xff\xff", b"{}"):
            client.binary(payload)
            self.check_bad(client, BINARY)
        self.assertEqual(edge.collector.requests, [])
        self.assertEqual(
            edge.metrics.total("batches_read_total", ("failed", "serde", "--default--")),
            len(bad_texts) + 2,
        )
        client.text(json_body("good"))
        self.assertEqual(client.answer(), stored("good"))

    def test_empty_binary_message_is_an_empty_request(self) -> None:
        """No bytes at all are a valid protobuf request."""
        client = self.make_edge(ack=0).upgrade()
        client.binary(b"")
        self.assertEqual(client.answer(), stored(""))

    def test_too_many_events(self) -> None:
        """More events than LIMIT_EVENTS are refused by name, and the connection stays open."""
        client = self.make_edge(limits={"events": 1}).upgrade()
        client.text(json_body("a", [("click", b"1"), ("click", b"2")]))
        self.assertIn("LIMIT_EVENTS", client.answer()["reason"])
        self.assertFalse(client.closed)

    def test_client_gone_before_the_answer(self) -> None:
        """An answer to a client that hung up is dropped in silence, well or ill."""
        edge = self.make_edge()
        for settle in (edge.collector.deliver, edge.collector.lose):
            client = edge.upgrade()
            client.text(json_body())
            client.socket.hang_up()
            settle()
            self.assertEqual(client.frames(), [])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_what_was_read_is_counted(self) -> None:
        """A request counts once, its events and their bytes by group and type."""
        edge = self.make_edge(ack=0)
        edge.upgrade().text(json_body("a", [("click", b"123"), ("click", b"45")]))
        group = "--default--"
        self.assertEqual(edge.metrics.total("batches_read_total", ("success", "NA", group)), 1)
        self.assertEqual(edge.metrics.total("events_rx_total", (group, "click")), 2)
        self.assertEqual(edge.metrics.total("events_rx_bytes_total", (group, "click")), 5)


class FramingTests(EdgeTestCase):
    """Frames in any pieces, and what breaks the protocol."""

    def setUp(self) -> None:
        self.edge = self.make_edge(ack=0)
        self.client = self.edge.upgrade()

    def test_message_byte_by_byte(self) -> None:
        """A message may come in any pieces."""
        data = client_frame(TEXT, json_body("a")) + client_frame(BINARY, protobuf_body("b"))
        for byte in data:
            self.client.send(bytes([byte]))
        self.assertEqual(self.client.answers(), [stored("a"), stored("b")])

    def test_every_cut_of_two_messages(self) -> None:
        """Two messages arrive whole wherever the network cuts them."""
        data = client_frame(TEXT, json_body("a")) + client_frame(BINARY, protobuf_body("b"))
        for cut in range(len(data)):
            self.client.send(data[:cut])
            self.client.send(data[cut:])
            self.assertEqual(self.client.answers(), [stored("a"), stored("b")], f"cut at {cut}")

    def test_many_messages_in_one_read(self) -> None:
        """Messages that come together, with half of another, are each answered once."""
        frames = b"".join(client_frame(TEXT, json_body(str(n))) for n in range(50))
        self.client.send(frames[:-10])
        self.assertEqual(self.client.answers(), [stored(str(n)) for n in range(49)])
        self.client.send(frames[-10:])
        self.assertEqual(self.client.answers(), [stored("49")])

    def test_lengths_around_the_forms_of_a_frame(self) -> None:
        """Payloads around 126 and 65,536 bytes arrive whole in each form of the length."""
        for length in (125, 126, 127, 65_535, 65_536, 65_537):
            empty = len(protobuf_body("a", [("t", b"")]))
            for padding in range(length - empty - 20, length - empty + 1):
                body = protobuf_body("a", [("t", b"x" * max(padding, 0))])
                if len(body) == length:
                    self.client.binary(body)
                    self.assertEqual(self.client.answers(), [stored("a")], length)
                    self.assertEqual(len(self.edge.collector.requests[-1].payloads[0]), padding)
                    break
            else:
                self.fail(f"no body of {length} bytes was made")

    def test_fragments(self) -> None:
        """A message in fragments, with control frames between them, is one request."""
        body = json_body("a")
        self.client.send(client_frame(TEXT, body[:5], fin=False))
        self.client.send(client_frame(PING, b"between"))
        self.client.send(client_frame(CONTINUATION, body[5:9], fin=False))
        self.client.send(client_frame(CONTINUATION, b"", fin=False))
        self.assertEqual(self.client.frames(), [Frame(PONG, b"between")])
        self.client.send(client_frame(CONTINUATION, body[9:]), client_frame(TEXT, json_body("b")))
        self.assertEqual(self.client.answers(), [stored("a"), stored("b")])

    def test_binary_fragments_in_one_read(self) -> None:
        """A fragmented protobuf message between whole ones is one request."""
        body = protobuf_body("f")
        self.client.send(
            client_frame(BINARY, protobuf_body("a")),
            client_frame(BINARY, body[:4], fin=False),
            client_frame(CONTINUATION, body[4:]),
            client_frame(BINARY, protobuf_body("b")),
        )
        self.assertEqual(self.client.answers(), [stored("a"), stored("f"), stored("b")])

    def test_new_message_within_fragments(self) -> None:
        """A message that begins before another has ended breaks the protocol: 1002."""
        self.client.send(client_frame(TEXT, b"{", fin=False), client_frame(TEXT, json_body("a")))
        self.check_close(self.client.frame(), 1002)
        self.assertEqual(self.edge.collector.requests, [])

    def test_ping_is_answered_with_its_payload(self) -> None:
        """A ping is answered by a pong with the same payload, none included."""
        for payload in (b"", b"x", b"\x00\xff" * 60, b"y" * 125):
            self.client.send(client_frame(PING, payload))
            self.assertEqual(self.client.frame(), Frame(PONG, payload))

    def test_ping_between_messages_in_one_read(self) -> None:
        """Pings among messages of one read are answered, and no message is lost."""
        self.client.send(
            client_frame(TEXT, json_body("a")),
            client_frame(PING, b"p"),
            client_frame(TEXT, json_body("b")),
        )
        first, pong, second = self.client.frames()
        self.assertEqual(pong, Frame(PONG, b"p"))
        self.assertEqual([read_answer(first), read_answer(second)], [stored("a"), stored("b")])

    def test_ping_flood_of_a_client_that_reads(self) -> None:
        """Each of many pings is answered, and the connection serves on."""
        self.client.send(client_frame(PING, b"p" * 125) * 500)
        self.assertEqual(self.client.frames(), [Frame(PONG, b"p" * 125)] * 500)
        self.client.text(json_body("a"))
        self.assertEqual(self.client.answer(), stored("a"))

    def test_unasked_pong(self) -> None:
        """A pong that was not asked for is taken in silence."""
        self.client.send(client_frame(PONG, b"hello"))
        self.assertEqual(self.client.frames(), [])
        self.assertFalse(self.client.closed)

    def test_invalid_utf8(self) -> None:
        """Text that is not UTF-8 ends the connection with 1007, and nothing is kept."""
        self.client.text(b'{"req_guid":"\xff"}')
        self.check_close(self.client.frame(), 1007)
        self.assertEqual(self.edge.collector.requests, [])

    def test_utf8_cut_short(self) -> None:
        """Text that ends within a character is not UTF-8 either."""
        self.client.text("grün".encode()[:3])
        self.check_close(self.client.frame(), 1007)

    def test_invalid_utf8_after_good_messages(self) -> None:
        """Messages before the one that is not UTF-8 are served."""
        self.client.send(client_frame(TEXT, json_body("a")), client_frame(TEXT, b"\xff"))
        answer, close = self.client.frames()
        self.assertEqual(read_answer(answer), stored("a"))
        self.check_close(close, 1007)

    def test_unmasked_frame(self) -> None:
        """A client's frame without a mask breaks the protocol: 1002, and nothing is kept."""
        self.client.send(client_frame(TEXT, json_body("a"), mask=None))
        self.check_close(self.client.frame(), 1002)
        self.assertEqual(self.edge.collector.requests, [])

    def test_reserved_bits_and_opcodes(self) -> None:
        """Reserved bits and opcodes break the protocol: 1002."""
        for first in (0xC1, 0xA2, 0x83, 0x8B):
            client = self.edge.upgrade(f"client-{first}")
            frame = bytearray(client_frame(TEXT, json_body("a")))
            frame[0] = first
            client.send(bytes(frame))
            self.check_close(client.frames()[0], 1002)
        self.assertEqual(self.edge.collector.requests, [])

    def test_length_that_is_not_minimal(self) -> None:
        """A length in a longer form than it needs breaks the protocol: 1002."""
        mask = b"\0\0\0\0"
        for number, head in enumerate((b"\x82\xfe\x00\x05", b"\x82\xff" + b"\0" * 7 + b"\x05")):
            client = self.edge.upgrade(f"client-{number}")
            client.send(head + mask + b"12345")
            self.check_close(client.frames()[0], 1002)
        self.assertEqual(self.edge.collector.requests, [])


class TakeMessageTests(SynchronousTestCase):
    """take_message, where a frame is not whole."""

    def test_incomplete_head(self) -> None:
        """A head that is not whole, its length included, is left to the general parser."""
        for size in (10, 200, 70_000):
            frame = client_frame(BINARY, b"x" * size)
            head = len(frame) - size
            for cut in range(head - 4 if size > 125 else 6):
                self.assertIsNone(take_message(frame[:cut], 0, 100_000), f"{size}, {cut}")

    def test_incomplete_payload(self) -> None:
        """Of a frame whose payload is not whole its end is told."""
        frame = client_frame(TEXT, b"x" * 200)
        self.assertEqual(take_message(b"abc" + frame[:-1], 3, 200), (None, False, 3 + len(frame)))
        self.assertIsNone(take_message(frame[:-1], 0, 199))


class OversizeTests(EdgeTestCase):
    """LIMIT_REQUEST_BYTES for messages."""

    def setUp(self) -> None:
        self.edge = self.make_edge(ack=0, limits={"request_bytes": 1024})
        self.client = self.edge.upgrade()

    def test_message_at_the_limit(self) -> None:
        """A message of exactly the limit is taken."""
        self.client.text(json_body("a").ljust(1024))
        self.assertEqual(self.client.answer(), stored("a"))

    def test_message_over_the_limit(self) -> None:
        """A message over the limit ends the connection with 1009, and nothing is kept."""
        self.client.text(json_body("a").ljust(1025))
        self.check_close(self.client.frame(), 1009)
        self.assertEqual(self.edge.collector.requests, [])

    def test_length_is_refused_before_the_message_comes(self) -> None:
        """A frame that only says it is over the limit is refused by its head."""
        self.client.send(client_frame(BINARY, b"", length=1 << 40))
        self.check_close(self.client.frame(), 1009)

    def test_fragments_over_the_limit(self) -> None:
        """Fragments that are over the limit together are refused as they come."""
        self.client.send(client_frame(TEXT, b"{" + b" " * 600, fin=False))
        self.assertEqual(self.client.frames(), [])
        self.client.send(client_frame(CONTINUATION, b" " * 600, fin=False))
        self.check_close(self.client.frame(), 1009)

    def test_nothing_is_taken_after_it(self) -> None:
        """Messages behind one that is over the limit are not taken."""
        self.client.send(
            client_frame(TEXT, json_body("a").ljust(2000)), client_frame(TEXT, json_body("b"))
        )
        self.client.text(json_body("c"))
        self.assertEqual(self.edge.collector.requests, [])


class CloseTests(EdgeTestCase):
    """How connections end."""

    def test_client_closes(self) -> None:
        """A client's close is answered, the connection ends, and its place in the table is free."""
        edge = self.make_edge()
        client = edge.upgrade()
        edge.advance(2)
        client.send(client_frame(CLOSE, b"\x03\xe8bye"))
        self.check_close(client.frame(), 1000)
        edge.advance(0)
        self.assertTrue(client.closed)
        group = ("--default--",)
        self.assertEqual(edge.metrics.level("connections_count_current", group), 0)
        self.assertEqual(edge.metrics.observed("user_session_duration_milliseconds"), [2000])
        self.assertEqual(
            edge.metrics.total("batches_read_total", ("failed", "closeerror", group[0])), 1
        )
        self.assertEqual(edge.upgrade().upgrade.status, 101)

    def test_client_vanishes(self) -> None:
        """A client that is gone without a word leaves its place in the table, too."""
        edge = self.make_edge()
        edge.upgrade().socket.hang_up()
        self.assertEqual(edge.metrics.level("connections_count_current"), 0)
        self.assertEqual(edge.upgrade().upgrade.status, 101)

    def test_message_after_close(self) -> None:
        """A message behind a client's close, in the same read or later, is not taken."""
        edge = self.make_edge(ack=0)
        client = edge.upgrade()
        client.send(client_frame(CLOSE, b"\x03\xe8"), client_frame(TEXT, json_body("a")))
        client.send(client_frame(TEXT, json_body("b")))
        self.assertEqual([frame.opcode for frame in client.frames()], [CLOSE])
        self.assertEqual(edge.collector.requests, [])

    def test_answer_after_close(self) -> None:
        """An answer that is due after a client's close is dropped in silence."""
        edge = self.make_edge()
        client = edge.upgrade()
        client.text(json_body("a"))
        client.send(client_frame(CLOSE, b"\x03\xe8"))
        edge.collector.deliver()
        self.assertEqual([frame.opcode for frame in client.frames()], [CLOSE])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_server_stops(self) -> None:
        """When the server stops, each client is told 1001, and the last one gone is the end."""
        edge = self.make_edge()
        clients = [edge.upgrade("a"), edge.upgrade("b")]
        done = edge.websocket.close_all()
        for client in clients:
            self.check_close(client.frame(), 1001)
            self.assertNoResult(done)
            client.send(client_frame(CLOSE, b"\x03\xe9"))
            edge.advance(0)
            self.assertTrue(client.closed)
        self.assertIsNone(self.successResultOf(done))

    def test_server_stops_with_answers_to_send(self) -> None:
        """Answers that were to go out together go before the close."""
        edge = self.make_edge()
        client = edge.upgrade()
        for guid in "ab":
            client.text(json_body(guid))
        edge.collector.deliver(0)
        edge.websocket.close_all()
        answer, close = client.frames()
        self.assertEqual(read_answer(answer), stored("a"))
        self.check_close(close, 1001)

    def test_server_stops_within_a_message(self) -> None:
        """A message that was not whole when the server closed does not hide the client's close."""
        edge = self.make_edge(ack=0)
        client = edge.upgrade()
        frame = client_frame(TEXT, json_body("a"))
        client.send(frame[:-5])
        done = edge.websocket.close_all()
        client.send(frame[-5:])
        client.send(client_frame(CLOSE, b"\x03\xe9"))
        edge.advance(0)
        self.assertTrue(client.closed)
        self.assertIsNone(self.successResultOf(done))

    def test_server_that_reads_nothing_stops(self) -> None:
        """It reads each client's part of the closing handshake, and takes no message before it."""
        edge = self.make_edge(ack=0)
        client = edge.upgrade()
        edge.websocket.stop_reading()
        client.text(json_body("a"))
        done = edge.websocket.close_all()
        self.check_close(client.frame(), 1001)
        client.send(client_frame(CLOSE, b"\x03\xe9"))
        edge.advance(0)
        self.assertTrue(client.closed)
        self.assertIsNone(self.successResultOf(done))
        self.assertEqual([], edge.collector.requests)

    def test_server_without_connections_stops_at_once(self) -> None:
        """With nobody connected there is nothing to wait for."""
        self.assertIsNone(self.successResultOf(self.make_edge().websocket.close_all()))

    def test_quiet_server_reads_nothing(self) -> None:
        """A server that is about to stop takes no message, and still sends the answers due."""
        edge = self.make_edge()
        client = edge.upgrade()
        client.text(json_body("a"))
        edge.websocket.stop_reading()
        client.text(json_body("b"))
        self.assertEqual(edge.collector.guids, ["a"])
        edge.collector.deliver()
        self.assertEqual(client.answer(), stored("a"))
        edge.advance(0)
        self.assertEqual(edge.collector.guids, ["a"])

    def test_close_that_the_client_does_not_answer(self) -> None:
        """A client that does not answer the server's close is dropped after a while."""
        edge = self.make_edge(limits={"request_bytes": 1024})
        client = edge.upgrade()
        client.text(b"x" * 2000)
        self.check_close(client.frame(), 1009)
        edge.advance(10, step=0.5)
        self.assertTrue(client.closed)


class LimitTests(EdgeTestCase):
    """One connection for each identifier, and so many in all."""

    def test_duplicate(self) -> None:
        """A second live connection of an identifier is told so in protobuf and closed."""
        edge = self.make_edge()
        first = edge.upgrade("phone")
        second = edge.upgrade("phone")
        answer, close = second.frames()
        self.assertEqual(answer.opcode, BINARY)
        refusal = read_answer(answer)
        self.assertEqual((refusal["status"], refusal["code"]), (ERROR, MAX_USERS))
        self.assertEqual(refusal["sent_time"], SENT_TIME)
        self.check_close(close, 1008, "duplicate connection: phone")
        self.assertEqual(
            edge.metrics.total("user_connection_failure_total", ("--default--", "exists")), 1
        )
        first.text(json_body("a"))
        self.assertEqual(edge.collector.guids, ["a"])

    def test_duplicate_ends_with_the_closing_handshake(self) -> None:
        """Once the refused client answers the close it is gone, and the first one is not."""
        edge = self.make_edge()
        first, second = edge.upgrade("phone"), edge.upgrade("phone")
        second.send(client_frame(CLOSE, b"\x03\xf0"))
        edge.advance(0)
        self.assertTrue(second.closed)
        self.assertFalse(first.closed)
        self.assertEqual(edge.metrics.level("connections_count_current"), 1)
        self.assertEqual(edge.metrics.observed("user_session_duration_milliseconds"), [])
        third = edge.upgrade("phone")
        self.check_close(third.frames()[1], 1008, "duplicate connection: phone")

    def test_messages_of_a_refused_connection(self) -> None:
        """What a refused client sends is not taken."""
        edge = self.make_edge()
        edge.upgrade("phone")
        second = edge.upgrade("phone")
        second.text(json_body("a"))
        second.binary(protobuf_body("b"))
        self.assertEqual(edge.collector.requests, [])

    def test_long_id(self) -> None:
        """The reason of a close names as much of the id as a close frame holds."""
        edge = self.make_edge()
        edge.upgrade("x" * 256)
        _, close = edge.upgrade("x" * 256).frames()
        self.assertLessEqual(len(close.payload), 125)
        self.assertTrue(close.close_reason().startswith("duplicate connection: xxxx"))

    def test_same_id_in_another_group(self) -> None:
        """The same id in another group is another connection."""
        edge = self.make_edge(websocket={"conn_group_header": "X-Group"})
        for group in ("a", "b"):
            self.assertEqual(edge.upgrade("phone", [("X-Group", group)]).frames(), [])
        self.assertEqual(edge.metrics.level("connections_count_current"), 2)

    def test_reconnect(self) -> None:
        """An identifier may connect again once its connection is gone."""
        edge = self.make_edge()
        edge.upgrade("phone").socket.hang_up()
        self.assertEqual(edge.upgrade("phone").frames(), [])

    def test_max_connections(self) -> None:
        """A connection over SERVER_WEBSOCKET_MAX_CONN is told so in protobuf and closed."""
        edge = self.make_edge(websocket={"max_conn": 2})
        first = edge.upgrade("a")
        edge.upgrade("b")
        answer, close = edge.upgrade("c").frames()
        self.assertEqual(answer.opcode, BINARY)
        self.assertEqual(
            read_answer(answer),
            {
                "status": ERROR,
                "code": MAX_CONNECTIONS,
                "sent_time": SENT_TIME,
                "reason": "max connection reached",
            },
        )
        self.check_close(close, 1008, "Max connection reached")
        self.assertEqual(
            edge.metrics.total("user_connection_failure_total", ("--default--", "serverlimit")), 1
        )
        first.socket.hang_up()
        self.assertEqual(edge.upgrade("c").frames(), [])

    def test_refused_client_that_does_not_answer_the_close(self) -> None:
        """A refused client that stays is dropped after a while."""
        edge = self.make_edge()
        edge.upgrade("phone")
        second = edge.upgrade("phone")
        edge.advance(10, step=0.5)
        self.assertTrue(second.closed)


class BackpressureTests(EdgeTestCase):
    """A client cannot make the server hold more than its share."""

    def test_in_flight(self) -> None:
        """At LIMIT_REQUESTS_IN_FLIGHT the socket is not read until half of them are answered."""
        edge = self.make_edge(limits={"in_flight": 4})
        client = edge.upgrade()
        for n in range(6):
            client.text(json_body(str(n)))
        self.assertEqual(edge.collector.guids, ["0", "1", "2", "3"])
        edge.collector.deliver(0)
        edge.advance(0)
        self.assertEqual(edge.collector.guids, ["0", "1", "2", "3"])
        edge.collector.lose(1)
        edge.advance(0)
        self.assertEqual(edge.collector.guids, ["0", "1", "2", "3", "4", "5"])
        edge.collector.deliver_all()
        self.assertEqual(len(client.answers()), 6)

    def test_in_flight_of_one(self) -> None:
        """A limit of one lets one request after another through."""
        edge = self.make_edge(limits={"in_flight": 1})
        client = edge.upgrade()
        client.text(json_body("0"))
        for n in range(1, 5):
            client.text(json_body(str(n)))
            self.assertEqual(edge.collector.guids[-1], str(n - 1))
            edge.collector.deliver()
            edge.advance(0)
            self.assertEqual(edge.collector.guids[-1], str(n))
        self.assertEqual(client.answers(), [stored(str(n)) for n in range(4)])

    def test_messages_of_one_read_count_too(self) -> None:
        """Messages over the limit wait even if they came in one read with those below it."""
        edge = self.make_edge(limits={"in_flight": 4})
        client = edge.upgrade()
        client.send(*(client_frame(TEXT, json_body(str(n))) for n in range(40)))
        self.assertLessEqual(len(edge.collector.requests), 4)
        for _ in range(40):
            edge.collector.deliver_all()
            edge.advance(0)
        self.assertEqual(edge.collector.guids, [str(n) for n in range(40)])
        self.assertEqual(len(client.answers()), 40)

    def test_one_connection_does_not_hold_another(self) -> None:
        """Only the client that sends too much is not read."""
        edge = self.make_edge(limits={"in_flight": 1})
        hot, calm = edge.upgrade("hot"), edge.upgrade("calm")
        hot.text(json_body("a"))
        hot.text(json_body("b"))
        calm.text(json_body("c"))
        self.assertEqual(edge.collector.guids, ["a", "c"])

    def test_level_0_has_nothing_in_flight(self) -> None:
        """At level 0 answers follow at once, and no socket stops."""
        edge = self.make_edge(ack=0, limits={"in_flight": 1})
        client = edge.upgrade()
        client.send(*(client_frame(TEXT, json_body(str(n))) for n in range(10)))
        self.assertEqual(len(client.answers()), 10)

    def test_overloaded(self) -> None:
        """A refused request asks to retry, and the socket is not read until there is room."""
        edge = self.make_edge(ack=0)
        client = edge.upgrade()
        edge.collector.overloaded = True
        client.text(json_body("a"))
        answer = client.answer()
        self.assertEqual((answer["status"], answer["code"]), (ERROR, INTERNAL_ERROR))
        self.assertIn("overloaded, retry", answer["reason"])
        self.assertEqual(answer["data"], {"req_guid": "a"})
        client.text(json_body("b"))
        client.text(json_body("c"))
        edge.advance(5, step=1)
        self.assertEqual(client.frames(), [])
        edge.collector.make_room()
        edge.advance(0)
        self.assertEqual(
            client.answers(), [{**stored(guid), "sent_time": SENT_TIME + 5} for guid in "bc"]
        )

    def test_overloaded_again(self) -> None:
        """A second overload stops the socket as the first did."""
        edge = self.make_edge(ack=0)
        client = edge.upgrade()
        for guid in "ab":
            edge.collector.overloaded = True
            client.text(json_body(guid))
            self.assertIn("overloaded", client.answer()["reason"])
            client.text(json_body(f"{guid}-retried"))
            self.assertEqual(client.frames(), [])
            edge.collector.make_room()
            edge.advance(0)
            self.assertEqual(client.answer(), stored(f"{guid}-retried"))

    def test_client_gone_while_overloaded(self) -> None:
        """The end of an overload does not trouble a connection that is gone."""
        edge = self.make_edge(ack=0)
        client = edge.upgrade()
        edge.collector.overloaded = True
        client.text(json_body("a"))
        self.assertEqual(1, len(edge.collector.waiters))
        client.socket.hang_up()
        self.assertEqual([], edge.collector.waiters, "it is forgotten at once")
        edge.collector.make_room()
        edge.advance(0)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_client_that_never_reads(self) -> None:
        """A client that does not read is not read either, and dropped after the write wait."""
        edge = self.make_edge(ack=0, websocket={"write_wait_interval_ms": 5000})
        client = edge.upgrade()
        client.socket.client_reads = False
        sent = 0
        while client.socket.reading and sent < 10_000:
            client.text(json_body("x" * 200))
            sent += 1
        self.assertLess(sent, 1000)
        taken = len(edge.collector.requests)
        client.text(json_body("more"))
        self.assertEqual(len(edge.collector.requests), taken)
        edge.advance(4.9)
        self.assertFalse(client.closed)
        edge.advance(0.2)
        edge.advance(0)
        self.assertTrue(client.closed)
        self.assertTrue(client.socket.aborted)
        self.assertEqual(edge.metrics.level("connections_count_current"), 0)

    def test_client_that_reads_late(self) -> None:
        """A client that reads again within the write wait is served on."""
        edge = self.make_edge(ack=0, websocket={"write_wait_interval_ms": 5000})
        client = edge.upgrade()
        client.socket.client_reads = False
        sent = 0
        while client.socket.reading:
            client.text(json_body("x" * 200))
            sent += 1
        client.text(json_body("more"))
        edge.advance(4)
        client.socket.read_on()
        edge.advance(20, step=1)
        self.assertFalse(client.closed)
        answers = [read_answer(f) for f in client.frames() if f.opcode == TEXT]
        self.assertEqual(len(answers), sent + 1)
        self.assertEqual(answers[-1]["data"], {"req_guid": "more"})

    def test_ping_flood_of_a_client_that_does_not_read(self) -> None:
        """Pings cannot fill the server's memory: their sender is not read, and then dropped."""
        edge = self.make_edge(websocket={"write_wait_interval_ms": 5000})
        client = edge.upgrade()
        client.socket.client_reads = False
        for _ in range(1000):
            client.send(client_frame(PING, b"p" * 125) * 10)
        self.assertGreater(client.socket.unread, 1_000_000)
        edge.advance(5.1)
        edge.advance(0)
        self.assertTrue(client.closed)

    def test_client_gone_while_not_reading(self) -> None:
        """A client that is gone before the write wait is over leaves no timer behind."""
        edge = self.make_edge(ack=0)
        client = edge.upgrade()
        client.socket.client_reads = False
        while client.socket.reading:
            client.text(json_body("x" * 200))
        client.socket.hang_up()
        edge.websocket.keep_alive.stop()
        edge.advance(0)
        self.assertEqual(edge.clock.getDelayedCalls(), [])


class KeepAliveTests(EdgeTestCase):
    """Pings and pongs on the wire."""

    def test_ping_and_pong(self) -> None:
        """A client that answers the pings stays connected."""
        edge = self.make_edge(
            websocket={"ping_interval_ms": 30_000, "pong_wait_interval_ms": 60_000}
        )
        client = edge.upgrade()
        pings = 0
        for _ in range(300):
            edge.advance(1)
            for frame in client.frames():
                self.assertEqual(frame, Frame(PING, b"--ping--"))
                pings += 1
                client.send(client_frame(PONG, frame.payload))
        self.assertFalse(client.closed)
        self.assertIn(pings, (9, 10))

    def test_no_pong(self) -> None:
        """A client from which no pong comes is dropped after the wait, and counted."""
        edge = self.make_edge(
            websocket={"ping_interval_ms": 30_000, "pong_wait_interval_ms": 60_000}
        )
        client = edge.upgrade()
        edge.advance(59, step=1)
        self.assertFalse(client.closed)
        edge.advance(2, step=0.5)
        self.assertTrue(client.closed)
        self.assertEqual(edge.metrics.total("server_ping_failure_total", ("--default--",)), 1)
        self.assertEqual(edge.metrics.level("connections_count_current"), 0)

    def test_messages_are_no_pongs(self) -> None:
        """A client that sends and never answers a ping is dropped all the same."""
        edge = self.make_edge(
            ack=0, websocket={"ping_interval_ms": 30_000, "pong_wait_interval_ms": 60_000}
        )
        client = edge.upgrade()
        for _ in range(62):
            client.text(json_body("a"))
            edge.advance(1)
        self.assertTrue(client.closed)

    def test_client_that_is_not_read_is_not_blamed(self) -> None:
        """A client whose pongs lie unread, as the server does not read it, is not dropped."""
        edge = self.make_edge(
            limits={"in_flight": 1},
            websocket={"ping_interval_ms": 30_000, "pong_wait_interval_ms": 60_000},
        )
        client = edge.upgrade()
        client.text(json_body("slow"))
        edge.advance(200, step=1)
        self.assertFalse(client.closed)
        edge.collector.deliver()
        edge.advance(0)
        self.assertEqual(
            [read_answer(f)["code"] for f in client.frames() if f.opcode == TEXT], [OK]
        )


class DeduplicationTests(EdgeTestCase):
    """SERVER_BATCH_DEDUP_IN_CONNECTION_ENABLED."""

    def connect(self, ack: int = 1, **websocket: Any) -> WebSocketClient:
        """A client of a server that deduplicates."""
        self.edge = self.make_edge(ack=ack, websocket={"dedup_enabled": True, **websocket})
        self.collector = self.edge.collector
        return self.edge.upgrade()

    def test_published_batch(self) -> None:
        """A guid that was published is answered at once, in its own form, and not published."""
        client = self.connect()
        client.text(json_body("a"))
        self.collector.deliver()
        self.assertEqual(client.answer(), stored("a"))
        client.binary(protobuf_body("a"))
        frame = client.frame()
        self.assertEqual((frame.opcode, read_answer(frame)), (BINARY, stored("a")))
        self.assertEqual(self.collector.guids, ["a"])
        self.assertEqual(self.edge.metrics.total("events_duplicate_total"), 1)
        self.assertEqual(self.edge.metrics.total("events_in_duplicates_total"), 1)

    def test_batch_in_flight(self) -> None:
        """A copy of a batch in flight is answered when the first copy is."""
        client = self.connect()
        client.text(json_body("a"))
        client.binary(protobuf_body("a"))
        client.text(json_body("a"))
        self.assertEqual(client.frames(), [])
        self.collector.deliver()
        frames = client.frames()
        self.assertEqual(sorted(frame.opcode for frame in frames), [TEXT, TEXT, BINARY])
        self.assertEqual([read_answer(frame) for frame in frames], [stored("a")] * 3)
        self.assertEqual(self.collector.guids, ["a"])

    def test_failed_batch_fails_its_copies(self) -> None:
        """A copy of a batch that fails in flight fails with it."""
        client = self.connect()
        client.text(json_body("a"))
        client.text(json_body("a"))
        self.collector.lose()
        answers = client.answers()
        self.assertEqual([answer["code"] for answer in answers], [INTERNAL_ERROR] * 2)
        for answer in answers:
            self.assertTrue(answer["reason"].startswith("cannot publish events: "))
            self.assertEqual(answer["data"], {"req_guid": "a"})

    def test_failed_batch_is_forgotten(self) -> None:
        """The retry of a batch that failed is published."""
        client = self.connect()
        client.text(json_body("a"))
        self.collector.lose()
        self.assertEqual(client.answer()["code"], INTERNAL_ERROR)
        client.text(json_body("a"))
        self.assertEqual(self.collector.guids, ["a", "a"])
        self.collector.deliver()
        self.assertEqual(client.answer(), stored("a"))

    def test_overloaded_batch_is_forgotten(self) -> None:
        """The retry of a batch that was refused is published."""
        client = self.connect()
        self.collector.overloaded = True
        client.text(json_body("a"))
        self.assertIn("overloaded", client.answer()["reason"])
        self.collector.make_room()
        client.text(json_body("a"))
        self.assertEqual(self.collector.guids, ["a"])

    def test_bad_batch_is_not_remembered(self) -> None:
        """A message that could not be decoded does not stand in the way of its guid."""
        client = self.connect()
        client.text(b'{"req_guid":"a","events":1}')
        client.text(json_body("a"))
        self.assertEqual(self.collector.guids, ["a"])

    def test_level_0(self) -> None:
        """At level 0 a second copy is answered SUCCESS and not published again."""
        client = self.connect(ack=0)
        client.text(json_body("a"))
        client.text(json_body("a"))
        self.assertEqual(client.answers(), [stored("a")] * 2)
        self.assertEqual(self.collector.guids, ["a"])

    def test_level_0_failed_batch_is_forgotten(self) -> None:
        """At level 0, too, the retry of a batch that failed is published."""
        client = self.connect(ack=0)
        client.text(json_body("a"))
        self.collector.lose()
        client.text(json_body("a"))
        self.assertEqual(self.collector.guids, ["a", "a"])
        self.assertEqual(client.answers(), [stored("a")] * 2)

    def test_memory_is_bounded(self) -> None:
        """Only the latest guids are remembered; an older one is published again."""
        client = self.connect(ack=0, dedup_max_guids=2)
        for guid in "abc":
            client.text(json_body(guid))
        client.text(json_body("c"))
        client.text(json_body("b"))
        self.assertEqual(self.collector.guids, ["a", "b", "c"])
        client.text(json_body("a"))
        self.assertEqual(self.collector.guids, ["a", "b", "c", "a"])

    def test_copies_in_flight_are_bounded(self) -> None:
        """Copies that wait for their first one count as in flight."""
        edge = self.make_edge(limits={"in_flight": 3}, websocket={"dedup_enabled": True})
        client = edge.upgrade()
        for _ in range(10):
            client.text(json_body("a"))
        self.assertGreater(client.socket.unread, 0)
        edge.collector.deliver()
        edge.advance(0)
        self.assertEqual(client.socket.unread, 0)
        self.assertEqual(client.answers(), [stored("a")] * 10)
        self.assertEqual(edge.collector.guids, ["a"])

    def test_connections_do_not_share(self) -> None:
        """A guid of another connection, or of an earlier one of the same client, is new."""
        client = self.connect(ack=0)
        client.text(json_body("a"))
        self.edge.upgrade("other").text(json_body("a"))
        client.socket.hang_up()
        self.edge.upgrade().text(json_body("a"))
        self.assertEqual(self.collector.guids, ["a", "a", "a"])

    def test_no_guid(self) -> None:
        """Batches without a guid are not taken for copies of each other."""
        client = self.connect(ack=0)
        client.text(json_body(""))
        client.text(json_body(""))
        self.assertEqual(self.collector.guids, ["", ""])

    def test_disabled(self) -> None:
        """Without the option every copy is published."""
        edge = self.make_edge(ack=0)
        client = edge.upgrade()
        client.text(json_body("a"))
        client.text(json_body("a"))
        self.assertEqual(edge.collector.guids, ["a", "a"])

    def test_client_gone_with_copies_in_flight(self) -> None:
        """Copies whose client is gone are settled in silence."""
        client = self.connect()
        client.text(json_body("a"))
        client.text(json_body("a"))
        client.socket.hang_up()
        self.collector.deliver()
        self.assertEqual(client.frames(), [])
        self.assertEqual(self.flushLoggedErrors(), [])


class SharedPortTests(EdgeTestCase):
    """WebSocket beside REST."""

    def test_upgrade_after_requests_on_the_same_connection(self) -> None:
        """A connection that was used for REST may still be upgraded."""
        edge = self.make_edge(ack=0)
        client = edge.connect()
        client.send(http_request("GET", "/ping"))
        self.assertEqual(client.reply().status, 200)
        client.send(upgrade_request())
        self.assertEqual(client.reply().status, 101)
        client.send(client_frame(TEXT, json_body("a")))
        self.assertEqual(edge.collector.guids, ["a"])
