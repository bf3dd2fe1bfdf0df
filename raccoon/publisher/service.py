"""The publisher's life: its thread pool, its start and its close."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

from raccoon.interfaces import IOrderedPublisher, IPublisher, Outcome
from raccoon.request import CollectRequest


class PublisherService(Service):
    """Runs a blocking publisher in a pool of its own.

    Args:
        reactor: takes results from the pool's threads.
        publisher: the destination.
        pool_size: publishes in flight at most.
    """

    def __init__(self, reactor: Any, publisher: IPublisher, pool_size: int) -> None:
        self._reactor = reactor
        self.publisher = publisher
        self._ordered: Any = publisher if IOrderedPublisher.providedBy(publisher) else None
        self._pool_size = pool_size
        self._pool: ThreadPool | None = None

    def startService(self) -> None:
        """Open the publisher.

        Raises:
            StartError: its options cannot be used.
        """
        super().startService()
        self.publisher.start()
        # One thread more than publishes: the close is not to wait behind them.
        self._pool = ThreadPool(0, self._pool_size + 1, "publisher")
        self._pool.start()

    def publish(self, requests: Sequence[CollectRequest]) -> Deferred[Sequence[Outcome]]:
        """Deliver a group in a thread; fires with one outcome for each request."""
        assert self._pool is not None
        if self._ordered is not None:
            self._ordered.expect(requests)
        return deferToThreadPool(self._reactor, self._pool, self.publisher.publish, requests)

    @inlineCallbacks
    def close(self, timeout: float) -> Any:
        """Flush for at most `timeout` seconds; fires with the number of undelivered events."""
        if self._pool is None:
            return 0
        left = yield deferToThreadPool(self._reactor, self._pool, self.publisher.close, timeout)
        return left

    @inlineCallbacks
    def stopService(self) -> Any:
        """Stop the pool; fires when its last thread is gone."""
        yield super().stopService()
        if self._pool is not None:
            pool, self._pool = self._pool, None
            yield deferToThreadPool(self._reactor, self._reactor.getThreadPool(), pool.stop)
