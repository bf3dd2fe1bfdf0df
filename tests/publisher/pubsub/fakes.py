"""Google's client in memory."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from google.api_core import exceptions as gcp

from tests.publisher.watch import WAIT

TOPICS = "projects/project/topics/"
CLICK = TOPICS + "clickstream-click-log"
VIEW = TOPICS + "clickstream-view-log"
BAD = b"bad"


class FakeApi:
    """Google's methods. Refuses a request with an event BAD, and what its attributes say."""

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
        self.entered: queue.Queue[Any] = queue.Queue()
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False
        self._lock = threading.Lock()

    def publish(self, *, request: Any, retry: None, timeout: float) -> Any:
        events = list(request.messages)
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
        self._check_open()
        if not topic.endswith("-probe-log"):
            self.asked.append(topic)
        if self.fail_get:
            raise self.fail_get
        if topic not in self.topics:
            raise gcp.NotFound("Resource not found")

    def create_topic(self, *, request: Any, retry: None, timeout: float) -> None:
        self._check_open()
        if self.fail_create:
            raise self.fail_create
        self.made.append(request)
        self.topics.add(request.name)

    def close(self) -> None:
        self.closed = True
        self.gate.set()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("Cannot invoke RPC on closed channel!")

    @property
    def data(self) -> list[bytes]:
        """What was accepted, in order."""
        return [message.data for _, message in self.accepted]
