"""A journal in a temporary directory, and what the tests put into it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from raccoon.journal.files.body import MESSAGEPACK
from raccoon.journal.files.record import Record, encode
from raccoon.journal.files.segment import Segment
from raccoon.journal.files.store import Found, Store

SEGMENT_BYTES = 1 << 20


def make_record(name: str, size: int = 20, events: int = 1) -> Record:
    """A request that can be told from others by its client and its bytes."""
    body = (name.encode() * (size // max(len(name), 1) + 1))[:size]
    return Record(name, "group", 1000.5, events, MESSAGEPACK, body)


def stored(records: Sequence[Record]) -> list[tuple[bytes, int]]:
    """Records as `Store.write` takes them."""
    return [(encode(record), record.events) for record in records]


class DirectoryCase(SynchronousTestCase):
    """Has a directory of its own."""

    def setUp(self) -> None:
        directory = TemporaryDirectory(prefix="raccoon-journal-")
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)

    def names(self) -> list[str]:
        """The journal's files beside the lock and the dead letters."""
        return sorted(
            path.name
            for path in self.directory.iterdir()
            if path.name != "lock" and not path.name.startswith("dead")
        )


class StoreCase(DirectoryCase):
    """Opens stores, and sees what they set aside."""

    def setUp(self) -> None:
        super().setUp()
        self.damage: list[tuple[Segment, str, list[Found]]] = []

    def open(self, segment_bytes: int = SEGMENT_BYTES) -> Store:
        """A store that is closed at the test's end, if it was not before."""
        store = Store(self.directory, segment_bytes, lambda *what: self.damage.append(what))
        store.open()
        self.addCleanup(store.close)
        return store

    def crash(self, store: Store) -> None:
        """What is left of a store when its process is killed: the files as they are."""
        if store._connection is not None:
            store._connection.close(True)
            store._connection = store._active = None
        store._segments = {}
        store.close()

    def restore(self, whole: Mapping[Path, bytes]) -> None:
        """Have these files of segments, as they were, and no others."""
        for path in self.directory.glob("0*"):
            path.unlink()
        for path, content in whole.items():
            path.write_bytes(content)

    def waiting(self, store: Store, upto: int = 1 << 62) -> list[Record]:
        """What is to be delivered, in order."""
        found, _ = store.read(-1, upto, frozenset(), 1 << 30, 1 << 40)
        return [record for _, record in found]
