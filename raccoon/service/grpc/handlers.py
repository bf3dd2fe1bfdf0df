"""Two ways to serve a unary method with grpcio: without a thread for each call, and with one.

grpcio's server hands each call to a thread pool, where a thread waits for the message, runs the
handler and waits for its outcome: three thread switches, 220 µs of CPU for a call that does
nothing. `direct_handler` reads the message in the server's own thread and answers from whichever
thread has the outcome: 95 µs on the same machine, and a call in progress holds no thread. It
rests on names of grpcio that are not public; where they are missing, `blocking_handler` serves
the same by the public ones.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import grpc

from raccoon.service.grpc.servicer import Call, Metadata
from raccoon.supervision import Supervisor

try:
    from grpc._cython.cygrpc import ReceiveMessageOperation
    from grpc._server import _CANCELLED, _abort, _status

    DIRECT = True
except ImportError:
    DIRECT = False

Serve = Callable[[bytes, Metadata, Call], None]
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


def make_handler(serve: Serve, supervisor: Supervisor) -> Handler:
    """The better of the two that this grpcio allows, for a method on bytes."""
    make = direct_handler if DIRECT else blocking_handler
    return make(serve, supervisor)


def direct_handler(serve: Serve, supervisor: Supervisor) -> Handler:
    """Serve in the server's own thread."""
    return grpc.unary_unary_rpc_method_handler(_DirectBehavior(serve, supervisor))


def blocking_handler(serve: Serve, supervisor: Supervisor) -> Handler:
    """Serve in a thread of the server's pool, which waits for the outcome."""

    def behavior(body: bytes, context: grpc.ServicerContext) -> bytes:
        answer = _AwaitedAnswer()
        _serve(serve, supervisor, body, context.invocation_metadata(), answer)
        left = context.time_remaining()
        timeout = threading.TIMEOUT_MAX if left is None else min(left, threading.TIMEOUT_MAX)
        if not answer.done.wait(timeout):
            context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "the client's deadline passed")
        if answer.error is not None:
            context.abort(*answer.error)
        return answer.body

    return grpc.unary_unary_rpc_method_handler(behavior)


def _serve(
    serve: Serve, supervisor: Supervisor, body: bytes, metadata: Metadata, call: Call
) -> None:
    try:
        serve(body, metadata, call)
    except Exception as error:
        supervisor.failed("a gRPC call", error)
        call.abort(grpc.StatusCode.INTERNAL, "internal error")


class _AwaitedAnswer:
    def __init__(self) -> None:
        self.done = threading.Event()
        self.body = b""
        self.error: tuple[grpc.StatusCode, str] | None = None

    def send(self, body: bytes) -> None:
        self.body = body
        self.done.set()

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.error = (code, details)
        self.done.set()


class _DirectBehavior:
    """A behavior that is never called: its `experimental_thread_pool` takes the call instead."""

    def __init__(self, serve: Serve, supervisor: Supervisor) -> None:
        self.experimental_thread_pool = _CallTaker(serve, supervisor)

    def __call__(self, body: bytes, context: grpc.ServicerContext) -> bytes:
        raise AssertionError("grpcio did not give the call to experimental_thread_pool")


class _CallTaker(ThreadPoolExecutor):
    """In the place of a pool; runs nothing in threads.

    What grpcio submits is (context.run, function, rpc_event, state, …): grpc/_server.py,
    `_handle_unary_unary`.
    """

    def __init__(self, serve: Serve, supervisor: Supervisor) -> None:
        super().__init__(1)
        self._serve = serve
        self._supervisor = supervisor

    def submit(self, *submitted: Any, **_: Any) -> Any:
        """Ask for the call's message; what is returned tells of the call's end."""
        event, state = submitted[2], submitted[3]
        call = _DirectAnswer(event, state)

        def received(message_event: Any) -> tuple[None, tuple[()]]:
            # What is raised here would end the server's thread.
            try:
                body = message_event.batch_operations[0].message()
                if body is None:
                    call.cut_short()
                else:
                    metadata = event.invocation_metadata
                    _serve(self._serve, self._supervisor, body, metadata, call)
            except Exception as error:
                self._supervisor.failed("a gRPC call", error)
            return None, ()

        event.call.start_server_batch((ReceiveMessageOperation(0),), received)
        return call.ended


class CallEnd:
    """What grpcio needs of a Future, which would cost 2 µs more."""

    __slots__ = ("_tell",)

    def add_done_callback(self, tell: Callable[[Any], None]) -> None:
        """Called by grpcio once `submit` has returned: before anything of the call completes."""
        self._tell = tell

    def tell(self) -> None:
        """The call has ended."""
        self._tell(self)


class _DirectAnswer:
    """Ends one call by starting its last batch of operations, from any thread."""

    __slots__ = ("_event", "_state", "ended")

    def __init__(self, event: Any, state: Any) -> None:
        self._event = event
        self._state = state
        self.ended = CallEnd()

    def send(self, body: bytes) -> None:
        _status(self._event, self._state, body)
        self.ended.tell()

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        with self._state.condition:
            _abort(self._state, self._event.call, code.value[0], details.encode())
        self.ended.tell()

    def cut_short(self) -> None:
        """No message came: the client went away, or its message was over the size."""
        if self._state.client is _CANCELLED:
            self.ended.tell()
        else:
            self.abort(grpc.StatusCode.INVALID_ARGUMENT, "exactly one message was expected")
