"""What is acknowledged is never lost: a real service, a real Kafka, and what may befall them."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from functools import partial

from raccoon.journal.deadletters import DeadLetters
from tests.integration.clients import CODECS, Answer, Events
from tests.integration.daemon import Daemon
from tests.integration.journal_case import END_SECONDS, FLUSH_SECONDS, JournalCase
from tests.integration.load import Flood, Load
from tests.integration.torture import Progress, long_or_short
from tests.integration.waiting import wait_until

SERVES_WITHIN = 3.0
MEMORY_GROWTH = 50 << 20
RATE_WITHOUT_KAFKA = 0.7
DRAINS_FASTER = 2.0
COMES_AT = 2000  # requests a second
_KEPT = re.compile(r"(\d+) events wait in the journal for the next start")
_FOUND = re.compile(r"requests with (\d+) events wait in the journal of earlier runs")
_NO_TOPIC_MS = 1000


class KillTests(JournalCase):
    """SIGKILL and SIGTERM in the middle of load, on all three protocols."""

    def test_killed(self) -> None:
        """Killed at any moment, it has lost nothing that was acknowledged, and serves at once."""
        count = long_or_short(200, 4)
        topic = "killed-at-random"
        self.broker.create_topic(topic)
        daemon = self.start()
        progress = Progress("kill -9 under load", count)
        source = random.Random(count)
        acknowledged, sent, killed_at, slowest = [], [], [], 0.0
        for number in range(count):
            load = Load(daemon, topic, 1, events=2, tag=f"{topic}/{number}")
            load.start()
            wait_until(load.on_all_codecs, "all protocols", 30)
            time.sleep(source.uniform(0, 0.6))
            daemon.crash()
            killed_at.append(time.time())
            load.stop()
            acknowledged += load.acknowledged
            sent += load.sent
            began = time.monotonic()
            daemon.start()
            slowest = max(slowest, time.monotonic() - began)
            progress.step(number + 1, f"{len(acknowledged)} events, slowest start {slowest:.2f} s")
        self.settle(daemon)
        self.assertNotIn("Traceback", daemon.log())
        self.assertNotIn("damaged", daemon.log())
        self.assertEqual(0, daemon.stop(), daemon.log())
        progress.say(self.check_stored(topic, acknowledged, sent, killed_at))
        self.assertLess(slowest, SERVES_WITHIN)

    def test_stopped_without_kafka(self) -> None:
        """SIGTERM under load without Kafka: in time, nothing lost, and the counts are exact."""
        count = long_or_short(200, 3)
        topic = "stopped"
        self.broker.create_topic(topic)
        self.broker.kill()
        acknowledged, sent, slowest = [], [], 0.0
        daemon = self.start()
        try:
            progress = Progress("SIGTERM without Kafka", count)
            kept = 0
            for number in range(count):
                if number:
                    daemon.start()
                    pattern = f"requests with {kept} events wait in the journal of earlier runs"
                    wait_until(partial(daemon.logged, pattern), pattern)
                load = Load(daemon, topic, 1, events=2, tag=f"{topic}/{number}")
                load.start()
                wait_until(load.on_all_codecs, "all protocols")
                time.sleep(0.1)
                began = time.monotonic()
                code = daemon.stop()
                slowest = max(slowest, time.monotonic() - began)
                load.stop()
                self.assertEqual(0, code, daemon.log())
                self.assertLess(slowest, FLUSH_SECONDS + END_SECONDS, daemon.log()[-2000:])
                acknowledged += load.acknowledged
                sent += load.sent
                kept = int(_KEPT.findall(daemon.log())[-1])
                self.assertGreaterEqual(kept, len(acknowledged))
                self.assertLessEqual(kept, len(sent))
                progress.step(number + 1, f"{kept} events kept, slowest end {slowest:.2f} s")
        finally:
            self.broker.start()
        daemon.start()
        self.settle(daemon)
        self.assertEqual(kept, daemon.metric("journal_recovered_events_total"))
        self.assertEqual(0, daemon.stop(), daemon.log())
        self.assertNotIn("Traceback", daemon.log())
        progress.say(self.check_stored(topic, acknowledged, sent))


class OutageTests(JournalCase):
    """Kafka is away, for longer than anything waits for it."""

    def test_outage(self) -> None:
        """Requests are taken as before, kept through a restart, and delivered beside new ones."""
        self.check_outage("outage")

    def test_past_the_timeouts(self) -> None:
        """So they are when librdkafka gives up what it has."""
        self.check_outage("timeouts", PUBLISHER_KAFKA_CLIENT_MESSAGE_TIMEOUT_MS=2000)

    def check_outage(self, topic: str, **settings: object) -> None:
        """Kill Kafka under load, go on, restart, bring it back, and compare."""
        requests = long_or_short(60_000, 4000)
        progress = Progress(topic, requests)
        self.broker.create_topic(topic)
        daemon = self.start(**settings)
        flood = Flood(daemon, topic)
        flood.send(2000)  # all is warm then
        normal = self.rate(flood, requests)
        self.settle(daemon)
        before = daemon.resident()
        load = Load(daemon, topic, 1, tag=f"{topic}/load")
        load.start()
        wait_until(lambda: load.requests() > 100, "load")
        try:
            self.broker.kill()
            time.sleep(3)
            load.stop()
            self.reachable(daemon, False)
            self.assertGreater(len(load.by_codec), 0)
            without = self.rate(flood, requests)
            half = requests // 2
            paced = [flood.send(half, rate=COMES_AT)]
            grown = daemon.resident() - before
            self.check_sum(daemon)
            waiting = daemon.metric("journal_events_current")
            self.assertEqual(0, daemon.stop(), daemon.log())
            daemon.start()
            wait_until(lambda: _FOUND.search(daemon.log()), "what was kept", 30)
            self.assertGreaterEqual(int(_FOUND.findall(daemon.log())[-1]), waiting)
            self.reachable(daemon, False)
            started_with = daemon.resident()
            paced.append(flood.send(half, rate=COMES_AT))
            grown = max(grown, daemon.resident() - started_with)
            backlog = daemon.metric("journal_requests_current")
            self.assertGreaterEqual(backlog, requests)
        finally:
            self.broker.start()
        came = requests / sum(paced)
        self.reachable(daemon)
        began = time.monotonic()
        fresh = Load(daemon, topic, 1, tag=f"{topic}/fresh")
        fresh.start()
        wait_until(lambda: daemon.metric("journal_requests_current") == 0, "the backlog", 120)
        drained = backlog / (time.monotonic() - began)
        fresh.stop()
        self.settle(daemon)
        self.assertEqual(0, daemon.stop(), daemon.log())
        self.assertNotIn("Traceback", daemon.log())
        acknowledged = [*load.acknowledged, *flood.acknowledged, *fresh.acknowledged]
        # What librdkafka gave up may have been written all the same.
        sent = [*load.sent, *flood.acknowledged, *fresh.sent]
        seen = self.check_stored(topic, acknowledged, sent, [float("inf")], float("inf"))
        progress.say(
            f"{seen}; at most {normal:.0f} requests/s before, {without:.0f}/s while Kafka was away;"
            f" memory {grown / 1e6:+.1f} MB; {backlog:.0f} requests came at {came:.0f}/s and"
            f" drained at {drained:.0f}/s beside {fresh.requests()} new ones"
        )
        self.assertEqual(Counter(), flood.refusals)
        self.assertEqual(set(CODECS), set(fresh.by_codec))
        self.assertLess(grown, MEMORY_GROWTH)
        self.assertGreater(without, RATE_WITHOUT_KAFKA * normal)
        self.assertGreater(drained, DRAINS_FASTER * came)

    def rate(self, flood: Flood, requests: int) -> float:
        """The most requests a second that are answered."""
        count = max(requests // 10, 3000)
        return max(count / flood.send(count) for _ in range(4))

    def test_level_0(self) -> None:
        """At level 0 what an outage and the end left undelivered comes after the restart."""
        topic = "level-0"
        self.broker.create_topic(topic)
        daemon = self.start(EVENT_ACK=0, JOURNAL_ENABLED="true")
        load = Load(daemon, topic, 1)
        load.start()
        wait_until(lambda: load.requests() > 200, "load")
        self.broker.kill()
        try:
            time.sleep(0.5)
            load.stop()
            self.assertEqual(0, daemon.stop(), daemon.log())
            self.assertIn("wait in the journal for the next start", daemon.log())
        finally:
            self.broker.start()
        daemon.start()
        self.settle(daemon)
        self.assertEqual(0, daemon.stop(), daemon.log())
        # What librdkafka was told to give up at the end may have been written all the same.
        self.check_stored(topic, load.acknowledged, load.sent, [float("inf")], float("inf"))

    def test_level_1(self) -> None:
        """At level 1 an answer is a delivery; what failed is kept and delivered none the less."""
        topic = "level-1"
        self.broker.create_topic(topic)
        daemon = self.start(
            EVENT_ACK=1,
            JOURNAL_ENABLED="true",
            PUBLISHER_KAFKA_CLIENT_MESSAGE_TIMEOUT_MS=1000,
        )
        answers: dict[str, Answer] = {}

        def send(codec: str) -> None:
            with CODECS[codec](daemon, codec) as client:
                answers[codec] = client.send(codec, [(topic, codec.encode())])

        send("grpc")
        self.assertTrue(answers.pop("grpc").ok)
        self.assertEqual([b"grpc"], [payload for _, payload in self.broker.read([topic])])
        self.broker.kill()
        try:
            threads = [
                threading.Thread(target=send, args=(codec,), daemon=True)
                for codec in CODECS
                if codec != "grpc"
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            self.assertEqual({"rest-json", "rest-protobuf", *CODECS} - {"grpc"}, set(answers))
            for answer in answers.values():
                self.assertFalse(answer.ok, answer)
                self.assertIn("events failed", answer.reason)
            wait_until(lambda: daemon.metric("journal_requests_current") == 4, "four kept", 10)
            self.check_sum(daemon)
            self.assertEqual(0, daemon.stop(), daemon.log())
        finally:
            self.broker.start()
        daemon.start()
        self.settle(daemon)
        stored = Counter(payload for _, payload in self.broker.read([topic]))
        self.assertEqual(set(CODECS), {payload.decode() for payload in stored})


class DeadLetterTests(JournalCase):
    """What can never be delivered, among what can."""

    def test_level_0(self) -> None:
        """At level 0 it goes to the dead letters with its reason, and the rest goes on."""
        self.check(0)

    def test_level_2(self) -> None:
        """So it does at level 2."""
        self.check(2)

    def check(self, level: int) -> None:
        """Send an event that is too large and one for no topic, among others."""
        topic = f"letters-{level}"
        self.broker.create_topic(topic)
        daemon = self.start(
            EVENT_ACK=level,
            JOURNAL_ENABLED="true",
            PUBLISHER_KAFKA_CLIENT_TOPIC_METADATA_PROPAGATION_MAX_MS=_NO_TOPIC_MS,
        )
        large, nowhere = (topic, b"x" * 1_500_000), ("missing", b"never")
        requests: dict[str, Events] = {
            "large": [(topic, b"beside large"), large],
            "nowhere": [(topic, b"beside nowhere"), nowhere],
            **{f"{number}": [(topic, b"%d" % number)] for number in range(50)},
        }
        for number, (guid, events) in enumerate(requests.items()):
            codec = "rest-protobuf" if guid == "large" else list(CODECS)[number % len(CODECS)]
            with CODECS[codec](daemon, guid) as client:
                self.assertTrue(client.send(guid, events).ok)
        wait_until(lambda: daemon.metric("journal_dead_lettered_events_total") == 2, "two", 30)
        self.settle(daemon)
        stored = Counter(payload for _, payload in self.broker.read([topic]))
        good = Counter(payload for events in requests.values() for _, payload in events)
        self.assertEqual(good - Counter([large[1], nowhere[1]]), stored)
        letters = DeadLetters(daemon.journal)
        self.addCleanup(letters.close)
        found = {letter.record.client: letter for _, letter in letters.all()}
        self.assertEqual({"large", "nowhere"}, set(found))
        self.assertIn("too large", found["large"].reason)
        self.assertEqual({topic: 1}, found["large"].failed)
        self.assertIn("topic missing does not exist", found["nowhere"].reason)
        self.assertEqual({"missing": 1}, found["nowhere"].failed)
        self.assertEqual(0, daemon.stop(), daemon.log())
        daemon.start()
        self.settle(daemon)
        self.assertEqual(2, sum(1 for _ in letters.all()))


class OwnerTests(JournalCase):
    """A journal has one process."""

    def test_two_processes(self) -> None:
        """A second one on the same directory ends at once, with one line that says why."""
        first = self.start()
        second = Daemon(self.settings(JOURNAL_DIR=first.journal))
        self.addCleanup(second.kill)
        done = second.run()
        self.assertNotEqual(0, done.returncode)
        lines = [line for line in done.stdout.splitlines() if "another process" in line]
        self.assertEqual(1, len(lines), done.stdout)
        self.assertIn("JOURNAL_DIR", lines[0])
        self.assertNotIn("Traceback", done.stdout)
        with CODECS["grpc"](first, "client") as client:
            self.broker.create_topic("owned")
            self.assertTrue(client.send("a", [("owned", b"a")]).ok)
        self.settle(first)


class WorkersTests(JournalCase):
    """Several processes, each with a journal of its own."""

    def test_fewer_workers(self) -> None:
        """What two workers left is delivered by a service that has one, after a kill of all."""
        topic = "fewer-workers"
        self.broker.create_topic(topic)
        self.broker.kill()
        try:
            two = self.start(SERVER_WORKERS=2)
            load = Load(two, topic, 2)
            load.start()
            wait_until(lambda: load.requests() > 500, "load", 30)
            two.crash()
            load.stop()
            parts = sorted(path.name for path in two.journal.glob("worker-*"))
            self.assertEqual(["worker-0", "worker-1"], parts)
        finally:
            self.broker.start()
        one = self.start(JOURNAL_DIR=two.journal)
        wait_until(lambda: one.log().count("were adopted") == 2, "both adopted", 30)
        self.settle(one)
        self.assertEqual(0, one.stop(), one.log())
        self.assertNotIn("Traceback", one.log())
        self.check_stored(topic, load.acknowledged, load.sent)
        self.assertEqual([], list(two.journal.rglob("*.journal")))
