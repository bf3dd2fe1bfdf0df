"""What the parts of Raccoon expect of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

from twisted.internet.defer import Deferred
from zope.interface import Attribute, Interface

from raccoon.errors import PublishError
from raccoon.messages import Batch, Response
from raccoon.request import CollectRequest

# What became of one request: None, every event is confirmed; an error; or not known yet.
Outcome = PublishError | Future[PublishError | None] | None

# Parameter names are the contract; zope methods take no self.
# ruff: noqa: N805


class ICollector(Interface):
    """Where the edges hand their requests."""

    def collect(request: CollectRequest) -> Deferred[None]:
        """Take a CollectRequest; see raccoon.collector.Collector.collect."""

    def when_room(resume: Callable[[], None]) -> Callable[[], None]:
        """Call `resume` once when a refused client may push again.

        Returns:
            Forgets `resume`, for a client that is gone; from any thread.
        """


class IJournal(Interface):
    """Keeps requests on disk until they are delivered; for the reactor thread."""

    bridges_outages: bool = Attribute("requests are taken while the destination is away")
    in_transit_events: int = Attribute("events on their way to the disk, and in no other place")
    returned_requests: int = Attribute("requests that came back from disk and are on their way")
    returned_bytes: int = Attribute("the memory they are charged with")

    def refusal(size: int) -> str | None:
        """Why a request of `size` bytes cannot be taken now, or None."""

    def memory_left(used: int) -> int:
        """Bytes of requests that may be in memory beside the disk, where `used` are."""

    def not_ready() -> list[str]:
        """Why no request should be sent here now; empty where there is room."""

    def add(request: CollectRequest, in_memory: bool) -> None:
        """Write a CollectRequest, then fire its `acknowledged` where there is one.

        Without `in_memory` the journal brings it back for delivery.
        """

    def delivered(requests: Sequence[CollectRequest]) -> None:
        """Requests with an `entry` were delivered."""

    def retain(request: CollectRequest, error: PublishError) -> int | None:
        """Take back a request whose delivery failed.

        Returns:
            How many of its events count as delivered; None: its failure is final.
        """


class IPublisher(Interface):
    """A destination. Plain blocking code: constructed, started and called in worker threads.

    A third party adds one by an entry point in the group `raccoon.publishers`: the name is the
    value of PUBLISHER_TYPE, the object a callable that takes a PublisherContext and returns an
    IPublisher. It may declare options of its own; see docs/publishers.md.
    """

    name: str = Attribute("the publisher's name in metrics, such as `kafka`")
    destination: str = Attribute("one line for people: where events go")
    reachable: bool = Attribute("False while the destination is known not to answer, else True")

    def start() -> None:
        """Open what is needed. Called once, on the reactor thread: must not wait for a network.

        Raises:
            StartError: the options cannot be used.
        """

    def publish(requests: Sequence[CollectRequest]) -> Sequence[Outcome]:
        """Deliver a group of CollectRequests, blocking. Several threads may call at once.

        Returns:
            One outcome for each request, in order: None (every event is confirmed), a
            PublishError, or a concurrent.futures.Future of either, so that one slow destination
            does not hold the answers of a whole group. Must not raise for what a broker or an
            event did; what it raises fails the whole group.
        """

    def close(timeout: float) -> int:
        """Flush for at most `timeout` seconds and release everything; blocking.

        Every `publish` under way and every Future comes to its end.

        Returns:
            How many events are undelivered, exactly.
        """


class IOrderedPublisher(IPublisher):
    """A publisher that may be asked to keep order between groups (EVENT_PARTITION_KEY)."""

    def expect(requests: Sequence[CollectRequest]) -> None:
        """`publish` will be called with this very list, in a thread, and perhaps out of order.

        Called on the reactor thread, in the order in which the groups left the queue.
        """


class ILingeringPublisher(IPublisher):
    """A publisher for which requests may wait for others, so that groups are larger.

    All but the last are read once, before `start`.
    """

    linger: float = Attribute("seconds since the last group for which the next may wait")
    enough_bytes: int = Attribute("payload bytes of several requests that are worth a group")
    group_bytes: int = Attribute("`batch_bytes` of a group at most, but for one large request")
    parallel: int = Attribute("groups that may be on their way now without waiting for each other")


class IRejectingPublisher(IPublisher):
    """A publisher that knows of some events beforehand that it cannot deliver them."""

    def rejection(event_type: str) -> str | None:
        """Why no event of this type can be delivered, such as a missing topic; None: not known.

        Called on the reactor thread for each type of a request: must not block, and costs no more
        than a look-up. What it says may change: a topic may be made.
        """


class IMetrics(Interface):
    """Counts things. Safe from any thread. Names and labels are those of raccoon.metrics.names."""

    def count(name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        """Add `value` to a counter."""

    def count_all(counts: Iterable[tuple[str, float, tuple[str, ...]]]) -> None:
        """Add to several counters, in less time than each takes by itself."""

    def gauge(name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        """Set a gauge."""

    def adjust(name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        """Add `value`, which may be negative, to a gauge."""

    def observe(name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        """Record one value, in milliseconds, in a histogram."""

    def observe_all(name: str, values: Sequence[float], labels: tuple[str, ...] = ()) -> None:
        """Record several values, for a third of the time that each takes by itself."""


class IDeserializer(Interface):
    """Wire to message."""

    def deserialize(body: bytes) -> Batch:
        """Decode `bytes` into a raccoon.messages.Batch.

        Raises:
            DeserializationError: the bytes are not a request; the message names the field.
            LimitError: the request is over a limit; the message names it.
        """


class ISerializer(Interface):
    """Message to wire."""

    def serialize(response: Response) -> bytes:
        """Encode a raccoon.messages.Response as `bytes`."""
