"""The gRPC stream: flow, limits and ends, with grpcio's client against a real service."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter

import grpc

from raccoon.proto.raccoon_pb2 import SendEventRequest
from raccoon.proto.raccoon_pb2_grpc import EventServiceStub
from raccoon.proto.stream_pb2_grpc import EventStreamServiceStub
from tests.engines.kafka import KafkaBroker
from tests.integration.case import SharedCase
from tests.integration.clients import (
    BAD_REQUEST,
    ID_HEADER,
    INTERNAL_ERROR,
    OK,
    GrpcStreamClient,
    grpc_channel,
    protobuf_request,
)
from tests.integration.daemon import Daemon
from tests.integration.load import in_threads, payloads
from tests.integration.waiting import wait_until

_LIMIT = 4 << 20
_GOOD = protobuf_request("good", [("click", b"{}")])
# grpcio's client takes in 4 MB of answers that nobody reads; of these, 18,000 are as much.
_MUCH_TO_READ = protobuf_request("x" * 200, [("click", b"{}")])


def batches_read(daemon: Daemon) -> float:
    """How many requests the service has read."""
    return daemon.metric("batches_read_total", status="success")


def standstill(daemon: Daemon) -> float:
    """How many requests it has read once it reads no more for a while."""
    before, now = -1.0, batches_read(daemon)
    while before < now:
        time.sleep(0.5)
        before, now = now, batches_read(daemon)
    return now


class KafkaStreamTests(SharedCase):
    """One broker; each test has a service of its own that acknowledges after delivery."""

    broker: KafkaBroker

    @classmethod
    def share_setup(cls) -> None:
        cls.broker = cls.share_broker()

    def start(self, **settings: object) -> Daemon:
        """A service that publishes to the topic of the event's type."""
        return self.start_daemon(
            {
                "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": self.broker.bootstrap,
                "PUBLISHER_KAFKA_CLIENT_RECONNECT_BACKOFF_MAX_MS": 500,
                "EVENT_ACK": 1,
                "EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "%s",
                "WORKER_BUFFER_CHANNEL_SIZE": 1000,
                **settings,
            }
        )

    def test_many_in_flight(self) -> None:
        """Thousands of messages on a few streams are each answered once and stored once."""
        self.broker.create_topic("many")
        daemon = self.start()
        sent: Counter[bytes] = Counter()

        def run(index: int) -> None:
            source = payloads(f"many-{index}", index)
            guids = [f"{index}/{number}" for number in range(1000)]
            with GrpcStreamClient(daemon, f"client-{index}") as client:
                for guid in guids:
                    batch = [next(source) for _ in range(3)]
                    sent.update(batch)
                    client.put(protobuf_request(guid, [("many", payload) for payload in batch]))
                client.finish()
                answers = client.rest()
            failed = {answer.reason for answer in answers if not answer.ok}
            assert not failed, failed
            assert sorted(str(answer.guid) for answer in answers) == sorted(guids)

        in_threads(run, 4)
        self.assertEqual(Counter(payload for _, payload in self.broker.read(["many"])), sent)
        self.assertEqual(daemon.metric("events_rx_total"), 12_000)
        self.assertEqual(batches_read(daemon), 4000)

    def test_sigterm_in_the_middle(self) -> None:
        """SIGTERM answers what is in flight and ends each stream with UNAVAILABLE."""
        self.broker.create_topic("sigterm")
        # The four streams' requests in flight fit in the queue, however slow the machine is.
        daemon = self.start(WORKER_BUFFER_CHANNEL_SIZE=1000)
        acknowledged: list[bytes] = []
        ends: list[tuple[grpc.StatusCode, str]] = []

        def run(index: int) -> None:
            source = payloads(f"sigterm-{index}", index)
            sent: list[bytes] = []
            with GrpcStreamClient(daemon, f"client-{index}") as client:

                def put() -> None:
                    sent.append(next(source))
                    client.put(protobuf_request(str(len(sent) - 1), [("sigterm", sent[-1])]))

                for _ in range(50):
                    put()
                try:
                    while True:
                        answer = client.read()
                        assert answer.ok, answer
                        acknowledged.append(sent[int(str(answer.guid))])
                        put()
                except grpc.RpcError:
                    ends.append(client.status())

        def stop() -> None:
            wait_until(lambda: len(acknowledged) > 2000, "2,000 acknowledged requests", 30)
            daemon.send_signal(signal.SIGTERM)

        stopper = threading.Thread(target=stop)
        stopper.start()
        in_threads(run, 4)
        stopper.join()
        self.assertEqual(daemon.wait(), 0, daemon.log())
        self.assertEqual([code for code, _ in ends], [grpc.StatusCode.UNAVAILABLE] * 4)
        self.assertIn("no accepted event was lost", daemon.log())
        self.assertNotIn("Traceback", daemon.log())
        stored = Counter(payload for _, payload in self.broker.read(["sigterm"]))
        self.assertEqual(Counter(acknowledged) - stored, Counter())
        # Each request that was read was answered. Where the end comes in the transport's words and
        # not in the server's, a message was on its way to it: the connection was reset, and answers
        # that the client had not read went with it.
        reset = sum(details != "the server is stopping" for _, details in ends)
        self.assertLessEqual((stored - Counter(acknowledged)).total(), 50 * reset)

    def test_limit_in_flight(self) -> None:
        """A client is read as far as the limit, another call goes on; the rest comes later."""
        self.broker.create_topic("held")
        daemon = self.start(LIMIT_REQUESTS_IN_FLIGHT=10)
        channel = grpc_channel(daemon)
        self.addCleanup(channel.close)
        guids = [str(number) for number in range(500)]
        client = GrpcStreamClient(daemon, "held", channel)
        self.addCleanup(client.close)
        self.broker.kill()
        try:
            client.put(*(protobuf_request(guid, [("held", guid.encode())]) for guid in guids))
            client.finish()
            wait_until(lambda: batches_read(daemon) == 10, "ten requests")
            # On the same connection, which the stream's unread bytes must not block.
            metadata = ((ID_HEADER.lower(), "unary"),)
            empty = SendEventRequest(req_guid="empty")
            for _ in range(20):
                answer = EventServiceStub(channel).SendEvent(empty, metadata=metadata, timeout=10)
                self.assertEqual(answer.code, OK)
            self.assertEqual(batches_read(daemon), 10 + 20)
        finally:
            self.broker.start()
        answers = client.rest()
        self.assertEqual(Counter(a.guid for a in answers if a.ok), Counter(guids))
        stored = Counter(payload.decode() for _, payload in self.broker.read(["held"]))
        self.assertEqual(stored, Counter(guids))

    def test_overload(self) -> None:
        """A refusal is a response that asks to retry; the stream then waits until there is room."""
        self.broker.create_topic("full")
        daemon = self.start(
            WORKER_BUFFER_CHANNEL_SIZE=5, WORKER_POOL_SIZE=1, WORKER_GROUP_MAX_REQUESTS=1
        )
        guids = [str(number) for number in range(2000)]
        client = GrpcStreamClient(daemon, "full")
        self.addCleanup(client.close)
        self.broker.kill()
        try:
            client.put(*(protobuf_request(guid, [("full", guid.encode())]) for guid in guids))
            client.finish()
            first = client.read()
            self.assertEqual((first.code, first.reason), (INTERNAL_ERROR, "overloaded, retry"))
            self.assertLess(standstill(daemon), 200)
        finally:
            self.broker.start()
        answers = [first, *client.rest()]
        self.assertEqual(sorted(str(answer.guid) for answer in answers), sorted(guids))
        refused = [answer for answer in answers if not answer.ok]
        self.assertEqual({(a.code, a.reason) for a in refused}, {(first.code, first.reason)})
        self.assertEqual(daemon.metric("requests_refused_total"), len(refused))
        stored = Counter(payload.decode() for _, payload in self.broker.read(["full"]))
        self.assertEqual(stored, Counter(answer.guid for answer in answers if answer.ok))

    def test_sigterm_with_a_client_that_never_reads(self) -> None:
        """A client that does not read its answers does not hold the end of the service up."""
        self.broker.create_topic("click")
        daemon = self.start(EVENT_ACK=0)
        with GrpcStreamClient(daemon, "deaf") as client:
            client.put(*[_MUCH_TO_READ] * 100_000)
            self.assertLess(standstill(daemon), 50_000)
            began = time.monotonic()
            self.assertEqual(daemon.stop(), 0, daemon.log())
            self.assertLess(time.monotonic() - began, 4)
        self.assertIn("no accepted event was lost", daemon.log())
        self.assertNotIn("Traceback", daemon.log())


class LogStreamTests(SharedCase):
    """One service with the log publisher."""

    daemon: Daemon

    @classmethod
    def share_setup(cls) -> None:
        cls.daemon = cls.share_daemon(
            {
                "PUBLISHER_TYPE": "log",
                "LOG_LEVEL": "warn",
                "EVENT_ACK": 1,
                "WORKER_BUFFER_CHANNEL_SIZE": 1000,
            }
        )

    def setUp(self) -> None:
        super().setUp()
        self.log_before = len(self.daemon.log())

    def logged(self) -> str:
        """What the service has logged in this test."""
        return self.daemon.log()[self.log_before :]

    def connect(self, name: str = "client") -> GrpcStreamClient:
        """A stream of its own connection."""
        client = GrpcStreamClient(self.daemon, name)
        self.addCleanup(client.close)
        return client

    def check_good(self) -> None:
        """A good request on a new stream succeeds."""
        with GrpcStreamClient(self.daemon, "good") as client:
            self.assertTrue(client.send("good", [("click", b"{}")]).ok)

    def test_generated_client(self) -> None:
        """The generated stub works as docs/wire.md shows it."""
        with grpc_channel(self.daemon) as channel:
            stub = EventStreamServiceStub(channel)
            requests = [SendEventRequest(req_guid=guid) for guid in "abc"]
            answers = stub.SendEvents(iter(requests), metadata=((ID_HEADER.lower(), "stub"),))
            self.assertEqual({answer.data["req_guid"] for answer in answers}, set("abc"))

    def test_bad_messages_among_good_ones(self) -> None:
        """What is no request is answered with bad request; all others succeed."""
        client = self.connect()
        bad = (b"\xff", b"\x0a\x02\xff\xfe", _GOOD[:-1], b"\x1a\x00" * 10_001)
        for body in bad * 5:
            client.put(_GOOD, body)
        client.finish()
        answers = client.rest()
        self.assertEqual(Counter(a.code for a in answers), {OK: 20, BAD_REQUEST: 20})
        refused = [a for a in answers if a.code == BAD_REQUEST]
        self.assertEqual({a.guid for a in refused}, {""})
        self.assertTrue(all(a.reason.startswith("cannot deserialize request: ") for a in refused))
        self.assertEqual(client.status(), (grpc.StatusCode.OK, ""))

    def test_without_id(self) -> None:
        """A stream without the id's metadata ends with INVALID_ARGUMENT."""
        with grpc_channel(self.daemon) as channel:
            call = EventStreamServiceStub(channel).SendEvents(iter([SendEventRequest()]))
            self.assertRaises(grpc.RpcError, next, call)
            self.assertEqual(call.code(), grpc.StatusCode.INVALID_ARGUMENT)
            self.assertEqual(call.details(), "connection id header missing")

    def test_large_messages(self) -> None:
        """Messages of a megabyte and of the very limit are served."""
        overhead = len(protobuf_request("large", [("click", bytes(_LIMIT - 1000))])) - _LIMIT + 1000
        whole = protobuf_request("large", [("click", bytes(_LIMIT - overhead))])
        self.assertEqual(len(whole), _LIMIT)
        client = self.connect()
        client.put(whole, *[protobuf_request("megabyte", [("click", bytes(1 << 20))])] * 10)
        client.finish()
        answers = client.rest()
        self.assertEqual([answer.reason for answer in answers], [""] * 11)

    def test_over_the_size(self) -> None:
        """A message over the limit ends its stream with RESOURCE_EXHAUSTED; a new one works."""
        client = self.connect()
        self.assertTrue(client.send("good", [("click", b"{}")]).ok)
        client.put(bytes(_LIMIT + 1))
        self.assertRaises(grpc.RpcError, client.read)
        self.assertEqual(client.status()[0], grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertIn(str(_LIMIT), client.status()[1])
        self.check_good()

    def test_half_close(self) -> None:
        """A client that sends no more gets all answers, and OK; one that sent nothing too."""
        for count in (0, 1, 300):
            client = self.connect(f"half-{count}")
            client.put(*[_GOOD] * count)
            client.finish()
            self.assertEqual(len(client.rest()), count)
            self.assertEqual(client.status(), (grpc.StatusCode.OK, ""))

    def test_clients_that_go_away(self) -> None:
        """Clients that go away at any moment leave nothing behind, in the log neither."""
        for number in range(60):
            client = GrpcStreamClient(self.daemon, f"gone-{number}")
            client.put(*[_GOOD] * (number * 5))
            if number % 3:
                time.sleep(0.001 * (number % 20))
            client.close()
        wait_until(lambda: self.daemon.metric("requests_waiting_current") == 0, "none waiting")
        self.check_good()
        self.assertEqual(self.logged(), "")

    def test_client_that_never_reads(self) -> None:
        """A client that sends and never reads is read no further, and costs little memory."""
        resident = self.daemon.resident()
        before = batches_read(self.daemon)
        client = self.connect("deaf")
        client.put(*[_MUCH_TO_READ] * 100_000)
        self.assertLess(standstill(self.daemon) - before, 50_000)
        self.check_good()
        self.assertLess(self.daemon.resident() - resident, 30 << 20)
        client.close()
        self.check_good()
        self.assertEqual(self.logged(), "")
