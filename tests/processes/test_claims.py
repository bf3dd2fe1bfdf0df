"""Tests of raccoon.processes.claims."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from raccoon.messages import Identifier
from raccoon.processes import claims
from raccoon.processes.claims import Claims, SharedTable
from tests.edges.bodies import NOW, json_body
from tests.edges.edge import Edge, HttpClient
from tests.edges.frames import CLOSE, client_frame, upgrade_request

A, B = Identifier("a", "group"), Identifier("b", "group")


class ClaimsTests(SynchronousTestCase):
    """The parent's table."""

    def test_taken(self) -> None:
        """An identifier that a worker has is refused to every worker."""
        table = Claims(10)
        self.assertIsNone(table.claim(0, A))
        self.assertEqual(["exists", "exists"], [table.claim(0, A), table.claim(1, A)])
        self.assertIsNone(table.claim(1, Identifier("a", "other group")))

    def test_full(self) -> None:
        """Over the limit every claim is refused, that of a taken identifier too."""
        table = Claims(1)
        table.claim(0, A)
        self.assertEqual(["serverlimit"] * 2, [table.claim(1, B), table.claim(1, A)])

    def test_released(self) -> None:
        """What a worker released can be claimed; what it has not got it cannot release."""
        table = Claims(1)
        table.claim(0, A)
        table.release(1, A)
        self.assertEqual("serverlimit", table.claim(1, B))
        table.release(0, A)
        self.assertIsNone(table.claim(1, B))

    def test_worker_gone(self) -> None:
        """All that a worker has is free when it is gone, and nothing else."""
        table = Claims(10)
        table.claim(0, A)
        table.claim(1, B)
        table.release_all(0)
        self.assertIsNone(table.claim(1, A))
        self.assertEqual("exists", table.claim(0, B))


class SharedTableCase(SynchronousTestCase):
    """A worker's connections, with a parent that answers when the test does."""

    def setUp(self) -> None:
        self.edge = Edge()
        self.addCleanup(self.edge.hang_up)
        self.asked: list[str] = []
        self.released: list[str] = []
        self.table = SharedTable(
            lambda identifier: self.asked.append(identifier.id),
            lambda identifier: self.released.append(identifier.id),
            self.edge.metrics,
            self.edge.clock.callLater,
        )
        self.edge.websocket.table = self.table

    def begin(self, id: str, more: bytes = b"") -> HttpClient:
        """A client that asks for an upgrade, with what else it sends at once."""
        client = self.edge.connect()
        client.send(upgrade_request(id) + more)
        return client

    def verdict(self, reason: str | None) -> None:
        self.table.verdict(reason)
        self.edge.clock.advance(0)


class SharedTableTests(SharedTableCase):
    """Verdicts, in time."""

    def test_granted(self) -> None:
        """The upgrade is answered when the parent has allowed it, and released at the end."""
        client = self.begin("a")
        self.assertEqual((["a"], b""), (self.asked, client.socket.received()))
        self.verdict(None)
        self.assertIn(b" 101 ", client.socket.received())
        self.assertEqual(1, len(self.table))
        self.assertEqual(1, self.edge.metrics.level("connections_count_current"))
        client.socket.deliver(client_frame(1, json_body("guid")))
        self.assertEqual(["guid"], self.edge.collector.guids)
        client.socket.hang_up()
        self.assertEqual((["a"], 0), (self.released, len(self.table)))
        self.assertEqual(0, self.edge.metrics.level("connections_count_current"))

    def test_refused(self) -> None:
        """A refusal is told as it is within one process, and nothing is released."""
        for reason, code, told in (
            ("exists", b"\x10\x05", b"duplicate connection: a"),
            ("serverlimit", b"\x10\x04", b"Max connection reached"),
        ):
            client = self.begin("a")
            self.verdict(reason)
            if reason == "exists":
                self.assertEqual(b"", client.socket.received())
                self.edge.clock.advance(0.1)
                self.verdict(reason)
            received = client.socket.received()
            self.assertIn(b" 101 ", received)
            self.assertIn(code, received)
            self.assertIn(told, received)
            client.send(client_frame(CLOSE, b"\x03\xf0"))
            self.assertEqual(
                1, self.edge.metrics.total("user_connection_failure_total", ("--default--", reason))
            )
        self.assertEqual(([], 0), (self.released, len(self.table)))

    def test_in_order(self) -> None:
        """Verdicts belong to the claims in their order."""
        first, second = self.begin("a"), self.begin("b")
        self.verdict("serverlimit")
        self.assertIn(b"Max connection", first.socket.received())
        self.assertEqual(b"", second.socket.received())
        self.verdict(None)
        self.assertIn(b" 101 ", second.socket.received())
        self.assertEqual(["b"], [connection.identifier.id for connection in self.table])

    def test_gone_before_the_verdict(self) -> None:
        """A client that left meanwhile is not connected, and what it was granted is released."""
        client = self.begin("a")
        client.socket.hang_up()
        self.assertEqual([], self.released)
        self.verdict(None)
        self.assertEqual((["a"], 0), (self.released, len(self.table)))
        self.assertEqual([], self.edge.metrics.observed("user_session_duration_milliseconds"))

    def test_came_back_at_once(self) -> None:
        """A client that is ahead of the word that it left is asked for once more, and let in."""
        client = self.begin("a")
        self.verdict("exists")
        self.edge.clock.advance(0.09)
        self.assertEqual((["a"], b""), (self.asked, client.socket.received()))
        self.edge.clock.advance(0.01)
        self.assertEqual(["a", "a"], self.asked)
        self.verdict(None)
        self.assertIn(b" 101 ", client.socket.received())
        self.assertEqual(([], 1), (self.released, len(self.table)))

    def test_gone_before_it_asks_again(self) -> None:
        """A client that left before it was asked for once more is not asked for."""
        client = self.begin("a")
        self.verdict("exists")
        client.socket.hang_up()
        self.edge.clock.advance(1)
        self.assertEqual((["a"], [], 0), (self.asked, self.released, len(self.table)))

    def test_gone_before_the_second_verdict(self) -> None:
        """What a client that left was granted when it was asked for once more is released."""
        client = self.begin("a")
        self.verdict("exists")
        self.edge.clock.advance(0.1)
        client.socket.hang_up()
        self.verdict(None)
        self.assertEqual((["a"], 0), (self.released, len(self.table)))

    def test_gone_before_a_refusal(self) -> None:
        """Where it was refused there is nothing to release: the id is another's."""
        self.begin("a").socket.hang_up()
        self.verdict("exists")
        self.assertEqual([], self.released)

    def test_sent_before_the_verdict(self) -> None:
        """What a client sends before its upgrade is answered is read after it."""
        client = self.begin("a")
        client.send(client_frame(1, json_body("early", [("t", b"\r\n\r\n")])))
        self.assertEqual([], self.edge.collector.guids)
        self.verdict(None)
        client.socket.read_on()
        self.edge.clock.advance(0)
        self.assertEqual(["early"], self.edge.collector.guids)


class HungParentTests(SharedTableCase):
    """A parent that does not answer."""

    def test_no_answer(self) -> None:
        """An upgrade without a verdict is refused after three seconds, and may be tried again."""
        client = self.begin("a")
        self.edge.clock.advance(2.9)
        self.assertEqual(b"", client.socket.received())
        self.edge.clock.advance(0.2)
        received = client.socket.received()
        self.assertIn(b"HTTP/1.1 503 ", received)
        self.assertIn(b"retry", received)
        self.edge.clock.advance(1)
        self.assertTrue(client.closed)
        self.assertFalse(client.socket.connected)
        labels = ("--default--", "ugfailure")
        self.assertEqual(1, self.edge.metrics.total("user_connection_failure_total", labels))

    def test_late_verdict(self) -> None:
        """What the parent grants too late is given back, and others get their own verdicts."""
        self.begin("a")
        self.edge.clock.advance(3)
        second = self.begin("b")
        self.verdict(None)
        self.assertEqual(["a"], self.released)
        self.verdict(None)
        self.assertIn(b" 101 ", second.socket.received())
        self.assertEqual((["a"], 1), (self.released, len(self.table)))

    def test_late_refusal(self) -> None:
        """Of what it refuses too late there is nothing to give back."""
        self.begin("a")
        self.edge.clock.advance(3)
        self.verdict("exists")
        self.edge.clock.advance(1)
        self.assertEqual((["a"], []), (self.asked, self.released))

    def test_no_answer_the_second_time(self) -> None:
        """The deadline is that of both times together."""
        client = self.begin("a")
        self.edge.clock.advance(2.95)
        self.verdict("exists")
        self.edge.clock.advance(0.06)
        self.assertIn(b" 503 ", client.socket.received())
        self.edge.clock.advance(1)
        self.assertEqual(["a"], self.asked)

    def test_bounded(self) -> None:
        """Beyond so many claims without a verdict a further one is refused at once."""
        self.patch(claims, "_WAITING_CLAIMS", 2)
        for name in "ab":
            self.begin(name)
        client = self.begin("c")
        self.assertIn(b" 503 ", client.socket.received())
        self.assertEqual(["a", "b"], self.asked)

    def test_nothing_left_behind(self) -> None:
        """A claim that has ended leaves no timer, whichever way it did."""
        self.begin("a").socket.hang_up()
        self.begin("b")
        self.verdict(None)
        self.verdict("serverlimit")
        self.edge.hang_up()
        self.assertEqual({}, self.table._claims)
        late = [call for call in self.edge.clock.getDelayedCalls() if call.getTime() > NOW + 2.5]
        self.assertEqual([], late)
