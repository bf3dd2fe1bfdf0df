"""Two ways to serve a stream of both directions with grpcio: without a thread, and with two.

As in raccoon.service.grpc.handlers: `direct_stream_handler` reads and writes by callbacks in the
server's own thread and rests on names of grpcio that are not public; where they are missing,
`blocking_stream_handler` serves the same by the public ones, with two threads for each stream.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeAlias

import grpc

from raccoon.service.grpc.handlers import CallEnd
from raccoon.service.grpc.servicer import Metadata
from raccoon.service.grpc.stream import EventStream, Wire
from raccoon.supervision import Supervisor

try:
    from grpc._cython.cygrpc import (
        ReceiveMessageOperation,
        SendInitialMetadataOperation,
        SendMessageOperation,
        WriteFlag,
    )
    from grpc._server import _abort, _is_rpc_state_active, _possibly_finish_call

    DIRECT = True
except ImportError:
    DIRECT = False

_READ, _WRITE = "raccoon read", "raccoon write"  # what a call waits for before it is over

Open = Callable[[Metadata, Wire], EventStream | None]
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"


def make_stream_handler(open_stream: Open, supervisor: Supervisor) -> Handler:
    """The better of the two that this grpcio allows, for a method on bytes."""
    make = direct_stream_handler if DIRECT else blocking_stream_handler
    return make(open_stream, supervisor)


def direct_stream_handler(open_stream: Open, supervisor: Supervisor) -> Handler:
    """Serve in the server's own thread."""
    return grpc.stream_stream_rpc_method_handler(_DirectBehavior(open_stream, supervisor))


def blocking_stream_handler(open_stream: Open, supervisor: Supervisor) -> Handler:
    """Serve in a thread of the server's pool, which writes, and another, which reads."""

    def behavior(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        return _BlockingWire(requests, context, supervisor).serve(open_stream)

    return grpc.stream_stream_rpc_method_handler(behavior)


class _BlockingWire:
    def __init__(
        self, requests: Iterator[bytes], context: grpc.ServicerContext, supervisor: Supervisor
    ) -> None:
        self.lock = threading.RLock()
        self._supervisor = supervisor
        self._requests = requests
        self._context = context
        self._may_read = threading.Semaphore(0)
        self._answers: SimpleQueue[bytes | None] = SimpleQueue()
        self._outcome: tuple[grpc.StatusCode, str] | None = None
        self._over = False

    def read(self) -> None:
        self._may_read.release()

    def write(self, body: bytes, more: bool) -> None:
        self._answers.put(body)

    def end(self, code: grpc.StatusCode, details: str) -> None:
        self._outcome = (code, details)
        self._answers.put(None)

    def serve(self, open_stream: Open) -> Iterator[bytes]:
        """Yield the answers until the end."""
        stream = open_stream(self._context.invocation_metadata(), self)
        if stream is not None:
            if not self._context.add_callback(lambda: self._end_of_call(stream)):
                self._end_of_call(stream)
            with suppress(grpc.RpcError):  # the client is gone already
                self._context.send_initial_metadata(())
            self._supervisor.thread("gRPC stream reader", partial(self._read_all, stream)).start()
            stream.begin()
        while (body := self._answers.get()) is not None:
            yield body
            if stream is not None:
                stream.written()
        if self._outcome is not None and self._outcome[0] is not grpc.StatusCode.OK:
            self._context.abort(*self._outcome)

    def _read_all(self, stream: EventStream) -> None:
        body: bytes | None = b""
        while body is not None:
            self._may_read.acquire()
            if self._over:
                return
            try:
                body = next(self._requests, None)
            except Exception:  # so does grpcio's iterator say that the client went away
                body = None
            try:
                stream.received(body)
            except Exception as error:
                self._supervisor.failed("a gRPC stream", error)
                with self.lock:
                    self.end(grpc.StatusCode.INTERNAL, "internal error")

    def _end_of_call(self, stream: EventStream) -> None:
        self._over = True
        stream.lost()
        self._may_read.release()
        self._answers.put(None)


class _DirectBehavior:
    """A behavior that is never called: its `experimental_thread_pool` takes the call instead."""

    def __init__(self, open_stream: Open, supervisor: Supervisor) -> None:
        self.experimental_thread_pool = _CallTaker(open_stream, supervisor)

    def __call__(self, requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        raise AssertionError("grpcio did not give the call to experimental_thread_pool")


class _CallTaker(ThreadPoolExecutor):
    """In the place of a pool; runs nothing in threads.

    What grpcio submits is (context.run, function, rpc_event, state, …): grpc/_server.py,
    `_handle_stream_stream`.
    """

    def __init__(self, open_stream: Open, supervisor: Supervisor) -> None:
        super().__init__(1)
        self._open = open_stream
        self._supervisor = supervisor

    def submit(self, *submitted: Any, **_: Any) -> Any:
        """Begin the call; what is returned tells of its end."""
        event, state = submitted[2], submitted[3]
        wire = _DirectWire(event.call, state, self._supervisor)
        wire.serve(self._open, event.invocation_metadata)
        return wire.ended


class _DirectWire:
    """Reads and writes by starting batches of operations; they complete in the server's thread.

    `state.due` holds what has been started and not completed: grpcio keeps the call until it is
    empty. Whatever may add to it holds `state.condition`.
    """

    __slots__ = ("_call", "_state", "_stream", "_supervisor", "ended", "lock")

    def __init__(self, call: Any, state: Any, supervisor: Supervisor) -> None:
        self._call = call
        self._supervisor = supervisor
        self._state = state
        self._stream: EventStream | None = None
        self.lock = state.condition
        self.ended = CallEnd()

    def serve(self, open_stream: Open, metadata: Metadata) -> None:
        self._state.callbacks.append(self._end_of_call)
        try:
            self._stream = open_stream(metadata, self)
            if self._stream is not None:
                self._stream.begin()
        except Exception as error:
            self._failed(error)

    def read(self) -> None:
        self._start(ReceiveMessageOperation(0), _READ, self._read)

    def write(self, body: bytes, more: bool) -> None:
        flags = WriteFlag.buffer_hint if more else 0
        self._start(SendMessageOperation(body, flags), _WRITE, self._written)

    def end(self, code: grpc.StatusCode, details: str) -> None:
        _abort(self._state, self._call, code.value[0], details.encode())

    def _start(self, operation: Any, token: str, completed: Callable[[Any], Any]) -> None:
        state = self._state
        if not _is_rpc_state_active(state):
            return
        operations: tuple[Any, ...] = (operation,)
        if state.initial_metadata_allowed:
            operations = (SendInitialMetadataOperation(None, 0), operation)
            state.initial_metadata_allowed = False
        self._call.start_server_batch(operations, completed)
        state.due.add(token)

    def _read(self, event: Any) -> Any:
        with self.lock:
            over = _possibly_finish_call(self._state, _READ)
        try:
            if self._stream is not None:
                self._stream.received(event.batch_operations[-1].message())
        except Exception as error:
            self._failed(error)
        return over

    def _written(self, event: Any) -> Any:
        with self.lock:
            over = _possibly_finish_call(self._state, _WRITE)
        try:
            if self._stream is not None:
                self._stream.written()
        except Exception as error:
            self._failed(error)
        return over

    def _failed(self, error: Exception) -> None:
        self._supervisor.failed("a gRPC stream", error)
        with self.lock:
            if _is_rpc_state_active(self._state):
                self.end(grpc.StatusCode.INTERNAL, "internal error")

    def _end_of_call(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.lost()
        self.ended.tell()
