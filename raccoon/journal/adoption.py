"""Takes over what a journal holds that no process has any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

from raccoon.journal.deadletters import FILE, DeadLetters, Letter
from raccoon.journal.segment import SUFFIX, Segment
from raccoon.journal.store import Found, Store

_PART = "worker-"
_AT_ONCE = 500
_BYTES_AT_ONCE = 1 << 20
_ALL = 1 << 62


def part_of(directory: Path, workers: int, index: int) -> Path:
    """Where a worker's journal is: one alone has the directory itself."""
    return directory if workers == 1 else directory / f"{_PART}{index}"


def left_parts(directory: Path, workers: int, index: int) -> list[Path]:
    """The journals in a directory that no worker has and that this one is to adopt.

    They stay behind when the number of workers changes. The first worker adopts them.
    """
    if index:
        return []
    own = {part_of(directory, workers, other) for other in range(workers)}
    parts = [directory, *sorted(directory.glob(f"{_PART}*"))]
    return [part for part in parts if part not in own and _holds_something(part)]


def _holds_something(part: Path) -> bool:
    return part.is_dir() and (any(part.glob(f"*{SUFFIX}")) or (part / FILE).exists())


class Adoption:
    """A journal whose requests go over to another, piece by piece. Blocking.

    Args:
        directory: of the journal that was left.
        segment_bytes: see Store.
        damaged: see Store.
    """

    def __init__(
        self,
        directory: Path,
        segment_bytes: int,
        damaged: Callable[[Segment, str, list[Found]], None],
    ) -> None:
        self.directory = directory
        self._store = Store(directory, segment_bytes, damaged)
        self._after = -1

    def open(self) -> None:
        """Take the directory and read what is there.

        Raises:
            InUseError: a process has it after all.
            JournalError: it cannot be used now.
        """
        self._store.open()
        self._store.recover()
        self._store.carry()

    def next(self) -> list[Found]:
        """The next requests; none when all were given."""
        found, self._after = self._store.read(self._after, _ALL, (), _AT_ONCE, _BYTES_AT_ONCE)
        return found

    def taken(self, positions: Sequence[int]) -> None:
        """These requests are on disk elsewhere.

        Raises:
            JournalError: that could not be noted; they may come twice.
        """
        self._store.write([], positions)

    def letters(self) -> list[Letter]:
        """Its dead letters."""
        if not (self.directory / FILE).exists():
            return []
        with closing(DeadLetters(self.directory)) as letters:
            return [letter for _, letter in letters.all()]

    def letters_taken(self) -> None:
        """Its dead letters are on disk elsewhere."""
        for ending in ("", "-wal", "-shm"):
            (self.directory / f"{FILE}{ending}").unlink(missing_ok=True)

    def close(self) -> None:
        """Remove what was taken, and give the directory back."""
        self._store.close()
