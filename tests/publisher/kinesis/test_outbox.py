"""What goes into each request, and when."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.kinesis.outbox import Outbox, Parcel, Record


def records(*payloads: bytes, size: int = 10, deadline: float = 1000.0) -> list[Record]:
    """Records of so many bytes each."""
    return [Record("owner", payload, "", size, deadline) for payload in payloads]


def payloads(parcel: Parcel | None) -> list[bytes]:
    """What a request would hold."""
    assert parcel is not None
    return [record.payload for record in parcel.records]


class OutboxTests(SynchronousTestCase):
    """On a clock that the test moves; requests of 3 records, 100 bytes."""

    def setUp(self) -> None:
        self.clock = Clock()

    def outbox(self, *, delay: float = 0.0, in_flight: int = 2, senders: int = 4) -> Outbox:
        """An empty one."""
        return Outbox(
            records=3,
            size=100,
            alone=50,
            delay=delay,
            in_flight=in_flight,
            senders=senders,
            seconds=self.clock.seconds,
        )

    def nothing_to_take(self, outbox: Outbox) -> bool:
        """Whether a take would wait; the outbox is closed by asking."""
        waits = []

        def wait(timeout: float | None = None) -> None:
            waits.append(timeout)
            outbox.close()

        self.patch(outbox._changed, "wait", wait)
        return outbox.take() is None and len(waits) == 1

    def open_with(self, outbox: Outbox, stream: str, *batches: list[Record]) -> None:
        """Add records and open the stream's lane."""
        for batch in batches:
            outbox.add(stream, batch)
        outbox.open(stream)

    def test_as_many_as_fit(self) -> None:
        """A request holds records up to the count, in the order they came; the rest follow."""
        outbox = self.outbox()
        self.open_with(outbox, "a", records(b"1", b"2"), records(b"3", b"4"))
        self.assertEqual(payloads(outbox.take()), [b"1", b"2", b"3"])
        self.assertEqual(payloads(outbox.take()), [b"4"])

    def test_as_many_bytes_as_fit(self) -> None:
        """A record that would make a request too large goes into the next."""
        outbox = self.outbox()
        self.open_with(outbox, "a", records(b"1", b"2", size=40), records(b"3", size=21))
        self.assertEqual(payloads(outbox.take()), [b"1", b"2"])
        self.assertEqual(payloads(outbox.take()), [b"3"])

    def test_a_large_record_goes_alone(self) -> None:
        """A record over the bound has a request of its own, between the others."""
        outbox = self.outbox(in_flight=9)
        self.open_with(outbox, "a", records(b"1"), records(b"large", size=51), records(b"2"))
        taken = [payloads(outbox.take()) for _ in range(3)]
        self.assertEqual(taken, [[b"1"], [b"large"], [b"2"]])

    def test_waits_until_opened(self) -> None:
        """Of a new stream nothing is sent before it is opened; only its first add says so."""
        outbox = self.outbox()
        self.assertTrue(outbox.add("a", records(b"1")))
        self.assertFalse(outbox.add("a", records(b"2")))
        self.assertTrue(outbox.add("b", records(b"other")))
        outbox.open("b")
        self.assertEqual(payloads(outbox.take()), [b"other"])
        self.assertTrue(self.nothing_to_take(outbox))

    def test_remove(self) -> None:
        """A stream that is not there gives its records back, and is new when it is next used."""
        outbox = self.outbox()
        outbox.add("a", records(b"1", b"2"))
        self.assertEqual([record.payload for record in outbox.remove("a")], [b"1", b"2"])
        self.assertEqual(outbox.remove("a"), [])
        self.assertTrue(outbox.add("a", records(b"3")))

    def test_forgets_an_empty_lane(self) -> None:
        """A stream whose records are all gone takes no memory: it is new again."""
        outbox = self.outbox()
        self.open_with(outbox, "a", records(b"1"))
        outbox.take()
        self.assertFalse(outbox.add("a", records(b"2")))
        outbox.done("a", [], 0, False)
        outbox.take()
        outbox.done("a", [], 0, False)
        self.assertTrue(outbox.add("a", records(b"3")))

    def test_so_many_requests_of_a_stream(self) -> None:
        """A stream has its number of requests under way, and another stream goes on."""
        outbox = self.outbox(in_flight=1)
        self.open_with(outbox, "a", records(b"1", b"2", b"3", b"4"))
        self.assertEqual(payloads(outbox.take()), [b"1", b"2", b"3"])
        self.open_with(outbox, "b", records(b"other"))
        self.assertEqual(payloads(outbox.take()), [b"other"])
        outbox.done("a", [], 0, False)
        self.assertEqual(payloads(outbox.take()), [b"4"])

    def test_so_many_requests_of_all(self) -> None:
        """No more requests are under way than there are senders."""
        outbox = self.outbox(senders=1)
        self.open_with(outbox, "a", records(b"1"))
        outbox.take()
        self.open_with(outbox, "b", records(b"2"))
        self.assertTrue(self.nothing_to_take(outbox))

    def test_waits_for_company(self) -> None:
        """A request that is not full waits for the delay; a full one does not."""
        outbox = self.outbox(delay=5)
        self.open_with(outbox, "a", records(b"1"))
        self.open_with(outbox, "b", records(b"2", b"3", b"4"))
        self.assertEqual(payloads(outbox.take()), [b"2", b"3", b"4"])
        self.clock.advance(5)
        self.assertEqual(payloads(outbox.take()), [b"1"])

    def test_hurry(self) -> None:
        """In a hurry nothing waits for company."""
        outbox = self.outbox(delay=5)
        self.open_with(outbox, "a", records(b"1"))
        outbox.hurry()
        self.assertEqual(payloads(outbox.take()), [b"1"])

    def test_the_longest_waiting_first(self) -> None:
        """Streams are served by who waits longest."""
        outbox = self.outbox()
        for stream in ("a", "b", "c"):
            self.clock.advance(1)
            self.open_with(outbox, stream, records(stream.encode()))
        taken = [payloads(outbox.take()) for _ in range(3)]
        self.assertEqual(taken, [[b"a"], [b"b"], [b"c"]])

    def test_refused_records_go_first(self) -> None:
        """After their pause, refused records go before those that came later, with them."""
        outbox = self.outbox(in_flight=1)
        self.open_with(outbox, "a", records(b"1", b"2"))
        parcel = outbox.take()
        assert parcel is not None
        outbox.add("a", records(b"3", b"4"))
        outbox.done("a", parcel.records, 2, True)
        self.clock.advance(2)
        self.assertEqual(payloads(outbox.take()), [b"1", b"2", b"3"])

    def test_others_need_not_wait(self) -> None:
        """Where nothing is to be held, later records go while the refused ones pause."""
        outbox = self.outbox(in_flight=1)
        self.open_with(outbox, "a", records(b"1", b"2"))
        parcel = outbox.take()
        assert parcel is not None
        outbox.add("a", records(b"3"))
        outbox.done("a", parcel.records[:1], 2, False)
        self.assertEqual(payloads(outbox.take()), [b"3"])
        outbox.done("a", [], 0, False)
        self.clock.advance(2)
        self.assertEqual(payloads(outbox.take()), [b"1"])

    def test_others_are_held(self) -> None:
        """Where they are to be held, later records wait for the refused ones' pause."""
        outbox = self.outbox(in_flight=1)
        self.open_with(outbox, "a", records(b"1"))
        parcel = outbox.take()
        assert parcel is not None
        outbox.add("a", records(b"2"))
        outbox.done("a", parcel.records, 2, True)
        self.clock.advance(1.9)
        self.assertTrue(self.nothing_to_take(outbox))

    def test_expired(self) -> None:
        """A record past its deadline is not sent but given back as expired."""
        outbox = self.outbox()
        self.open_with(outbox, "a", records(b"late", deadline=1), records(b"good", deadline=9))
        self.clock.advance(1)
        parcel = outbox.take()
        assert parcel is not None
        self.assertEqual([record.payload for record in parcel.expired], [b"late"])
        self.assertEqual(payloads(parcel), [b"good"])

    def test_all_expired(self) -> None:
        """Where all are expired no request is under way, and the lane is gone."""
        outbox = self.outbox(senders=1)
        self.open_with(outbox, "a", records(b"late", deadline=1))
        self.clock.advance(1)
        self.assertEqual(payloads(outbox.take()), [])
        self.assertTrue(outbox.add("a", records(b"good")))
        outbox.open("a")
        self.assertEqual(payloads(outbox.take()), [b"good"])
