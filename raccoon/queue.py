"""The queue in which admitted requests wait for a worker."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, takewhile

from twisted.internet.defer import Deferred, DeferredQueue

from raccoon.request import CollectRequest, Requests

_SEVERAL = 8  # requests: fewer are not worth a publish of their own, however large


class RequestQueue(DeferredQueue[CollectRequest]):
    """A DeferredQueue from which many can be taken at once, and that says when it holds enough.

    Args:
        enough: requests that wait, for `when_enough` to tell.
    """

    def __init__(self, enough: int) -> None:
        super().__init__()
        self._enough = enough
        self._enough_bytes = 0
        self._tell: Callable[[], None] | None = None
        self._payload_bytes = 0

    def put(self, obj: CollectRequest) -> None:
        """Add a request."""
        super().put(obj)
        if self.pending:  # else somebody who waited has it
            self._payload_bytes += obj.payload_bytes
            self._tell_if_enough()

    def put_all(self, requests: Requests) -> None:
        """Add requests, oldest first, without a look at each unless somebody waits for one."""
        if self.waiting:
            for request in requests.each:
                self.put(request)
            return
        self.pending += requests.each
        self._payload_bytes += requests.payload_bytes
        self._tell_if_enough()

    def get(self) -> Deferred[CollectRequest]:
        """Fires with the oldest request, once there is one."""
        if self.pending:
            self._payload_bytes -= self.pending[0].payload_bytes
        return super().get()

    def take(self, count: int, batch_bytes: int | None = None) -> list[CollectRequest]:
        """Remove and return up to `count` of what waits, and up to so many bytes, oldest first."""
        if batch_bytes is not None:
            ends = accumulate(request.batch_bytes for request in self.pending[:count])
            count = sum(1 for _ in takewhile(batch_bytes.__ge__, ends))
        taken = self.pending[:count]
        del self.pending[:count]
        self._payload_bytes -= sum(request.payload_bytes for request in taken)
        return taken

    def put_back(self, request: CollectRequest) -> None:
        """Add a request that `get` gave, before all others."""
        self.pending.insert(0, request)
        self._payload_bytes += request.payload_bytes

    def when_enough(self, payload_bytes: int, tell: Callable[[], None] | None) -> None:
        """Call `tell` once enough requests wait, or several of this many bytes in all.

        It takes the place of any before it; None: nobody is to be told.
        """
        self._enough_bytes = payload_bytes
        self._tell = tell
        self._tell_if_enough()

    def _tell_if_enough(self) -> None:
        if self._tell is None:
            return
        waiting = len(self.pending)
        if waiting >= self._enough or (
            waiting >= _SEVERAL and self._payload_bytes >= self._enough_bytes
        ):
            tell, self._tell = self._tell, None
            tell()
