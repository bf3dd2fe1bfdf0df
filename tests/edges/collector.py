"""A collector that the test settles."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from raccoon.errors import Overloaded, PublishError
from raccoon.interfaces import ICollector
from raccoon.request import CollectRequest
from tests.fakes import Fake, can_fail


def publish_failed(request: CollectRequest, why: str = "broker down") -> PublishError:
    """The error of a request of which no event was delivered."""
    events = len(request.types)
    return PublishError(events, events, [why] * events)


@implementer(ICollector)
class FakeCollector(Fake):
    """Keeps requests until the test settles them; acknowledges as the level asks.

    Attributes:
        overloaded: whether requests are refused.
        waiters: what is called when there is room again.

    Args:
        ack: the acknowledgement level.
    """

    def __init__(self, ack: int = 1) -> None:
        super().__init__()
        self.ack = ack
        self.overloaded = False
        self.requests: list[CollectRequest] = []
        self._acknowledged: list[Deferred[None]] = []
        self.waiters: list[Callable[[], None]] = []

    @property
    def guids(self) -> list[str]:
        """Guids of what was taken, in order."""
        return [request.guid for request in self.requests]

    @can_fail
    def collect(self, request: CollectRequest) -> Deferred[None]:
        if self.overloaded and request.types:
            return fail(Overloaded())
        self.requests.append(request)
        waits = self.ack and request.types
        acknowledged: Deferred[None] = Deferred() if waits else succeed(None)
        self._acknowledged.append(acknowledged)
        return acknowledged

    @can_fail
    def when_room(self, resume: Callable[[], None]) -> Callable[[], None]:
        if not self.overloaded:
            resume()
            return lambda: None
        self.waiters.append(resume)

        def forget() -> None:
            if resume in self.waiters:
                self.waiters.remove(resume)

        return forget

    def deliver(self, index: int = -1) -> None:
        """The destination confirms the index-th request."""
        if self.ack:
            self._acknowledged[index].callback(None)

    def deliver_all(self) -> None:
        """The destination confirms whatever is not settled."""
        for acknowledged in self._acknowledged:
            if not acknowledged.called:
                acknowledged.callback(None)

    def lose(self, index: int = -1, why: str = "broker down") -> None:
        """The destination refuses the index-th request."""
        request = self.requests[index]
        error = publish_failed(request, why)
        if request.on_failed is not None:
            request.on_failed(error)
        if self.ack:
            self._acknowledged[index].errback(error)

    def reject(self, index: int = -1, why: str = "no such topic") -> None:
        """No attempt can ever deliver the index-th request."""
        request = self.requests[index]
        failed = {kind: len(payloads) for kind, payloads in request.by_type.items()}
        events = len(request.types)
        error = PublishError(events, events, [why] * events, failed)
        if request.on_failed is not None:
            request.on_failed(error)
        if self.ack:
            self._acknowledged[index].errback(error)

    def make_room(self) -> None:
        """The overload ends."""
        self.overloaded = False
        waiters, self.waiters = self.waiters, []
        for resume in waiters:
            resume()
