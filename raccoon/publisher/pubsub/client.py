"""The calls that Raccoon makes to Google Pub/Sub, made again until they are answered."""

from __future__ import annotations

import json
import random
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import google.auth
import grpc
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import GoogleAuthError
from google.pubsub_v1 import PublisherClient
from google.pubsub_v1 import types as messages
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from grpc import StatusCode

from raccoon.config import PubSubSettings
from raccoon.errors import RaccoonError, StartError
from raccoon.publisher.base.reachability import Reachability
from raccoon.supervision import Supervisor

_T = TypeVar("_T")
_Request = messages.PublishRequest.pb()

# An event as it is sent.
Message: Any = messages.PubsubMessage.pb()

# https://cloud.google.com/pubsub/quotas#resource_limits
REQUEST_BYTES = 10_000_000

_ATTEMPT = 10.0
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 1.0
_PROBE_TIMEOUT = 1.0
_CREDENTIALS_EVERY = 5.0

# gRPC's own default waits up to two minutes before it connects again.
_CHANNEL = (
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_timeout_ms", 10_000),
)

# Credentials that are made without a network.
_LOCAL_CREDENTIALS = ("service_account", "authorized_user")

_NO_ANSWER = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED})
_PASSING = _NO_ANSWER | {
    StatusCode.ABORTED,
    StatusCode.CANCELLED,
    StatusCode.INTERNAL,
    StatusCode.UNKNOWN,
}


class NoAnswerError(RaccoonError):
    """Pub/Sub did not answer until the deadline."""


class ClosedError(RaccoonError):
    """The client was closed."""


class RefusedError(RaccoonError):
    """Pub/Sub refused a call, and did so until the deadline where that may pass.

    Attributes:
        code: gRPC's.
    """

    def __init__(self, code: StatusCode | None, message: str) -> None:
        super().__init__(message)
        self.code = code


class PubSubClient:
    """Connects when it is first used, and again after a loss. Safe from any thread.

    Args:
        settings: credentials, or the emulator.
        reachability: told whether Pub/Sub answers.
        supervisor: runs the thread that asks for credentials.
    """

    def __init__(
        self, settings: PubSubSettings, reachability: Reachability, supervisor: Supervisor
    ) -> None:
        self._settings = settings
        self._reachability = reachability
        self._supervisor = supervisor
        self._api: Any = None
        self._closed = threading.Event()

    def start(self) -> None:
        """Read the credentials file, if there is one.

        Without one the machine is asked for credentials in a thread, again until it has some.

        Raises:
            StartError: the credentials file cannot be used.
        """
        emulator = bool(self._settings.emulator_host)
        stored = None if emulator else self._stored_credentials()
        if emulator or (stored is not None and stored["type"] in _LOCAL_CREDENTIALS):
            try:
                self._api = self._open(stored)
            except (GoogleAuthError, ValueError) as error:
                raise self._unusable(_text(error)) from None
        else:
            self._supervisor.thread("pubsub-credentials", partial(self._open_later, stored)).start()

    def close(self) -> None:
        """End every call, now and from now on."""
        self._closed.set()
        self._reachability.close()
        if self._api is not None:
            self._api.transport.close()

    def publish(self, path: str, events: Sequence[Any], deadline: float) -> None:
        """Publish Messages, all of one ordering key, to a topic.

        Raises:
            RaccoonError: of the three above; no message, or not every one, was taken.
        """
        request = _Request(topic=path, messages=events)
        if request.ByteSize() > REQUEST_BYTES:
            reason = f"too large for Pub/Sub ({REQUEST_BYTES} bytes a request)"
            raise RefusedError(StatusCode.INVALID_ARGUMENT, reason)
        wrapped = messages.PublishRequest.wrap(request)
        answer: Any = self._call(
            lambda api, timeout: api.publish(request=wrapped, retry=None, timeout=timeout),
            deadline,
            _PASSING | {StatusCode.RESOURCE_EXHAUSTED},
        )
        if len(answer.message_ids) != len(events):
            reason = f"{len(answer.message_ids)} of {len(events)} events taken"
            raise RefusedError(StatusCode.DATA_LOSS, reason)

    def check_topic(self, path: str, deadline: float) -> None:
        """Ask for a topic; raises as `publish` does, with NOT_FOUND where there is none."""
        self._call(
            lambda api, timeout: api.get_topic(topic=path, retry=None, timeout=timeout),
            deadline,
            _PASSING,
        )

    def create_topic(self, path: str, deadline: float) -> None:
        """Make a topic; raises as `publish` does, with ALREADY_EXISTS where there is one."""
        options: dict[str, Any] = {}
        if retention := self._settings.topic_retention_ms:
            options["message_retention_duration"] = timedelta(milliseconds=retention)
        topic = messages.Topic(name=path, **options)
        self._call(
            lambda api, timeout: api.create_topic(request=topic, retry=None, timeout=timeout),
            deadline,
            _PASSING,
        )

    def probe(self, path: str) -> None:
        """Learn whether Pub/Sub answers: ask for any topic, once."""
        if self._api is None:
            return
        try:
            self._api.get_topic(topic=path, retry=None, timeout=_PROBE_TIMEOUT)
        except GoogleAPICallError as error:
            self._reachability.announce(error.grpc_status_code not in _PASSING, _text(error))
        except Exception as error:  # the client's own trouble, such as with its credentials
            self._reachability.announce(False, _text(error))
        else:
            self._reachability.announce(True)

    def _call(
        self, call: Callable[[Any, float], _T], deadline: float, passing: frozenset[StatusCode]
    ) -> _T:
        """Call, again after errors that may pass, until the deadline."""
        pause = _FIRST_PAUSE
        unanswered = 0
        last: RaccoonError = NoAnswerError("out of time before it was sent")
        while not self._closed.is_set():
            left = deadline - time.monotonic()
            if left <= 0:
                raise last
            try:
                if self._api is None:
                    raise GoogleAuthError("no credentials yet")
                answer = call(self._api, min(left, _ATTEMPT))
            except (GoogleAPICallError, GoogleAuthError) as error:
                code = getattr(error, "grpc_status_code", StatusCode.UNAVAILABLE)
                if code in _NO_ANSWER:
                    last = NoAnswerError(_text(error))
                    unanswered += 1
                    if unanswered > 1:  # one that is refused among others is not an outage
                        self._reachability.announce(False, _text(error))
                else:
                    last = RefusedError(code, _text(error))
                    if code not in passing:
                        self._reachability.announce(True)
                        raise last from None
            except Exception:
                if self._closed.is_set():  # gRPC's ValueError
                    break
                raise
            else:
                self._reachability.announce(True)
                return answer
            jitter = random.uniform(0.5, 1)  # noqa: S311 - not for secrets
            self._closed.wait(max(min(pause * jitter, deadline - time.monotonic()), 0))
            pause = min(pause * 2, _LONGEST_PAUSE)
        raise ClosedError

    def _stored_credentials(self) -> dict[str, Any] | None:
        """The content of the credentials file, or None where no file is named."""
        path = self._settings.credentials or self._settings.application_credentials
        if not path:
            return None
        try:
            with open(path, encoding="utf-8") as file:
                stored = json.load(file)
        except OSError as error:
            raise self._unusable(error.strerror or _text(error)) from None
        except ValueError:
            raise self._unusable("not JSON") from None
        if not isinstance(stored, dict) or "type" not in stored:
            raise self._unusable("not a credentials file: it has no type")
        return stored

    def _unusable(self, reason: str) -> StartError:
        path, variable = self._settings.credentials, "PUBLISHER_PUBSUB_CREDENTIALS"
        if not path:
            path = self._settings.application_credentials
            variable = "GOOGLE_APPLICATION_CREDENTIALS"
        return StartError(f"{variable}: {path}: {reason}")

    def _open(self, stored: Mapping[str, Any] | None) -> Any:
        """The service's methods, which connect when they are used."""
        if host := self._settings.emulator_host:
            channel = grpc.insecure_channel(host, _CHANNEL)
            return PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        if stored is None:
            credentials, _ = google.auth.default()
        else:
            with warnings.catch_warnings():
                # The warning is for those who load files that others give them.
                warnings.simplefilter("ignore", DeprecationWarning)
                credentials, _ = google.auth.load_credentials_from_dict(stored)
        transport = PublisherGrpcTransport(
            credentials=credentials, channel=_secure_channel, always_use_jwt_access=True
        )
        return PublisherClient(transport=transport)

    def _open_later(self, stored: Mapping[str, Any] | None) -> None:
        while not self._closed.is_set():
            try:
                self._api = self._open(stored)
                return
            except Exception as error:  # whatever a driver raises, another time it may not
                self._reachability.announce(False, f"no credentials: {_text(error)}")
                self._closed.wait(_CREDENTIALS_EVERY)


def _secure_channel(*args: Any, **options: Any) -> grpc.Channel:
    options["options"] = [*options.get("options", ()), *_CHANNEL]
    return PublisherGrpcTransport.create_channel(*args, **options)


def _text(error: Exception) -> str:
    """An error in one line."""
    said = error.message if isinstance(error, GoogleAPICallError) else str(error)
    return " ".join(said.split()) or type(error).__name__
