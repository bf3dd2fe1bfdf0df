"""A request and a dead letter as the journal handles them, and the states of a request."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from raccoon.journal.deadletters import Letter
from raccoon.journal.files.record import Record


class State(Enum):
    """Where a request is.

    The journal's copy decides: once it is written, a failed delivery leaves it `WAITING`.
    """

    PARALLEL = "on its way to the disk and to the destination"
    WRITING = "on its way to the disk alone"
    SETTLED = "its outcome is known before it is written; it need not be written"
    STORED = "on disk, and on its way to the destination"
    WAITING = "on disk alone"
    RETURNED = "on disk, read back, and on its way to the destination"


class Entry:
    """A request that is in the journal or on its way there.

    Attributes:
        record: what is written; None once it was.
        events: how many it holds.
        size: bytes of its body.
        request: the request in memory, or None where the journal alone has it.
        position: where it is in the journal; -1 until it is written.
        state: see State.
        stored: called once it is on disk, or None.
        not_stored: called if it never will be, or None.
    """

    __slots__ = (
        "events",
        "not_stored",
        "position",
        "record",
        "request",
        "size",
        "state",
        "stored",
    )

    def __init__(self, record: Record, request: Any, state: State = State.WRITING) -> None:
        self.record: Record | None = record
        self.events = record.events
        self.size = len(record.body)
        self.request = request
        self.position = -1
        self.state = state
        self.stored: Callable[[], None] | None = None
        self.not_stored: Callable[[], None] | None = None


class LetterEntry:
    """A dead letter on its way to disk.

    Attributes:
        letter: what is stored.
        position: of the request in the journal, or -1 where it is not there.
        request: the request in memory, which may still wait for its answer.
        size: bytes of its body.
    """

    __slots__ = ("letter", "position", "request", "size")

    def __init__(self, letter: Letter, position: int, request: Any) -> None:
        self.letter = letter
        self.size = len(letter.record.body)
        self.position = position
        self.request = request

    @property
    def events(self) -> int:
        """How many of its request's events were not delivered."""
        return sum(self.letter.failed.values())
