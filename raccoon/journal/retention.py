"""Where a request goes whose delivery failed: to wait, to the dead letters, or nowhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from raccoon.errors import PublishError
from raccoon.journal.accounts import Accounts
from raccoon.journal.deadlettering import DeadLettering
from raccoon.journal.entry import Entry, State
from raccoon.journal.files.body import MESSAGEPACK, encode_body
from raccoon.journal.files.record import Record
from raccoon.journal.files.store import Store
from raccoon.journal.postponed import Postponed
from raccoon.journal.replay import Replay
from raccoon.journal.writer import Writer
from raccoon.messages import Batch
from raccoon.request import CollectRequest
from raccoon.supervision import Supervisor

_STORING = "journal storing"


class Retention:
    """Moves requests from state to state.

    Args:
        store: knows what is in the journal.
        writer: writes.
        accounts: sums.
        resident: positions of requests that are in memory.
        postponed: for what the dead letters have no room for.
        add: writes a request that is in the journal no more, or not yet.
        ack_level: at level 1 a client hears of each failure.
        supervisor: is told of requests that cannot be stored.
    """

    def __init__(
        self,
        store: Store,
        writer: Writer,
        accounts: Accounts,
        resident: set[int],
        postponed: Postponed,
        add: Callable[[CollectRequest, bool], None],
        ack_level: int,
        supervisor: Supervisor,
    ) -> None:
        self._store = store
        self._writer = writer
        self._accounts = accounts
        self._resident = resident
        self._postponed = postponed
        self._add = add
        self._ack_level = ack_level
        self._supervisor = supervisor

    def attach(self, letters: DeadLettering, replay: Replay) -> None:
        """Say where undeliverable requests go, and who is told of those that had come back."""
        self._letters = letters
        self._replay = replay

    def retain(self, request: CollectRequest, error: PublishError) -> int | None:
        """Take responsibility for a request whose delivery failed.

        Returns:
            How many of its events count as delivered: none while the request waits, and all but
            the failed ones where these are dead letters. None: the failure is final.
        """
        entry: Entry | None = request.entry
        if entry is not None and entry.state is State.RETURNED:
            if error.lasting:
                self._replay.ended([request])
            else:
                self._replay.failed(request)
        if error.lasting:
            if entry is None and self._ack_level == 1:
                return None  # the client is told
            if self._dead_letter(request, error):
                return len(request.types) - sum(error.lasting.values())
            if request.acknowledged is not None:
                if entry is not None:
                    self._settle(entry)
                return None
        return 0 if self._wait(request, bool(error.lasting)) else None

    def _dead_letter(self, request: CollectRequest, error: PublishError) -> bool:
        entry: Entry | None = request.entry
        record = self._supervisor.call(_STORING, record_of, request)
        if record is None:
            return False
        position = entry.position if entry is not None else -1
        if not self._letters.dead_letter(record, error.lasting, str(error), position, request):
            return False
        if entry is not None and position < 0:
            self._settle(entry)
        return True

    def _wait(self, request: CollectRequest, postponed: bool) -> bool:
        """Have a request wait in the journal; False if it is not there and cannot be."""
        entry: Entry | None = request.entry
        if entry is None:
            return self._accounts.refusal(request.size) is None and self._add_again(request)
        if entry.position < 0:
            entry.state = State.WRITING
            self._accounts.in_transit_events += entry.events
        elif self._store.has(entry.position):
            entry.state = State.WAITING
            if not (postponed and self._postponed.add(entry.position)):
                self._resident.discard(entry.position)
            self._accounts.wait(1, entry.events)
        elif self._add_again(request):  # its segment is damaged: once written again it is done with
            self.done([entry])
        else:
            return False
        return True

    def _add_again(self, request: CollectRequest) -> bool:
        request.entry = None
        self._supervisor.call(_STORING, self._add, request, False)
        return request.entry is not None

    def done(self, entries: Sequence[Entry]) -> None:
        """These requests need no place on disk any more."""
        positions = []
        for entry in entries:
            if entry.position < 0:
                self._settle(entry)
            else:
                positions.append(entry.position)
        self._writer.note(positions)

    def _settle(self, entry: Entry) -> None:
        """It need not be written any more; the writer passes over it, or has just taken it."""
        if entry.position < 0 and entry.state is not State.SETTLED:
            entry.state = State.SETTLED
            entry.request = None
            self._accounts.inbox_bytes -= entry.size

    def put(self, entry: Entry) -> None:
        """Have a request written."""
        self._accounts.inbox_bytes += entry.size
        if entry.state is State.WRITING:
            self._accounts.in_transit_events += entry.events
        self._writer.put(entry)

    def wait_again(self, position: int, events: int) -> None:
        """A request's dead letter could not be stored: it waits in the journal."""
        if not self._postponed.add(position):
            self._resident.discard(position)
        self._accounts.wait(1, events)


def record_of(request: CollectRequest) -> Record:
    """A request as it is stored."""
    identifier = request.identifier
    batch = Batch(request.guid, request.sent_time, request.types, request.payloads)
    return Record(
        identifier.id,
        identifier.group,
        request.received_at,
        len(request.types),
        MESSAGEPACK,
        encode_body(batch),
    )
