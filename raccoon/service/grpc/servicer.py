"""EventService: decodes in gRPC's threads, collects in the reactor's, which answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import grpc

from raccoon.identification import Identification
from raccoon.intake import Answer, Arrival, Codec, Intake
from raccoon.messages import Response
from raccoon.request import CollectRequest
from raccoon.service.grpc.inbox import Inbox

SERVICE = "raystack.raccoon.v1beta1.EventService"
METHOD = "SendEvent"

Metadata = Iterable[tuple[str, str | bytes]]


class Call(Protocol):
    """One call; one of the two is called, once, from any thread."""

    def send(self, body: bytes) -> None:
        """Send the response and status OK."""

    def abort(self, code: grpc.StatusCode, details: str) -> None:
        """End the call with an error status."""


class EventServicer:
    """Serves SendEvent.

    Args:
        inbox: the way to the reactor.
        intake: takes the requests.
        protobuf: the codec.
        identification: names the metadata with a client's id and group.
    """

    def __init__(
        self, inbox: Inbox, intake: Intake, protobuf: Codec, identification: Identification
    ) -> None:
        self._inbox = inbox
        self._intake = intake
        self._codec = protobuf
        self._identification = identification

    def send_event(self, body: bytes, metadata: Metadata, call: Call) -> None:
        """Take one request, in a thread of gRPC; `call` is answered now or later.

        Args:
            body: a protobuf SendEventRequest.
            metadata: the call's, keys in lower case.
            call: where the answer goes.
        """
        with self._inbox:
            arrival = Arrival(b"", *identity(self._identification, metadata), body)
            request = self._intake.read(arrival, self._codec, self._respond, call)
            if request is not None:
                # Counted by the reactor's thread: between the two a scrape would see it nowhere.
                self._inbox.put(self._intake.collect, request, self._respond, call)

    def _respond(
        self, answer: Answer, response: Response, request: CollectRequest | None, call: Call
    ) -> None:
        if answer.grpc_status:
            call.abort(grpc.StatusCode[answer.grpc_status], response.reason)
        else:
            call.send(self._codec.serializer.serialize(response))


def identity(identification: Identification, metadata: Metadata) -> tuple[str | None, str | None]:
    """The values of a call's id and group; the first, where a key comes more than once."""
    values: dict[str, Any] = {}
    for key, value in metadata:
        values.setdefault(key, value)
    return (
        _text(values.get(identification.id_header)),
        _text(values.get(identification.group_header)),
    )


def _text(value: str | bytes | None) -> str | None:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
