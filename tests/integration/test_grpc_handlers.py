"""Both handlers of a unary method, on a real gRPC server and channel of this machine.

What grpcio does with a handler cannot be had in memory: these tests hold the contract between
`serve` and the wire, for the handler that rests on names that are not public and for the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import grpc
from twisted.trial.unittest import SynchronousTestCase

from raccoon.service.grpc import handlers
from raccoon.service.grpc.handlers import blocking_handler, direct_handler, make_handler
from raccoon.service.grpc.servicer import Call, Metadata
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics
from tests.mixin import Mixin

SERVICE, METHOD = "test.Echo", "Call"
PATIENCE = 20  # seconds that no test should ever wait


class Serve:
    """A `serve` that keeps calls for the test, or answers them by `at_once`."""

    def __init__(self) -> None:
        self.at_once: Callable[[bytes, Call], None] | None = None
        self.calls: list[tuple[bytes, Metadata, Call]] = []
        self._came = threading.Semaphore(0)

    def __call__(self, body: bytes, metadata: Metadata, answer: Call) -> None:
        self.calls.append((body, metadata, answer))
        self._came.release()
        if self.at_once is not None:
            self.at_once(body, answer)

    def wait(self, count: int = 1) -> None:
        """Until so many calls have come since the last wait."""
        for _ in range(count):
            assert self._came.acquire(timeout=PATIENCE), "no call came"


class HandlerTests(Mixin):
    """The contract of a handler."""

    make: ClassVar[Callable[[handlers.Serve, Supervisor], handlers.Handler]]
    threads = 16

    def setUp(self) -> None:
        self.serve = Serve()
        self.server = grpc.server(
            ThreadPoolExecutor(self.threads),
            options=[("grpc.max_receive_message_length", 10_000), ("grpc.so_reuseport", 0)],
        )
        handler = type(self).make(self.serve, Supervisor(FakeMetrics()))
        self.server.add_registered_method_handlers(SERVICE, {METHOD: handler})
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        self.method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(
            f"/{SERVICE}/{METHOD}"
        )
        self.addCleanup(self._end)

    def _end(self) -> None:
        self.channel.close()
        assert self.server.stop(0).wait(PATIENCE), "the server did not end"

    def begin(self, body: bytes = b"body", timeout: float = PATIENCE, **options: Any) -> Any:
        """Begin a call, and wait until it has reached `serve`."""
        call = self.method.future(body, timeout=timeout, **options)
        self.serve.wait()
        return call

    def check_failed(self, call: Any, code: grpc.StatusCode, details: str = "") -> None:
        """The call ends with this code."""
        error = call.exception(timeout=PATIENCE)
        self.assertIsInstance(error, grpc.RpcError)
        self.assertEqual(error.code(), code)
        self.assertIn(details, error.details())


class Contract(HandlerTests):
    """Tests that both handlers pass."""

    def test_answer_at_once(self) -> None:
        """An answer given within `serve` is the call's."""
        self.serve.at_once = lambda body, answer: answer.send(b"re: " + body)
        for body in (b"", b"hello", b"\x00" * 9000):
            self.assertEqual(self.method(body, timeout=PATIENCE), b"re: " + body)

    def test_answer_later_from_another_thread(self) -> None:
        """An answer given after `serve` has returned, by any thread, is the call's."""
        call = self.begin()
        self.assertFalse(call.done())
        thread = threading.Thread(target=self.serve.calls[0][2].send, args=(b"late",))
        thread.start()
        self.assertEqual(call.result(timeout=PATIENCE), b"late")
        thread.join(PATIENCE)

    def test_empty_answer(self) -> None:
        """An answer without bytes is an answer."""
        self.serve.at_once = lambda body, answer: answer.send(b"")
        self.assertEqual(self.method(b"x", timeout=PATIENCE), b"")

    def test_body_and_metadata(self) -> None:
        """`serve` gets the message's bytes and the client's metadata."""
        call = self.begin(b"\x00\xff", metadata=(("x-user-id", "phone"), ("x-data-bin", b"\x01")))
        body, metadata, answer = self.serve.calls[0]
        self.assertEqual(body, b"\x00\xff")
        found = {key: value for key, value in metadata}  # noqa: C416 - pairs of grpcio's own type
        self.assertEqual(found["x-user-id"], "phone")
        self.assertEqual(found["x-data-bin"], b"\x01")
        answer.send(b"")
        call.result(timeout=PATIENCE)

    def test_abort_at_once(self) -> None:
        """A call that is aborted within `serve` ends with the code and its details."""
        code = grpc.StatusCode.INVALID_ARGUMENT
        self.serve.at_once = lambda body, answer: answer.abort(code, "no: ümläut")
        self.check_failed(self.begin(), code, "no: ümläut")

    def test_abort_later(self) -> None:
        """A call that is aborted later ends likewise."""
        code = grpc.StatusCode.RESOURCE_EXHAUSTED
        call = self.begin()
        self.serve.calls[0][2].abort(code, "overloaded, retry")
        self.check_failed(call, code, "overloaded, retry")

    def test_deadline(self) -> None:
        """A client's deadline ends its call, and the answer that comes later is dropped."""
        call = self.begin(timeout=0.2)
        self.check_failed(call, grpc.StatusCode.DEADLINE_EXCEEDED)
        self.serve.calls[0][2].send(b"too late")
        self.check_serves_on()

    def test_cancel(self) -> None:
        """A client may cancel its call; the answer, or an error, that comes later is dropped."""
        for settle in (
            lambda answer: answer.send(b"too late"),
            lambda answer: answer.abort(grpc.StatusCode.INTERNAL, "too late"),
        ):
            call = self.begin()
            call.cancel()
            self.assertTrue(call.cancelled())
            settle(self.serve.calls[-1][2])
        self.check_serves_on()

    def test_message_over_the_size(self) -> None:
        """A message over the server's size is refused, and does not reach `serve`."""
        call = self.method.future(b"x" * 10_001, timeout=PATIENCE)
        self.check_failed(call, grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assertEqual(self.serve.calls, [])
        self.check_serves_on()

    def test_calls_at_once(self) -> None:
        """Calls that are in progress together each get their own answer, in any order."""
        calls = [self.method.future(b"%d" % n, timeout=PATIENCE) for n in range(self.threads)]
        self.serve.wait(len(calls))
        for body, _, answer in reversed(self.serve.calls):
            answer.send(b"re: " + body)
        results = [call.result(timeout=PATIENCE) for call in calls]
        self.assertEqual(results, [b"re: %d" % n for n in range(len(calls))])

    def test_many_calls(self) -> None:
        """Of many calls from several threads each gets its own answer."""
        self.serve.at_once = lambda body, answer: answer.send(b"re: " + body)

        def client(name: int) -> bool:
            bodies = [b"%d/%d" % (name, n) for n in range(50)]
            return all(self.method(b, timeout=PATIENCE) == b"re: " + b for b in bodies)

        with ThreadPoolExecutor(8) as clients:
            self.assertEqual(list(clients.map(client, range(8))), [True] * 8)

    def test_stop_with_a_call_in_progress(self) -> None:
        """A server that stops ends a call in progress once its grace is over, and then itself."""
        call = self.begin()
        stopped = self.server.stop(0.1)
        error = call.exception(timeout=PATIENCE)
        self.assertIn(error.code(), (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE))
        self.assertTrue(stopped.wait(PATIENCE))
        self.serve.calls[0][2].send(b"too late")

    def test_stop_lets_a_call_end(self) -> None:
        """A call that is answered within the grace gets its answer, and the server ends then."""
        call = self.begin()
        stopped = self.server.stop(PATIENCE)
        self.assertFalse(stopped.is_set())
        self.serve.calls[0][2].send(b"in time")
        self.assertEqual(call.result(timeout=PATIENCE), b"in time")
        self.assertTrue(stopped.wait(PATIENCE))

    def check_serves_on(self) -> None:
        """The next call is served."""
        call = self.begin(b"next")
        self.serve.calls[-1][2].send(b"served")
        self.assertEqual(call.result(timeout=PATIENCE), b"served")


class DirectHandlerTests(Contract, SynchronousTestCase):
    """The handler that serves in the server's own thread."""

    make = direct_handler

    def test_calls_hold_no_thread(self) -> None:
        """Far more calls than the server has threads are in progress together."""
        calls = [self.method.future(b"%d" % n, timeout=PATIENCE) for n in range(500)]
        self.serve.wait(500)
        for body, _, answer in self.serve.calls:
            answer.send(body)
        results = {call.result(timeout=PATIENCE) for call in calls}
        self.assertEqual(results, {b"%d" % n for n in range(500)})

    def test_serve_that_raises(self) -> None:
        """A fault in `serve` is INTERNAL for its client, says nothing of it, and is logged."""

        def fail(body: bytes, answer: Call) -> None:
            raise ZeroDivisionError("inside")

        self.serve.at_once = fail
        call = self.begin()
        error = call.exception(timeout=PATIENCE)
        self.assertEqual(error.code(), grpc.StatusCode.INTERNAL)
        self.assertNotIn("inside", error.details())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.serve.at_once = None
        self.check_serves_on()


class BlockingHandlerTests(Contract, SynchronousTestCase):
    """The handler that rests on public names alone."""

    make = blocking_handler


class ChoiceTests(SynchronousTestCase):
    """Which handler is taken."""

    def test_direct_where_grpcio_has_its_names(self) -> None:
        """The grpcio of the project's requirements has what the direct handler needs."""
        self.assertTrue(handlers.DIRECT)
        handler = make_handler(Serve(), Supervisor(FakeMetrics()))
        self.assertIs(
            type(handler.unary_unary),
            type(direct_handler(Serve(), Supervisor(FakeMetrics())).unary_unary),
        )

    def test_blocking_where_it_has_not(self) -> None:
        """Where a name of grpcio is missing, calls are served by the public ones."""
        self.patch(handlers, "DIRECT", False)
        handler = make_handler(Serve(), Supervisor(FakeMetrics()))
        self.assertIs(
            type(handler.unary_unary),
            type(blocking_handler(Serve(), Supervisor(FakeMetrics())).unary_unary),
        )
