"""A fault in each thread, loop and callback in turn: outcomes, readiness, and the end."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from twisted.trial.unittest import SynchronousTestCase

from tests.engines.ports import free_port
from tests.integration.clients import CODECS, Answer, Client, GrpcStreamClient
from tests.integration.daemon import Daemon
from tests.integration.raw import http_once
from tests.integration.waiting import wait_until

FAULTY = Path(__file__).with_name("faulty.py")
FLUSH_SECONDS = 1
# Of a stop in which a step hangs: its flush, and the deadlines of the steps.
STOP_SECONDS = 12
ROUNDS = 3
EVENTS = [("click", b"1"), ("view", b"2")]
CLIENTS: dict[str, Callable[[Daemon, str], Client]] = {**CODECS, "stream": GrpcStreamClient}
JOURNAL = {"EVENT_ACK": 2}
FAST_METRICS = {"METRIC_RUNTIME_STATS_RECORD_INTERVAL_MS": 100}
STATSD = {
    "METRIC_STATSD_ENABLED": "true",
    "METRIC_STATSD_ADDRESS": f"127.0.0.1:{free_port()}",
    "METRIC_STATSD_FLUSH_PERIOD_MS": 100,
}
FAST_PINGS = {"SERVER_WEBSOCKET_PING_INTERVAL_MS": 100}


class Fault(NamedTuple):
    """Where a fault is, and what is said of it.

    Attributes:
        target: see tests/integration/faulty.py.
        when: likewise.
        reason: a part of what /readyz says.
        settings: of the service.
        refuses: whether all requests are refused from then on.
    """

    target: str
    when: str
    reason: str
    settings: dict[str, Any] = {}
    refuses: bool = False


SERVING = {
    "decoding": Fault("raccoon.deserialization:JsonDeserializer.deserialize", "2", "decoding"),
    "decoding protobuf": Fault(
        "raccoon.deserialization:ProtobufDeserializer.deserialize", "2", "decoding"
    ),
    "collecting": Fault("raccoon.collector:Collector.collect", "2", "collecting"),
    "answering": Fault("raccoon.serialization:ProtobufSerializer.serialize", "2", "answering"),
    "writing to a stream": Fault(
        "raccoon.service.grpc.stream_handlers:_DirectWire.write", "2", "writing to a gRPC stream"
    ),
    "a call of gRPC": Fault(
        "raccoon.service.grpc.servicer:EventServicer.send_event", "2", "a gRPC call"
    ),
    "a stream of gRPC": Fault(
        "raccoon.service.grpc.stream:EventStream.received", "2", "a gRPC stream"
    ),
    "worker": Fault("raccoon.worker:WorkerService._more", "2", "the worker"),
    "worker's metrics": Fault("raccoon.metrics.registry:Metrics.observe_all", "always", "metrics"),
    "settling": Fault("raccoon.collector:Collector.delivered", "2", "settling"),
    "publisher": Fault("raccoon.publisher.log:LogPublisher.publish", "2", ""),
    "keep-alive": Fault(
        "raccoon.service.rest.websocket.protocol:EventWebSocketProtocol.ping",
        "always",
        "keep-alive",
        FAST_PINGS,
    ),
    "the writer's commit": Fault(
        "raccoon.journal.files.store:Store.write", "2", "journal-writer", JOURNAL, refuses=True
    ),
    "the writer": Fault(
        "raccoon.journal.writer:Writer._next_group", "2", "journal-writer", JOURNAL, refuses=True
    ),
    "the writer's results": Fault(
        "raccoon.journal.outcomes:Outcomes.written", "2", "journal results", JOURNAL
    ),
    "the keeper's recovery": Fault(
        "raccoon.journal.files.store:Store.recover", "1", "journal recovery", JOURNAL
    ),
    "the keeper's tidying": Fault(
        "raccoon.journal.files.store:Store.tidy", "always", "journal tidying", JOURNAL
    ),
    "replay": Fault("raccoon.journal.replay:Replay.pump", "always", "journal replay", JOURNAL),
    "adoption": Fault("raccoon.journal.adoption:Adopter.adopt", "1", "journal adoption", JOURNAL),
    "storing": Fault("raccoon.journal.service:JournalService.add", "2", "", JOURNAL),
    "noting deliveries": Fault(
        "raccoon.journal.service:JournalService.delivered", "2", "noting deliveries", JOURNAL
    ),
    "health of gRPC": Fault(
        "raccoon.service.grpc.service:GrpcService._set_health", "always", "gRPC health"
    ),
}
STOPPING = {
    "a worker that fails": Fault("raccoon.worker:WorkerService.drain", "always", ""),
    "a worker that hangs": Fault("raccoon.worker:WorkerService.drain", "hangs", ""),
    "a publisher that fails": Fault("raccoon.publisher.service:PublisherService.close", "1", ""),
    "a publisher that hangs": Fault(
        "raccoon.publisher.service:PublisherService.close", "hangs", ""
    ),
    "REST that fails": Fault("raccoon.service.rest.service:RestService.quiet", "always", ""),
    "REST that hangs": Fault("raccoon.service.rest.service:RestService.quiet", "hangs", ""),
    "gRPC that fails": Fault("raccoon.service.grpc.service:GrpcService.quiet", "always", ""),
    "gRPC that hangs": Fault("raccoon.service.grpc.service:GrpcService.stopService", "hangs", ""),
    "a journal that fails": Fault(
        "raccoon.journal.service:JournalService.close", "always", "", JOURNAL
    ),
    "a journal that hangs": Fault(
        "raccoon.journal.service:JournalService.close", "hangs", "", JOURNAL
    ),
    "a journal that is not paused": Fault(
        "raccoon.journal.service:JournalService.pause", "always", "", JOURNAL
    ),
    "StatsD that fails": Fault("raccoon.metrics.statsd:StatsdService.close", "always", "", STATSD),
    "metrics that hang": Fault("raccoon.metrics.service:MetricsService.stopService", "hangs", ""),
}


class FaultCase(SynchronousTestCase):
    """A service with a fault, and a client of each protocol."""

    def start(self, fault: Fault) -> Daemon:
        """The service."""
        daemon = Daemon(
            {
                "FAULT": f"{fault.target} {fault.when}",
                "EVENT_ACK": 1,
                "PUBLISHER_TYPE": "log",
                "WORKER_BUFFER_FLUSH_TIMEOUT_MS": FLUSH_SECONDS * 1000,
                **fault.settings,
            },
            arguments=("-n", "--pidfile=", "-y", str(FAULTY)),
        )
        self.addCleanup(daemon.kill)
        daemon.start()
        return daemon

    def send(self, daemon: Daemon) -> list[Answer]:
        """Some requests on each protocol; each is answered, or its connection ends."""
        answers: list[Answer] = []
        for name, connect in CLIENTS.items():
            for number in range(ROUNDS):
                with connect(daemon, f"{name}-{number}") as client:
                    try:
                        answers.append(client.send(f"{name}-{number}", EVENTS))
                    except grpc.RpcError as ended:
                        self.assertIs(grpc.StatusCode.INTERNAL, ended.code())
                        answers.append(Answer(0, 0, "ended", None))
        return answers

    def check_sum(self, daemon: Daemon, answers: list[Answer]) -> None:
        """The numbers add up, and what was acknowledged is in the log."""
        acknowledged = sum(answer.ok for answer in answers)
        received = daemon.metric("events_rx_total")
        names = ("delivered", "failed", "refused")
        settled = sum(daemon.metric(f"events_{name}_total") for name in names)
        waiting = daemon.metric("events_waiting_current")
        self.assertEqual(received, settled + waiting)
        self.assertGreaterEqual(
            len(re.findall(r" event ", daemon.log())), acknowledged * len(EVENTS)
        )


class ServingTests(FaultCase):
    """Faults while it serves."""

    def check(self, fault: Fault) -> None:
        """Each request is answered, readiness says why, and the stop ends in time."""
        daemon = self.start(fault)
        answers = self.send(daemon)
        self.assertEqual(len(CLIENTS) * ROUNDS, len(answers))
        bad = [answer for answer in answers if not answer.ok]
        if not fault.refuses:
            self.assertLess(len(bad), len(answers) / 2, bad)
        if fault.reason:
            with CODECS["websocket-text"](daemon, "held"):
                wait_until(lambda: self.told(daemon, fault.reason), fault.reason)
            failed = [name for name, _ in daemon.metrics() if name == "supervised_failures_total"]
            self.assertTrue(failed)
            self.assertEqual(len(failed), daemon.log().count("Traceback"), daemon.log())
        self.check_sum(daemon, answers)
        began = time.monotonic()
        self.assertEqual(0, daemon.stop(), daemon.log())
        self.assertLess(time.monotonic() - began, STOP_SECONDS)
        self.assertRegex(daemon.log(), "no accepted event was lost|0 accepted events")

    def told(self, daemon: Daemon, reason: str) -> bool:
        """Whether /readyz says why, or the log that it works again."""
        answer = http_once(daemon.http_port, b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n")
        reasons = " ".join(json.loads(answer.body)["reasons"])
        return reason in reasons or daemon.logged(f"{reason} works again")


class StoppingTests(FaultCase):
    """Faults while it stops."""

    def check(self, fault: Fault) -> None:
        """The step is passed over, later ones follow, and the process ends in time."""
        daemon = self.start(fault)
        answers = self.send(daemon)
        self.assertTrue(all(answer.ok for answer in answers))
        self.check_sum(daemon, answers)
        began = time.monotonic()
        self.assertEqual(0, daemon.stop(), daemon.log())
        self.assertLess(time.monotonic() - began, STOP_SECONDS)
        self.assertIn("passed over", daemon.log())
        self.assertIn("no accepted event was lost", daemon.log())


def _add(case: type[Any], faults: dict[str, Fault], what: str) -> None:
    """A test for each row of a table."""
    for name, fault in faults.items():

        def test(self: Any, fault: Fault = fault) -> None:
            self.check(fault)

        test.__doc__ = f"{what}: {name}."
        setattr(case, "test_" + re.sub(r"\W+", "_", name), test)


_add(ServingTests, SERVING, "A fault while it serves")
_add(StoppingTests, STOPPING, "A step of the stop")
