"""Hands the requests of a group over, one after the other, and lets a close wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Protocol, TypeVar

from raccoon.publisher.base.turns import Turns
from raccoon.supervision import Supervisor


class Interruptible(Protocol):
    """A request that is handed over."""

    def interrupted(self, error: BaseException) -> None:
        """It was not handed over, or only in part: it fails."""


_D = TypeVar("_D", bound=Interruptible)


class HandOver:
    """Counts the groups that are being handed over.

    Args:
        name: of the publisher, in the supervisor's words.
        supervisor: told what went wrong.
        ordered: whether groups take turns; see Turns.
    """

    def __init__(self, name: str, supervisor: Supervisor, ordered: bool) -> None:
        self._name = f"{name} hand-over"
        self._supervisor = supervisor
        self._turns = Turns() if ordered else None
        self._changed = threading.Condition()
        self._groups = 0

    def expect(self, group: object) -> None:
        """This group is the next in order; see IOrderedPublisher."""
        if self._turns is not None:
            self._turns.expect(group)

    def each(
        self, group: object, deliveries: Iterable[_D], hand_over: Callable[[_D], object]
    ) -> None:
        """Hand over each request of a group; one that raises is interrupted, and no other."""
        with self._changed:
            self._groups += 1
        try:
            with nullcontext() if self._turns is None else self._turns.take(group):
                for delivery in deliveries:
                    try:
                        hand_over(delivery)
                    except BaseException as error:
                        # First, as what the frames of the error hold may end the request.
                        self._supervisor.call(self._name, delivery.interrupted, error)
                        self._supervisor.failed(self._name, error)
        finally:
            with self._changed:
                self._groups -= 1
                self._changed.notify_all()

    def wait_until_done(self, timeout: float) -> bool:
        """Wait until no group is being handed over, so many seconds at most; whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._groups, timeout)
