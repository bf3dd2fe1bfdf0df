"""The REST application: its routes on Klein, and requests of events in the form of HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
from klein import Klein
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.http import Request
from werkzeug.exceptions import HTTPException

from raccoon.config import LimitSettings
from raccoon.identification import Identification
from raccoon.intake import UNKNOWN_CONTENT_TYPE, Answer, Arrival, Codec, Intake
from raccoon.interfaces import ISerializer
from raccoon.messages import Response
from raccoon.request import CollectRequest
from raccoon.service.rest.cors import CorsPolicy
from raccoon.service.rest.posts import PostReader

EVENTS_PATH = b"/api/v1/events"
_RETRY_AFTER = (b"Retry-After", b"1")
_JSON = b"application/json"
_PROTOBUF = b"application/proto"
_ALIASES = {
    _JSON: _JSON,
    _PROTOBUF: _PROTOBUF,
    b"application/protobuf": _PROTOBUF,
    b"application/x-protobuf": _PROTOBUF,
}


class HttpAnswer(NamedTuple):
    """What a request of events is answered with: an HTTP status, headers and a body."""

    status: int
    content_type: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


Reply = Callable[[HttpAnswer], None]


class RestResource:
    """Gives what came by HTTP to the intake, and its answers the form of HTTP.

    Args:
        intake: takes the requests of events.
        json: codec of application/json.
        protobuf: codec of application/proto.
        identification: names the headers of a client's id and group.
        cors: the cross-origin policy.
        not_ready: why requests should not be sent here now; empty when they may.
    """

    app = Klein()

    def __init__(
        self,
        intake: Intake,
        json: Codec,
        protobuf: Codec,
        identification: Identification,
        cors: CorsPolicy,
        not_ready: Callable[[], list[str]],
    ) -> None:
        self._intake = intake
        self._codecs = {_JSON: json, _PROTOBUF: protobuf}
        self._identification = identification
        self._cors = cors
        self._not_ready = not_ready

    @app.route("/ping", methods=["GET"])
    def ping(self, request: Request) -> bytes:
        """Alive: never asks a broker."""
        request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
        request.setHeader(b"Content-Length", b"4")
        return b"pong"

    @app.route("/healthz", methods=["GET"])
    def healthz(self, request: Request) -> bytes:
        """Alive: never asks a broker, so that an outage of one restarts no server."""
        return _document(request, 200, {"status": "alive"})

    @app.route("/readyz", methods=["GET"])
    def readyz(self, request: Request) -> bytes:
        """Ready for requests, or the reasons why not."""
        reasons = self._not_ready()
        status = 503 if reasons else 200
        return _document(request, status, {"ready": not reasons, "reasons": reasons})

    @app.route("/api/v1/events", methods=["GET"])
    def no_upgrade(self, request: Request) -> bytes:
        """A GET that asks for no WebSocket: one that does never comes to Klein."""
        request.setResponseCode(426, b"Upgrade Required")
        request.setHeader(b"Upgrade", b"websocket")
        request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
        return b"expected a WebSocket upgrade (Upgrade: websocket), or a POST\n"

    @app.route("/api/v1/events", methods=["POST"])
    def events(self, request: Request) -> Deferred[bytes]:
        """One request of events; fires with the body of the answer."""
        arrival = Arrival(
            request.requestHeaders.getRawHeaders(b"content-type", [b""])[0],
            header(request, self._identification.id_header_bytes),
            header(request, self._identification.group_header_bytes),
            _body(request),
        )
        answered: Deferred[HttpAnswer] = Deferred()
        self.take(arrival, answered.callback)
        return answered.addCallback(_into, request)

    def take(self, arrival: Arrival, reply: Reply) -> None:
        """Take a request of events; `reply` is called with its answer, now or later."""
        content_type = arrival.content_type
        canonical = _canonical(content_type)
        if canonical is None:
            self._intake.refuse(
                UNKNOWN_CONTENT_TYPE,
                "unknowncontentype",
                f"content type {content_type[:100].decode('latin-1')!r}",
                self._respond,
                (_JSON, self._codecs[_JSON].serializer, reply),
            )
            return
        codec = self._codecs[canonical]
        context = content_type, codec.serializer, reply
        self._intake.take(arrival, codec, self._respond, context)

    @app.handle_errors(HTTPException)  # type: ignore[arg-type]
    def no_route(self, request: Request, error: Failure) -> bytes:
        """404 and 405, in one line."""
        assert isinstance(error.value, HTTPException)
        request.setResponseCode(error.value.code or 500)
        allowed = getattr(error.value, "valid_methods", None)
        if allowed:
            request.setHeader(b"Allow", ", ".join(sorted(allowed)).encode("ascii"))
        request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
        return f"{error.value.name}\n".encode()

    def post_reader(self, limits: LimitSettings) -> PostReader:
        """What reads the plain ones among requests for `take`."""
        return PostReader(self._identification, limits, self._cors.enabled)

    def cross_origin(self, request: Request) -> bytes | None:
        """Apply the cross-origin policy to a request before its route.

        Returns:
            The body of the answer to a preflight, or None: the request goes on to its route.
        """
        origin = header(request, b"origin")
        if not self._cors.enabled or not origin:
            return None
        if request.method == b"OPTIONS":
            preflight = self._cors.preflight(
                origin,
                header(request, b"access-control-request-method"),
                header(request, b"access-control-request-headers"),
            )
            request.setResponseCode(preflight.status)
            headers = preflight.headers
        else:
            headers = self._cors.headers(origin)
        for name, value in headers:
            request.setHeader(name, value)
        return b"" if request.method == b"OPTIONS" else None

    def refuse(self, request: Request, answer: Answer, cause: str) -> bytes:
        """The body of the answer to a request that is refused before it is read."""
        content_type = request.requestHeaders.getRawHeaders(b"content-type", [_JSON])[0]
        canonical = _canonical(content_type) or _JSON
        answers: list[HttpAnswer] = []
        context = canonical, self._codecs[canonical].serializer, answers.append
        self._intake.refuse(answer, "readerr", cause, self._respond, context)
        return _into(answers[0], request)

    def _respond(
        self,
        answer: Answer,
        response: Response,
        request: CollectRequest | None,
        context: tuple[bytes, ISerializer, Reply],
    ) -> None:
        content_type, serializer, reply = context
        headers = (_RETRY_AFTER,) if answer.retry else ()
        body = serializer.serialize(response)
        reply(HttpAnswer(answer.http_status, content_type, body, headers))


def _canonical(content_type: bytes) -> bytes | None:
    """The codec that a Content-Type selects, whatever its parameters and letter case."""
    return _ALIASES.get(content_type) or _ALIASES.get(
        content_type.split(b";", 1)[0].strip().lower()
    )


def _into(answer: HttpAnswer, request: Request) -> bytes:
    """Set an answer's status and headers; its body is left to send."""
    if answer.status != 200:
        request.setResponseCode(answer.status)
    request.responseHeaders.setRawHeaders(b"Content-Type", [answer.content_type])
    for name, value in answer.headers:
        request.responseHeaders.setRawHeaders(name, [value])
    return answer.body


def _document(request: Request, status: int, document: dict[str, Any]) -> bytes:
    body = orjson.dumps(document) + b"\n"
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"application/json")
    request.setHeader(b"Content-Length", b"%d" % len(body))
    return body


def _body(request: Request) -> bytes:
    assert request.content is not None
    body: bytes = request.content.read()
    return body


def header(request: Request, name: bytes) -> str | None:
    """The first value of a header, byte by byte; None where it did not come, or has no name."""
    values = request.requestHeaders.getRawHeaders(name) if name else None
    return values[0].decode("latin-1") if values else None
