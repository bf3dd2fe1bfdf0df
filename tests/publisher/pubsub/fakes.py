"""Google's client in memory."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from google.api_core import exceptions as gcp
from google.pubsub_v1 import types as messages

from tests.publisher.watch import WAIT

TOPICS = "projects/project/topics/"
CLICK = TOPICS + "clickstream-click-log"
VIEW = TOPICS + "clickstream-view-log"
BAD = b"bad"

# https://cloud.google.com/pubsub/quotas#resource_limits
_MESSAGES = 1000
_KEY_BYTES = 1024


class FakeApi:
    """Google's methods, which take what the real ones take.

    Refuses a request with an event BAD, and what its attributes say.

    Attributes:
        transport: itself: what is closed.
        topics: that exist.
        accepted: (topic, message) of each that was taken.
        asked: the topics that were asked for, but for the probe's.
        made: the requests for new topics.
        sizes: messages in each request to publish.
        fail_publish: gives what to raise for a request, or None.
        fail_get, fail_create: raised by each such call.
        fail_close: raised by `close`.
        entered: the data of each request to publish, as it comes.
        gate: `publish` waits for it.
    """

    def __init__(self) -> None:
        self.transport = self
        self.topics = {CLICK, VIEW}
        self.accepted: list[tuple[str, Any]] = []
        self.asked: list[str] = []
        self.made: list[Any] = []
        self.sizes: list[int] = []
        self.fail_publish: Callable[[Any], Exception | None] = lambda request: None
        self.fail_get: Exception | None = None
        self.fail_create: Exception | None = None
        self.fail_close: Exception | None = None
        self.entered: queue.Queue[Any] = queue.Queue()
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False
        self._lock = threading.Lock()

    def publish(self, *, request: Any, retry: None, timeout: float) -> Any:
        assert isinstance(request, messages.PublishRequest)
        _check_call(request.topic, timeout)
        events = list(request.messages)
        assert 0 < len(events) <= _MESSAGES, len(events)
        assert len({message.ordering_key for message in events}) == 1, "several ordering keys"
        for message in events:
            assert message.data or message.attributes, "an empty message"
            assert len(message.ordering_key.encode()) <= _KEY_BYTES
        self.entered.put([message.data for message in events])
        self.gate.wait(WAIT)
        self._check_open()
        with self._lock:
            self.sizes.append(len(events))
            if request.topic not in self.topics:
                raise gcp.NotFound("Resource not found")
            if error := self.fail_publish(request):
                raise error
            if any(message.data == BAD for message in events):
                raise gcp.InvalidArgument("a message is bad")
            self.accepted += [(request.topic, message) for message in events]
        return SimpleNamespace(message_ids=["id"] * len(events))

    def get_topic(self, *, topic: str, retry: None, timeout: float) -> None:
        _check_call(topic, timeout)
        self._check_open()
        if not topic.endswith("-probe-log"):
            self.asked.append(topic)
        if self.fail_get:
            raise self.fail_get
        if topic not in self.topics:
            raise gcp.NotFound("Resource not found")

    def create_topic(self, *, request: Any, retry: None, timeout: float) -> None:
        assert isinstance(request, messages.Topic)
        _check_call(request.name, timeout)
        self._check_open()
        if self.fail_create:
            raise self.fail_create
        self.made.append(request)
        self.topics.add(request.name)

    def close(self) -> None:
        self.closed = True
        self.gate.set()
        if self.fail_close:
            raise self.fail_close

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("Cannot invoke RPC on closed channel!")

    @property
    def data(self) -> list[bytes]:
        """What was accepted, in order."""
        return [message.data for _, message in self.accepted]


def _check_call(topic: str, timeout: float) -> None:
    assert topic.startswith(TOPICS), topic
    assert timeout > 0, timeout
