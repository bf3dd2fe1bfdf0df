"""The REST application: its routes on Klein, and how an outcome becomes an HTTP answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import orjson
from klein import Klein
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from werkzeug.exceptions import HTTPException

from raccoon.collector import failure_value
from raccoon.config import LimitSettings
from raccoon.errors import BadRequestError, Overloaded
from raccoon.identification import Identification
from raccoon.interfaces import ICollector, IDeserializer, IMetrics, ISerializer
from raccoon.logs import Throttle
from raccoon.messages import CODE_BAD_REQUEST, CODE_INTERNAL_ERROR, failure, success
from raccoon.metrics.rx import count_rejected, count_request
from raccoon.request import CollectRequest
from raccoon.service.rest.cors import CorsPolicy
from raccoon.service.rest.posts import Post, PostReader

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


class Codec(NamedTuple):
    """Both directions of one content type."""

    deserializer: IDeserializer
    serializer: ISerializer


class Answer(NamedTuple):
    """What a request of events is answered with: an HTTP status, headers and a body."""

    status: int
    content_type: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


class RestResource:
    """Decodes, hands to the collector and answers.

    Args:
        collector: where requests go.
        json: codec of application/json.
        protobuf: codec of application/proto.
        identification: reads the client's id and group.
        cors: the cross-origin policy.
        not_ready: why requests should not be sent here now; empty when they may.
        metrics: counts what was read.
        seconds: the clock, in Unix seconds.
    """

    app = Klein()
    _logger = Logger()

    def __init__(
        self,
        collector: ICollector,
        json: Codec,
        protobuf: Codec,
        identification: Identification,
        cors: CorsPolicy,
        not_ready: Callable[[], list[str]],
        metrics: IMetrics,
        seconds: Callable[[], float],
    ) -> None:
        self._collector = collector
        self._codecs = {_JSON: json, _PROTOBUF: protobuf}
        self._identification = identification
        self._cors = cors
        self._not_ready = not_ready
        self._metrics = metrics
        self._seconds = seconds
        self._throttle = Throttle(self._logger, seconds)

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
        post = Post(
            request.requestHeaders.getRawHeaders(b"content-type", [b""])[0],
            _header(request, self._identification.id_header_bytes),
            _header(request, self._identification.group_header_bytes),
            _body(request),
        )
        return self.take(post).addCallback(_into, request)

    def take(self, post: Post) -> Deferred[Answer]:
        """Decode a request of events and hand it on; fires with its answer."""
        content_type = post.content_type
        canonical = _ALIASES.get(content_type) or _ALIASES.get(
            content_type.split(b";", 1)[0].strip().lower()
        )
        if canonical is None:
            count_rejected(self._metrics, "unknowncontentype", "NA")
            self._throttle.warn(
                "REST request refused: content type {content_type}",
                content_type=content_type[:100].decode("latin-1"),
            )
            refusal = failure(CODE_BAD_REQUEST, "invalid content type", self._seconds())
            return succeed(Answer(400, _JSON, self._codecs[_JSON].serializer.serialize(refusal)))
        codec = self._codecs[canonical]
        received_at = self._seconds()
        try:
            identifier = self._identification.identifier(post.client, post.group)
            batch = codec.deserializer.deserialize(post.body)
        except BadRequestError as error:
            count_rejected(self._metrics, "serde", "NA")
            self._throttle.warn("REST request refused: {reason}", reason=str(error))
            reason = f"deserialization failure: {error}"
            refusal = failure(CODE_BAD_REQUEST, reason, received_at)
            return succeed(Answer(400, content_type, codec.serializer.serialize(refusal)))
        request = CollectRequest(identifier, batch, received_at)
        count_request(self._metrics, request)
        answered_as = (content_type, codec.serializer, batch.guid)
        done: Deferred[None] = self._collector.collect(request)
        return done.addCallbacks(self._stored, self._not_stored, answered_as, {}, answered_as)

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
        origin = _header(request, b"origin")
        if not self._cors.enabled or not origin:
            return None
        if request.method == b"OPTIONS":
            preflight = self._cors.preflight(
                origin,
                _header(request, b"access-control-request-method"),
                _header(request, b"access-control-request-headers"),
            )
            request.setResponseCode(preflight.status)
            headers = preflight.headers
        else:
            headers = self._cors.headers(origin)
        for name, value in headers:
            request.setHeader(name, value)
        return b"" if request.method == b"OPTIONS" else None

    def refuse(self, request: Request, status: int, reason: str) -> bytes:
        """The body of the answer to a request that is refused before it is read."""
        count_rejected(self._metrics, "readerr", "NA")
        self._throttle.warn("REST request refused: {reason}", reason=reason)
        content_type = request.requestHeaders.getRawHeaders(b"content-type", [_JSON])[0]
        canonical = _ALIASES.get(content_type.split(b";", 1)[0].strip().lower(), _JSON)
        refusal = failure(CODE_BAD_REQUEST, reason, self._seconds())
        body: bytes = self._codecs[canonical].serializer.serialize(refusal)
        return _into(Answer(status, canonical, body), request)

    def _stored(self, _: None, content_type: bytes, serializer: ISerializer, guid: str) -> Answer:
        answer = success(guid, self._seconds())
        return Answer(200, content_type, serializer.serialize(answer))

    def _not_stored(
        self, error: Failure, content_type: bytes, serializer: ISerializer, guid: str
    ) -> Answer:
        cause = failure_value(error)
        overloaded = isinstance(cause, Overloaded)
        reason = str(cause) if overloaded else f"cannot publish events: {cause}"
        answer = failure(CODE_INTERNAL_ERROR, reason, self._seconds(), guid)
        body = serializer.serialize(answer)
        if overloaded:
            return Answer(503, content_type, body, (_RETRY_AFTER,))
        return Answer(500, content_type, body)


def _into(answer: Answer, request: Request) -> bytes:
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


def _header(request: Request, name: bytes) -> str | None:
    values = request.requestHeaders.getRawHeaders(name) if name else None
    return values[0].decode("latin-1") if values else None
