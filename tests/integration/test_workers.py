"""Several processes that serve as one."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase
from websockets.sync.client import ClientConnection, connect

from raccoon.proto.raccoon_pb2 import Code, SendEventResponse
from tests.engines.kafka import KafkaBroker
from tests.integration.case import SharedCase
from tests.integration.clients import CODECS, ID_HEADER, TIMEOUT, WebSocketClient
from tests.integration.daemon import PROJECT, Daemon, running
from tests.integration.load import LOST, Load, in_threads, payloads
from tests.integration.statsd import StatsdCapture
from tests.integration.waiting import wait_until

_NOTHING_LOST = "no accepted event was lost"
_CONNECTED = re.compile(r" connected .*\bid=(\S+) .*worker=(\d+)$", re.MULTILINE)
_BACK_SECONDS = 2.0
_REPLACED_SECONDS = 10.0
_LOST_SIGHT_OF = "the parent process is gone"


def workers_of(daemon: Daemon) -> list[int]:
    """The pids of a service's workers, in the order they were started."""
    return sorted(pid for pid in children_of(daemon) if index_of(pid) is not None)


def children_of(daemon: Daemon) -> list[int]:
    """The pids of a service's workers and of the spare one."""
    return list(
        map(int, Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split())
    )


def index_of(pid: int) -> int | None:
    """Which worker a process is."""
    found = re.fullmatch(r"raccoon-(\d+)\n", Path(f"/proc/{pid}/comm").read_text())
    return int(found[1]) if found else None


def web_socket(daemon: Daemon, client_id: str) -> ClientConnection:
    """A WebSocket connection whose upgrade was answered."""
    return connect(
        f"ws://127.0.0.1:{daemon.http_port}/api/v1/events",
        additional_headers={ID_HEADER: client_id},
        compression=None,
        proxy=None,
        open_timeout=TIMEOUT,
        close_timeout=2,
        ping_interval=None,
    )


def refusal(connection: ClientConnection) -> int | None:
    """The code that a connection was refused with, or None."""
    try:
        message = connection.recv(0.3)
    except TimeoutError:
        return None
    assert isinstance(message, bytes)
    return SendEventResponse.FromString(message).code


class WorkersCase(SharedCase):
    """One broker; each test has a service of two workers of its own."""

    broker: KafkaBroker

    @classmethod
    def share_setup(cls) -> None:
        cls.broker = cls.share_broker()

    def start(self, **settings: object) -> Daemon:
        """A service that publishes to the topic of the event's type."""
        daemon = self.start_daemon(
            {
                "SERVER_WORKERS": 2,
                "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": self.broker.bootstrap,
                "EVENT_ACK": 1,
                "EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "%s",
                "LOG_LEVEL": "debug",
                **settings,
            }
        )
        wait_until(lambda: "; 2 workers" in daemon.log(), "both workers")
        return daemon

    def connect(self, daemon: Daemon, ids: Sequence[str]) -> list[ClientConnection]:
        """WebSocket connections that are closed at the test's end."""
        connections = []
        for client_id in ids:
            connections.append(web_socket(daemon, client_id))
            self.addCleanup(connections[-1].close)
        return connections

    def placed(self, daemon: Daemon, count: int) -> dict[str, int]:
        """Which worker has which client's connection, once the log has so many."""
        wait_until(lambda: len(_CONNECTED.findall(daemon.log())) >= count, "lines of connections")
        return {client: int(worker) for client, worker in _CONNECTED.findall(daemon.log())}


class SharingTests(WorkersCase):
    """What must be one for all workers."""

    def test_every_protocol_and_one_scrape(self) -> None:
        """Both workers serve, and a scrape has the sum of what was sent, to the event."""
        daemon = self.start()
        load = Load(daemon, "sum", clients_per_codec=6)
        load.start()
        self.addCleanup(load.stop)
        wait_until(
            lambda: len(load.by_codec) == len(CODECS) and load.requests() > 500, "requests", 30
        )
        load.stop()
        sent = len(load.acknowledged)
        samples = daemon.metrics()

        def total(name: str) -> float:
            return sum(value for (found, _), value in samples.items() if found == name)

        self.assertEqual(sent, total("events_rx_total"))
        self.assertEqual(sent, total("events_delivered_total"))
        self.assertEqual(load.requests(), total("server_processing_latency_milliseconds_count"))
        self.assertEqual(1, total("ready_current"))
        self.assertEqual(1, total("destination_reachable_current"))
        self.assertEqual(30000, total("connections_limit_current"))
        self.assertEqual({0, 1}, set(self.placed(daemon, 12).values()))

    def test_duplicate_id(self) -> None:
        """An id that is connected is refused, whichever worker the second connection reaches."""
        daemon = self.start()
        self.connect(daemon, ["one"])
        for _ in range(12):
            with web_socket(daemon, "one") as second:
                self.assertEqual(Code.CODE_MAX_USER_LIMIT_REACHED, refusal(second))
        self.assertEqual(12, daemon.metric("user_connection_failure_total", reason="exists"))
        log = daemon.log()
        refused_by = set(re.findall(r"connection refused: exists .*worker=(\d)", log))
        self.assertEqual({"0", "1"}, refused_by, "both workers were to be asked")

    def test_id_can_come_back(self) -> None:
        """An id whose connection was closed is free again, on any worker."""
        daemon = self.start()
        for _ in range(20):
            with web_socket(daemon, "one") as connection:
                self.assertIsNone(refusal(connection))

    def test_limit_of_connections(self) -> None:
        """MAX_CONN holds to the connection over both workers, also when one becomes free."""
        daemon = self.start(SERVER_WEBSOCKET_MAX_CONN=20)
        first, *_ = connections = self.connect(daemon, [f"c{i}" for i in range(20)])
        self.assertEqual([None] * 20, [refusal(connection) for connection in connections])
        self.assertEqual({0, 1}, set(self.placed(daemon, 20).values()))
        for number in range(8):
            with web_socket(daemon, f"late{number}") as late:
                self.assertEqual(Code.CODE_MAX_CONNECTION_LIMIT_REACHED, refusal(late))
        first.close()
        last, too_late = self.connect(daemon, ["last", "too-late"])
        self.assertIsNone(refusal(last))
        self.assertEqual(Code.CODE_MAX_CONNECTION_LIMIT_REACHED, refusal(too_late))
        self.assertEqual(20, daemon.metric("connections_count_current"))

    def test_statsd(self) -> None:
        """StatsD is sent the sums, by one process."""
        capture = StatsdCapture()
        self.addCleanup(capture.close)
        daemon = self.start(
            METRIC_STATSD_ENABLED="true",
            METRIC_STATSD_ADDRESS=capture.address,
            METRIC_STATSD_FLUSH_PERIOD_MS=500,
        )
        load = Load(daemon, "statsd", clients_per_codec=4)
        load.start()
        self.addCleanup(load.stop)
        wait_until(lambda: load.requests() > 500, "requests", 30)
        load.stop()
        self.assertEqual(0, daemon.stop(), daemon.log())
        capture.close()
        self.assertEqual([], capture.malformed)
        self.assertEqual(len(load.acknowledged), capture.counted("events_rx_total"))
        self.assertEqual(len(load.acknowledged), capture.counted("events_delivered_total"))
        timings = sum(
            count
            for (name, _), count in capture.timings.items()
            if name == "server_processing_latency_milliseconds"
        )
        self.assertEqual(load.requests(), round(timings))

    def test_a_core_each(self) -> None:
        """Each worker runs on a core of its own where there are as many."""
        cores = os.sched_getaffinity(0)
        daemon = self.start()
        taken = [os.sched_getaffinity(pid) for pid in workers_of(daemon)]
        self.assertEqual(2, len(taken))
        if len(cores) > 1:
            self.assertEqual(2, len(set.union(*taken)))
            self.assertEqual([1, 1], [len(each) for each in taken])
        else:
            self.assertEqual([cores, cores], taken)


class DeathTests(WorkersCase):
    """A worker, or the parent, is killed."""

    def test_worker_killed_under_load(self) -> None:
        """The others' clients see nothing, it is back within 2 s, nothing acknowledged is lost."""
        self.check_replaced(signal.SIGKILL, _BACK_SECONDS)

    def test_worker_that_hangs_under_load(self) -> None:
        """One that is stopped (SIGSTOP) is replaced within 10 s, and all else is the same."""
        self.check_replaced(signal.SIGSTOP, _REPLACED_SECONDS)

    def test_worker_that_hangs_with_a_journal(self) -> None:
        """So it is at level 2: what the one that hung had acknowledged is delivered by another."""
        self.check_replaced(signal.SIGSTOP, _REPLACED_SECONDS, EVENT_ACK=2)

    def check_replaced(self, number: signal.Signals, within: float, **settings: object) -> None:
        """Signal a worker process under load, and follow what becomes of all."""
        topic = f"{number.name}-{settings.get('EVENT_ACK', 1)}".lower()
        daemon = self.start(**settings)
        count = 16
        clients = [WebSocketClient(daemon, f"c{i}", True) for i in range(count)]
        for client in clients:
            self.addCleanup(client.close)
        placed = self.placed(daemon, count)
        self.assertEqual({0, 1}, set(placed.values()))
        stopping = threading.Event()
        acknowledged: list[bytes] = []
        answers: Counter[int] = Counter()
        lost: set[int] = set()

        def send(number: int) -> None:
            source = payloads(f"{topic}/{number}", number)
            try:
                while not stopping.is_set():
                    batch = [next(source) for _ in range(5)]
                    answer = clients[number].send("", [(topic, payload) for payload in batch])
                    assert answer.ok, answer
                    acknowledged.extend(batch)
                    answers[number] += 1
            except LOST:
                lost.add(number)

        sending = threading.Thread(target=in_threads, args=(send, count), daemon=True)
        sending.start()
        self.addCleanup(stopping.set)
        wait_until(lambda: answers.total() > 500 and len(answers) == count, "answers", 30)
        before = workers_of(daemon)
        victim = before[0]
        gone = {f"c{i}" for i in range(count) if placed[f"c{i}"] == index_of(victim)}
        os.kill(victim, number)
        signalled_at = time.monotonic()
        wait_until(lambda: not running(victim), "its end", within)
        slowest = 0.0
        while "serves again" not in daemon.log():
            began = time.monotonic()
            self.assertLess(began, signalled_at + within, daemon.log())
            self.assertTrue(daemon.ping(), "a new connection is to be served at any time")
            slowest = max(slowest, time.monotonic() - began)
        self.assertLess(slowest, 1)
        answered = Counter(answers)
        alive = [number for number in range(count) if f"c{number}" not in gone]
        wait_until(
            lambda: all(answers[number] > answered[number] + 10 for number in alive), "answers", 30
        )
        self.assertEqual(gone, {f"c{number}" for number in lost})
        again = self.connect(daemon, sorted(gone))
        self.assertEqual([None] * len(gone), [refusal(connection) for connection in again])
        stopping.set()
        sending.join()
        after = workers_of(daemon)
        self.assertEqual((2, {before[1]}), (len(after), set(before) & set(after)))
        self.assertEqual({0, 1}, set(map(index_of, after)))
        if settings:
            wait_until(lambda: not daemon.metric("journal_events_current"), "all delivered", 30)
        else:
            # What was counted in its last second went with the worker; what is shown adds up.
            self.assertEqual(
                daemon.metric("events_rx_total"),
                daemon.metric("events_delivered_total") + daemon.metric("events_failed_total"),
            )
        self.assertEqual(0, daemon.stop(), daemon.log())
        stored = Counter(payload for _, payload in self.broker.read([topic]))
        self.assertEqual(Counter(acknowledged) - stored, Counter(), "acknowledged events are lost")

    def test_counts_stay(self) -> None:
        """What a worker counted stays in the scrape when it is killed."""
        daemon = self.start()
        for codec in CODECS:
            for number in range(4):
                with CODECS[codec](daemon, f"{codec}-{number}") as client:
                    self.assertTrue(client.send("", [("stay", b"{}")] * 5).ok)
        self.assertEqual(len(CODECS) * 4 * 5, daemon.metric("events_rx_total"))
        for pid in workers_of(daemon):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: daemon.log().count("serves again") == 2, "both are back")
        self.assertEqual(len(CODECS) * 4 * 5, daemon.metric("events_delivered_total"))
        self.assertEqual(len(CODECS) * 4 * 5, daemon.metric("events_rx_total"))

    def test_parent_killed(self) -> None:
        """The workers end with the parent, and deliver what they had accepted."""
        daemon = self.start(EVENT_ACK=0)
        workers = children_of(daemon)
        source = payloads("orphans")
        sent = []
        with CODECS["websocket-binary"](daemon, "client") as client:
            for _ in range(100):
                batch = [next(source) for _ in range(5)]
                self.assertTrue(client.send("", [("orphans", payload) for payload in batch]).ok)
                sent += batch
            os.kill(daemon.pid, signal.SIGKILL)
            wait_until(lambda: not any(map(running, workers)), "the workers' ends")
        self.assertFalse(daemon.ping())
        stored = [payload for _, payload in self.broker.read(["orphans"])]
        self.assertEqual(Counter(sent), Counter(stored))

    def test_worker_told_to_stop(self) -> None:
        """SIGTERM to a worker replaces it, and loses nothing."""
        daemon = self.start()
        load = Load(daemon, "turned-over", clients_per_codec=2)
        load.start()
        self.addCleanup(load.stop)
        wait_until(lambda: load.requests() > 300, "requests", 30)
        os.kill(workers_of(daemon)[0], signal.SIGTERM)
        wait_until(lambda: "serves again" in daemon.log(), "its successor")
        load.stop()
        self.assertEqual(0, daemon.stop(), daemon.log())
        stored = Counter(payload for _, payload in self.broker.read(["turned-over"]))
        self.assertEqual(Counter(load.acknowledged) - stored, Counter())


class StopTests(WorkersCase):
    """The orderly end of all."""

    def check_under_load(self, number: signal.Signals) -> None:
        """Signal the whole process group, as a terminal and systemd do."""
        daemon = self.start()
        workers = children_of(daemon)
        topic = f"stop-{number.name}"
        load = Load(daemon, topic)
        load.start()
        self.addCleanup(load.stop)
        wait_until(
            lambda: len(load.by_codec) == len(CODECS) and load.requests() > 500, "requests", 30
        )
        for pid in [*workers, daemon.pid]:
            os.kill(pid, number)
        self.assertEqual(0, daemon.wait(), daemon.log())
        load.stop()
        log = daemon.log()
        self.assertIn(_NOTHING_LOST, log.splitlines()[-3])
        self.assertNotIn("Traceback", log)
        self.assertFalse(any(map(running, workers)))
        stored = Counter(payload for _, payload in self.broker.read([topic]))
        self.assertEqual(Counter(load.acknowledged) - stored, Counter())
        self.assertEqual(stored.most_common(1)[0][1], 1, "an event came twice")

    def test_sigterm(self) -> None:
        """SIGTERM drains all workers, and the exit code is 0."""
        self.check_under_load(signal.SIGTERM)

    def test_sigint(self) -> None:
        """So does SIGINT, which a terminal sends to every process."""
        self.check_under_load(signal.SIGINT)

    def test_left_is_summed(self) -> None:
        """What is left in all workers is told in one sum, to the event."""
        daemon = self.start(
            EVENT_ACK=0, WORKER_BUFFER_FLUSH_TIMEOUT_MS=1000, WORKER_BUFFER_CHANNEL_SIZE=10_000
        )
        clients = [WebSocketClient(daemon, f"c{i}", True) for i in range(12)]
        for client in clients:
            self.addCleanup(client.close)
        self.assertEqual({0, 1}, set(self.placed(daemon, 12).values()))
        for client in clients:
            self.assertTrue(client.send("", [("left", b"{}")] * 5).ok)
        wait_until(lambda: daemon.metric("events_delivered_total") == 60, "deliveries")
        self.broker.kill()
        try:
            for client in clients:
                self.assertTrue(client.send("", [("left", b"{}")] * 5).ok)
            code = daemon.stop()
        finally:
            self.broker.start()
        self.assertEqual(0, code, daemon.log())
        told = re.findall(r"(\d+) accepted events were not delivered$", daemon.log(), re.MULTILINE)
        self.assertEqual(["60"], told)


class RunningTests(SynchronousTestCase):
    """How it is run, with the log publisher."""

    def daemon(self, arguments: Sequence[str], **settings: object) -> Daemon:
        """A service that is killed at the test's end."""
        daemon = Daemon(settings, arguments)
        self.addCleanup(daemon.kill)
        return daemon

    def test_daemonised(self) -> None:
        """Without -n the parent goes to the background, and its pid file stops all."""
        daemon = self.daemon(["raccoon", "--workers", "2"])
        daemon.daemonise()
        workers = workers_of(daemon)
        self.assertEqual(2, len(workers))
        for number in range(8):
            with CODECS["rest-json"](daemon, "client") as client:
                self.assertTrue(client.send("", [("t", b'{"number":%d}' % number)]).ok)
            wait_until(partial(daemon.logged, f'{{"number":{number}}}'), "its line")
        lines = [line for line in daemon.log().splitlines() if '"number"' in line]
        self.assertTrue(all(re.search(r" worker=[01]$", line) for line in lines), lines)
        os.kill(int(daemon.pid_file.read_text()), signal.SIGTERM)
        wait_until(lambda: not daemon.alive(), "the end of the process")
        self.assertIn(_NOTHING_LOST, daemon.log())
        self.assertFalse(daemon.pid_file.exists())
        self.assertFalse(any(map(running, workers)))

    def test_one_worker_is_one_process(self) -> None:
        """With one worker, the default, there is no other process."""
        daemon = self.daemon(["-n", "raccoon", "--workers=1"])
        daemon.start()
        self.assertEqual([], children_of(daemon))
        self.assertEqual(0, daemon.stop())

    def test_tac_file(self) -> None:
        """`twistd -y raccoon.tac` starts as many."""
        tac = str(PROJECT / "raccoon.tac")
        daemon = self.daemon(["-n", "-y", tac], SERVER_WORKERS=2)
        daemon.start()
        wait_until(lambda: "; 2 workers" in daemon.log(), "both workers")
        self.assertEqual(2, len(workers_of(daemon)))
        self.assertEqual(0, daemon.stop(), daemon.log())

    def test_endpoints(self) -> None:
        """Endpoints of TCP, IPv4 and with an interface, can be shared."""
        daemon = self.daemon([])
        daemon.arguments = (
            "-n",
            "raccoon",
            "--workers=2",
            f"--http=tcp:{daemon.http_port}:interface=127.0.0.1",
            f"--grpc=127.0.0.1:{daemon.grpc_port}",
        )
        daemon.start()
        for codec in CODECS:
            with CODECS[codec](daemon, codec) as client:
                self.assertTrue(client.send("", [("t", b"{}")]).ok)
        self.assertEqual(0, daemon.stop(), daemon.log())

    def test_unix_socket(self) -> None:
        """An endpoint that cannot be shared is refused in one line."""
        done = self.daemon(["-n", "raccoon", "--workers=2", "--http=unix:raccoon"]).run()
        self.assertEqual(1, done.returncode, done.stdout)
        telling = [line for line in done.stdout.splitlines() if " info " not in line]
        self.assertEqual(1, len(telling), done.stdout)
        self.assertIn("--http unix:raccoon: several workers can share only", telling[0])
