"""What a publisher keeps besides where its destination is a process of its own."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from raccoon.errors import PublishError
from raccoon.request import CollectRequest
from tests.fakes import make_request
from tests.integration.waiting import wait_until
from tests.publisher.contract import THREADS, WAIT, Contract, in_requests, make_payloads

_PAUSE = 0.001
_IN_TIME = 20
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Engine(Protocol):
    """A process that events go to."""

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


class EngineContract(Contract):
    """What holds besides where the destination is a process of its own.

    Attributes:
        engine: that process, which the class shares.
        keeps_data: whether it has what it had when it is started again.
        loses_at_restart: it loses what is published while its topics are made again, whoever
            publishes.
        too_large: bytes of an event that it does not take.
        room: events that are taken in at most while it is away.
    """

    engine: Engine
    keeps_data = True
    loses_at_restart = False
    too_large: int
    room = 20_000

    def delivered(self) -> float:
        """How many events were counted as delivered."""
        return self.metrics.total(f"{self.kind()}_messages_delivered_total")

    def undelivered(self) -> float:
        """How many events were counted as undelivered."""
        return self.metrics.total(f"{self.kind()}_messages_undelivered_total")

    def kind(self) -> str:
        """The publisher's name."""
        return str(self.publisher_class.name)  # type: ignore[attr-defined]

    def restart(self, *topics: str) -> None:
        """Start the engine again, with these topics."""
        self.engine.start()
        if not self.keeps_data:
            for topic in topics:
                self.create(topic)

    def check_failed(self, outcome: Any, failed: int, total: int, reason: str = "") -> None:
        """An outcome is this PublishError."""
        self.assertIsInstance(outcome, PublishError)
        self.assertEqual((outcome.failed, outcome.total), (failed, total), str(outcome))
        self.assertIn(reason, str(outcome))

    def test_failed_event(self) -> None:
        """An event that the destination does not take fails its own request only, in its place."""
        publisher = self.open()
        topic = self.topic()
        payloads = make_payloads(100)
        requests = in_requests(topic, payloads, 5)
        for place in (3, 4, 17):
            requests[place] = make_request(
                str(place),
                [
                    (topic, payloads[place * 5]),
                    (topic, bytes(self.too_large)),
                    *((topic, payload) for payload in payloads[place * 5 + 1 : place * 5 + 5]),
                ],
            )
        outcomes = self.publish(publisher, requests)
        failed = {place for place, outcome in enumerate(outcomes) if outcome is not None}
        self.assertEqual(failed, {3, 4, 17})
        for place in failed:
            self.check_failed(outcomes[place], 1, 6)
        self.check_stored({topic: payloads})
        self.assertEqual((self.delivered(), self.undelivered()), (100, 3))

    def test_unknown_destination(self) -> None:
        """A topic that is not there fails its own events by name, until it is there."""
        publisher = self.open()
        topic, missing = self.topic(), self.name("-missing")
        payloads = make_payloads(20)
        requests = in_requests(topic, payloads, 2)
        requests.insert(5, make_request("bad", [(missing, b"never")]))
        requests.insert(7, make_request("mixed", [(missing, b"never"), (topic, b"half")]))
        outcomes = publisher.publish(requests)
        prompt = [outcome for n, outcome in enumerate(outcomes) if n not in (5, 7)]
        self.assertEqual(prompt, [None] * 10)
        self.check_failed(self.settled(outcomes[5]), 1, 1, f"{missing} does not exist")
        self.check_failed(self.settled(outcomes[7]), 1, 2, f"{missing} does not exist")
        self.check_stored({topic: [*payloads, b"half"]})
        self.create(missing)
        last = [make_request("last", [(missing, b"last")])]
        wait_until(lambda: self.publish(publisher, last) == [None], "the topic is known", _IN_TIME)
        self.check_stored({missing: [b"last"]})

    def test_gone_and_back(self) -> None:
        """An engine killed in the middle of a group: no confirmed event is lost, and it goes on."""
        publisher = self.open()
        topic = self.topic()
        payloads = make_payloads(20_000)
        requests = in_requests(topic, payloads, 1)
        with ThreadPoolExecutor(1) as pool:
            publishing = pool.submit(publisher.publish, requests)
            while not self.delivered():
                time.sleep(_PAUSE)
            self.engine.freeze()
            outcomes = publishing.result(WAIT)
        time.sleep(0.5)  # for confirmations that were on their way
        early = {
            payload
            for payload, outcome in zip(payloads, outcomes, strict=True)
            if outcome is None or (isinstance(outcome, Future) and outcome.done())
        }
        self.assertLess(0, len(early))
        self.assertLess(len(early), len(payloads))
        self.engine.kill()
        try:
            wait_until(lambda: not publisher.reachable, "known to be unreachable", _IN_TIME)
        finally:
            self.restart(topic)
        errors = [self.settled(outcome) for outcome in outcomes]
        confirmed = {
            payload for payload, error in zip(payloads, errors, strict=True) if error is None
        }
        last = make_request("last", [(topic, b"last")])
        wait_until(lambda: self.publish(publisher, [last]) == [None], "it goes on", _IN_TIME)
        self.assertTrue(publisher.reachable)
        if self.keeps_data:
            self.assertEqual(len(confirmed), len(payloads), set(map(str, errors)))
            self.check_stored({topic: [*payloads, b"last"]})
        else:
            kept = confirmed - early
            self.assertGreater(len(kept), 0)
            found = {event.payload for event in self.stored({topic: len(kept) + 1})}
            if not self.loses_at_restart:
                self.assertEqual(len(kept - found), 0, "events are missing")
            self.assertEqual(found - set(payloads), {b"last"})
        self.assertEqual(self.delivered() - len(confirmed), 1)
        self.assertEqual(self.undelivered(), len(payloads) - len(confirmed))

    def test_close_while_it_is_gone(self) -> None:
        """What was published to a dead engine is left at the close, to the event."""
        publisher = self.open()
        topic = self.topic()
        payloads = make_payloads(1500)
        requests = in_requests(topic, payloads, 5)
        self.assertEqual(self.publish(publisher, requests[:100]), [None] * 100)
        if not self.keeps_data:
            self.check_stored({topic: payloads[:500]})
        self.engine.kill()
        try:
            outcomes = publisher.publish(requests[100:])
            self.assertEqual(publisher.close(0.5), 1000)
            for outcome in outcomes:
                self.check_failed(self.settled(outcome), 5, 5, "shutting down")
        finally:
            self.restart()
        if self.keeps_data:
            self.check_stored({topic: payloads[:500]})
        self.assertEqual((self.delivered(), self.undelivered()), (500, 1000))

    def test_close_under_load(self) -> None:
        """Of what several threads publish to an engine that hangs, delivered + left = sent."""
        publisher = self.open()
        topic = self.topic()
        stopping = threading.Event()
        published: list[tuple[CollectRequest, Any]] = []

        def run(number: int) -> None:
            requests = in_requests(topic, make_payloads(50_000, number), 7)
            while requests and not stopping.is_set():
                group, requests = requests[:10], requests[10:]
                published.extend(zip(group, publisher.publish(group), strict=True))

        with ThreadPoolExecutor(THREADS) as pool:
            running = [pool.submit(run, number) for number in range(THREADS)]
            while self.delivered() < 1000:
                time.sleep(_PAUSE)
            self.engine.freeze()
            try:
                time.sleep(1)  # so that every thread has something that is not confirmed
                stopping.set()
                time.sleep(0.1)
                left = publisher.close(0.3)
                for each in running:
                    each.result(WAIT)
                outcomes = [(request, self.settled(outcome)) for request, outcome in published]
            finally:
                self.engine.thaw()
        sent = sum(len(request.types) for request, _ in outcomes)
        failed = sum(error.failed for _, error in outcomes if error is not None)
        self.assertGreater(left, 0)
        self.assertEqual(left, failed)
        self.assertEqual((self.delivered(), self.undelivered()), (sent - left, left))
        confirmed = {
            payload for request, error in outcomes if error is None for payload in request.payloads
        }
        found = {event.payload for event in self.stored({topic: len(confirmed)})}
        self.assertEqual(len(confirmed - found), 0, "confirmed events are missing")

    def test_bounded_while_it_is_gone(self) -> None:
        """While the engine is away only so much is taken in; it is delivered when it is back."""
        publisher = self.open()
        topic = self.topic()
        self.assertEqual(self.publish(publisher, in_requests(topic, [b"first"], 1)), [None])
        taken: list[tuple[CollectRequest, Any]] = []
        stopping = threading.Event()

        def run(number: int) -> None:
            requests = in_requests(topic, make_payloads(30_000, number), 50)
            while requests and not stopping.is_set():
                group, requests = requests[:10], requests[10:]
                taken.extend(zip(group, publisher.publish(group), strict=True))

        self.engine.kill()
        before = resident()
        with ThreadPoolExecutor(THREADS) as pool:
            running = [pool.submit(run, number) for number in range(THREADS)]
            try:
                count = -1
                while count != len(taken):
                    count = len(taken)
                    time.sleep(1.5)
                self.assertLess(count * 50, self.room + 1)
                self.assertFalse(any(each.done() for each in running), "none was held back")
                self.assertLess(resident() - before, 150 << 20)
            finally:
                stopping.set()
                self.restart(topic)
            for each in running:
                each.result(WAIT)
        outcomes = [(request, self.settled(outcome)) for request, outcome in taken]
        confirmed = [request for request, error in outcomes if error is None]
        self.assertGreater(len(confirmed), 0)
        if self.keeps_data:
            self.assertEqual(len(confirmed), len(outcomes))
            payloads = [payload for request in confirmed for payload in request.payloads]
            self.check_stored({topic: [b"first", *payloads]})
