"""Clients that send one request at a time, in each of the five encodings."""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import NamedTuple, Protocol, Self

import grpc
from websockets.sync.client import connect

from raccoon.proto.raccoon_pb2 import Code, SendEventRequest, SendEventResponse, Status
from raccoon.proto.raccoon_pb2_grpc import EventServiceStub
from tests.integration.daemon import Daemon

TIMEOUT = 30.0
ID_HEADER = "X-User-ID"

OK = Code.CODE_OK
BAD_REQUEST = Code.CODE_BAD_REQUEST
INTERNAL_ERROR = Code.CODE_INTERNAL_ERROR

Events = Sequence[tuple[str, bytes]]


class Answer(NamedTuple):
    """What a SendEventResponse said."""

    status: int
    code: int
    reason: str
    guid: str | None

    @property
    def ok(self) -> bool:
        """Whether it acknowledges the request."""
        return (self.status, self.code) == (Status.STATUS_SUCCESS, OK)


class Client(Protocol):
    """One connection; `send` raises what its library raises when the connection is lost."""

    def send(self, guid: str, events: Events) -> Answer:
        """Send a request and wait for its answer."""

    def close(self) -> None:
        """Close the connection."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def protobuf_request(guid: str, events: Events) -> bytes:
    """A request as protobuf."""
    request = SendEventRequest(req_guid=guid)
    request.sent_time.GetCurrentTime()
    for event_type, payload in events:
        request.events.add(event_bytes=payload, type=event_type)
    return request.SerializeToString()


def json_request(guid: str, events: Events) -> bytes:
    """A request as JSON; event_bytes are base64 and an array of numbers by turns."""
    encoded = [
        {
            "type": event_type,
            "event_bytes": list(payload) if index % 2 else base64.b64encode(payload).decode(),
        }
        for index, (event_type, payload) in enumerate(events)
    ]
    return json.dumps(
        {"req_guid": guid, "sent_time": {"seconds": 1_700_000_000}, "events": encoded}
    ).encode()


def protobuf_answer(body: bytes) -> Answer:
    """The answer in a protobuf body."""
    response = SendEventResponse.FromString(body)
    return Answer(response.status, response.code, response.reason, response.data.get("req_guid"))


def json_answer(body: bytes | str) -> Answer:
    """The answer in a JSON body."""
    response = json.loads(body)
    return Answer(
        response.get("status", 0),
        response.get("code", 0),
        response.get("reason", ""),
        response.get("data", {}).get("req_guid"),
    )


class _Closing:
    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RestClient(_Closing):
    """REST over one connection that is kept alive."""

    def __init__(self, daemon: Daemon, client_id: str, content_type: str) -> None:
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", daemon.http_port, timeout=TIMEOUT
        )
        self._connection.connect()
        self._headers = {ID_HEADER: client_id, "Content-Type": content_type}
        is_json = content_type == "application/json"
        self._request = json_request if is_json else protobuf_request
        self._answer: Callable[[bytes], Answer] = json_answer if is_json else protobuf_answer

    def send(self, guid: str, events: Events) -> Answer:
        """Send a request and wait for its answer."""
        self._connection.request(
            "POST", "/api/v1/events", self._request(guid, events), self._headers
        )
        return self._answer(self._connection.getresponse().read())

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class WebSocketClient(_Closing):
    """WebSocket with binary (protobuf) or text (JSON) messages."""

    def __init__(self, daemon: Daemon, client_id: str, binary: bool) -> None:
        self._binary = binary
        self._connection = connect(
            f"ws://127.0.0.1:{daemon.http_port}/api/v1/events",
            additional_headers={ID_HEADER: client_id},
            compression=None,
            proxy=None,
            open_timeout=TIMEOUT,
            close_timeout=2,
            ping_interval=None,
        )

    def send(self, guid: str, events: Events) -> Answer:
        """Send a request and wait for its answer."""
        if self._binary:
            self._connection.send(protobuf_request(guid, events))
        else:
            self._connection.send(json_request(guid, events).decode())
        message = self._connection.recv(TIMEOUT)
        return protobuf_answer(message) if isinstance(message, bytes) else json_answer(message)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def grpc_channel(daemon: Daemon) -> grpc.Channel:
    """A channel that shares no connection with any other."""
    return grpc.insecure_channel(
        f"127.0.0.1:{daemon.grpc_port}",
        options=[("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)],
    )


class GrpcClient(_Closing):
    """gRPC over one connection."""

    def __init__(self, daemon: Daemon, client_id: str) -> None:
        self._channel = grpc_channel(daemon)
        self._stub = EventServiceStub(self._channel)
        self._metadata = ((ID_HEADER.lower(), client_id),)

    def send(self, guid: str, events: Events) -> Answer:
        """Send a request and wait for its answer."""
        request = SendEventRequest.FromString(protobuf_request(guid, events))
        response = self._stub.SendEvent(request, timeout=TIMEOUT, metadata=self._metadata)
        return Answer(
            response.status, response.code, response.reason, response.data.get("req_guid")
        )

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()


class GrpcStreamClient(_Closing):
    """One gRPC stream. `put`, `finish` and `cancel` do not wait; what reads does.

    Args:
        daemon: where to.
        client_id: the client's.
        channel: one to share, or None for one of its own.
    """

    def __init__(self, daemon: Daemon, client_id: str, channel: grpc.Channel | None = None) -> None:
        self._channel = channel or grpc_channel(daemon)
        self._own = channel is None
        self._requests: SimpleQueue[bytes | None] = SimpleQueue()
        method = self._channel.stream_stream(
            "/raccoon.v1.EventStreamService/SendEvents",
            request_serializer=bytes,
            response_deserializer=protobuf_answer,
        )
        self.call = method(
            iter(self._requests.get, None), metadata=((ID_HEADER.lower(), client_id),)
        )

    def put(self, *bodies: bytes) -> None:
        """Have messages sent."""
        for body in bodies:
            self._requests.put(body)

    def finish(self) -> None:
        """Send no more."""
        self._requests.put(None)

    def read(self) -> Answer:
        """The next answer."""
        answer: Answer = next(self.call)
        return answer

    def rest(self) -> list[Answer]:
        """All further answers, until the stream ends with OK."""
        return list(self.call)

    def status(self) -> tuple[grpc.StatusCode, str]:
        """How the stream ended; waits for that."""
        return self.call.code(), self.call.details()

    def send(self, guid: str, events: Events) -> Answer:
        """Send a request and wait for its answer."""
        self.put(protobuf_request(guid, events))
        return self.read()

    def close(self) -> None:
        """Go away."""
        self.finish()
        self.call.cancel()
        if self._own:
            self._channel.close()


CODECS: dict[str, Callable[[Daemon, str], Client]] = {
    "rest-json": lambda daemon, client_id: RestClient(daemon, client_id, "application/json"),
    "rest-protobuf": lambda daemon, client_id: RestClient(daemon, client_id, "application/proto"),
    "websocket-text": lambda daemon, client_id: WebSocketClient(daemon, client_id, False),
    "websocket-binary": lambda daemon, client_id: WebSocketClient(daemon, client_id, True),
    "grpc": GrpcClient,
}
