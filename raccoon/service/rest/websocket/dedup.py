"""Which batches a connection has sent before, within a bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

NEW = "new"
PUBLISHED = "published"
IN_FLIGHT = "in flight"

Waiter = Callable[[bool], None]


class SeenBatches:
    """The guids of one connection: those in flight, and the latest published ones.

    Args:
        size: how many published guids are remembered; the oldest is forgotten first.
    """

    __slots__ = ("_in_flight", "_published", "_size")

    def __init__(self, size: int) -> None:
        self._size = size
        self._in_flight: dict[str, list[Waiter]] = {}
        self._published: OrderedDict[str, None] = OrderedDict()

    def begin(self, guid: str, waiter: Waiter) -> str:
        """Note that a batch came.

        Returns:
            NEW: publish it, then call `settle`. PUBLISHED: answer it at once. IN_FLIGHT: its
            first copy is under way; `waiter` is called with that one's success.
        """
        if guid in self._published:
            return PUBLISHED
        waiters = self._in_flight.get(guid)
        if waiters is not None:
            waiters.append(waiter)
            return IN_FLIGHT
        self._in_flight[guid] = []
        return NEW

    def settle(self, guid: str, published: bool) -> None:
        """The batch's outcome: a failed one is forgotten, so that its retry goes through."""
        if published:
            self._published[guid] = None
            if len(self._published) > self._size:
                self._published.popitem(last=False)
        else:
            self._published.pop(guid, None)
        for waiter in self._in_flight.pop(guid, ()):
            waiter(published)
