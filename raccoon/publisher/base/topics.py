"""Which topics or streams exist: asked once for each, remembered for a bounded number."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from raccoon.publisher.base.delivery import Failure
from raccoon.supervision import Supervisor

Then = Callable[[Failure | None], None]

_KNOWN = 10_000
_REFUSED = 10_000
_REFUSED_SECONDS = 5.0
_ASKING = 1000


class KnownTopics:
    """Asks in other threads, so that a name not seen before delays no other.

    Those who ask for a name are answered in the order in which they asked.

    Args:
        check: finds out, blocking, until the deadline given: None for a name that is there (or
            now is), else the failure of events for it and whether that answer holds for a while.
        run: calls in another thread.
        supervisor: told what fails unexpectedly.
        known: names remembered as there; the least recently used are asked for again.
        refused: names remembered as not there.
        refused_seconds: how long.
        asking: names that are asked for at once, at most.
        seconds: the clock.
    """

    def __init__(
        self,
        check: Callable[[str, float], tuple[Failure | None, bool]],
        run: Callable[..., None],
        supervisor: Supervisor,
        *,
        known: int = _KNOWN,
        refused: int = _REFUSED,
        refused_seconds: float = _REFUSED_SECONDS,
        asking: int = _ASKING,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._check = check
        self._run = run
        self._supervisor = supervisor
        self._known_max = known
        self._refused_max = refused
        self._refused_seconds = refused_seconds
        self._asking_max = asking
        self._seconds = seconds
        self._known: OrderedDict[str, None] = OrderedDict()
        self._refused: OrderedDict[str, tuple[float, Failure]] = OrderedDict()
        self._asking: dict[str, list[Then]] = {}
        self._lock = threading.Lock()

    def ask(self, name: str, deadline: float, then: Then) -> None:
        """Call `then` with None or a failure: now where the answer is known, else later."""
        failure: Failure | None = None
        unheard_of = False
        with self._lock:
            if name in self._known:
                self._known.move_to_end(name)
            elif (refused := self._refused.get(name)) and refused[0] > self._seconds():
                failure = refused[1]
            elif (waiting := self._asking.get(name)) is not None:
                waiting.append(then)
                return
            elif len(self._asking) >= self._asking_max:
                failure = Failure("too many new event types at once, retry")
            else:
                self._asking[name] = [then]
                unheard_of = True
        if not unheard_of:
            then(failure)
            return
        try:
            self._run(self._find_out, name, deadline)
        except BaseException as error:
            self._tell(name, self._unexpected(error), lasts=False)

    def forget(self, name: str) -> None:
        """The name is not there any more: ask again when it is next used."""
        with self._lock:
            self._known.pop(name, None)

    def _find_out(self, name: str, deadline: float) -> None:
        try:
            failure, lasts = self._check(name, deadline)
        except BaseException as error:  # whatever a driver raises, those who wait are answered
            failure, lasts = self._unexpected(error), False
        self._tell(name, failure, lasts)

    def _unexpected(self, error: BaseException) -> Failure:
        self._supervisor.failed("topic check", error)
        return Failure(str(error))

    def _tell(self, name: str, failure: Failure | None, lasts: bool) -> None:
        # Those who ask meanwhile are answered after those who asked before: a name turns known,
        # and so is answered at once, only when none waits.
        while waiting := self._waiting(name, failure, lasts):
            for then in waiting:
                self._supervisor.call("topic check", then, failure)

    def _waiting(self, name: str, failure: Failure | None, lasts: bool) -> list[Then]:
        """Those who wait for a name, each once; when there are none, its answer is kept."""
        with self._lock:
            if waiting := self._asking[name]:
                self._asking[name] = []
                return waiting
            del self._asking[name]
            if failure is None:
                self._refused.pop(name, None)
                _remember(self._known, name, None, self._known_max)
            elif lasts:
                entry = (self._seconds() + self._refused_seconds, failure)
                _remember(self._refused, name, entry, self._refused_max)
        return []


def _remember(names: OrderedDict[str, Any], name: str, value: Any, most: int) -> None:
    names[name] = value
    names.move_to_end(name)
    if len(names) > most:
        names.popitem(last=False)
