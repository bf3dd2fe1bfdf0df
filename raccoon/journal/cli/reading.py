"""What a journal holds, for people: read beside a running server, which is never held up."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

import apsw

from raccoon.errors import RaccoonError
from raccoon.journal import deadletters
from raccoon.journal.deadletters import DeadLetters, Letter
from raccoon.journal.files import salvage as salvaging
from raccoon.journal.files.record import DamagedError, Record
from raccoon.journal.files.segment import Segment, segment_numbers
from raccoon.journal.files.store import LOCK, Seen

_READ_BYTES = 1 << 20


class ReadingError(RaccoonError):
    """What was asked for is not there, or cannot be read."""


class Part(NamedTuple):
    """A journal in one directory.

    Attributes:
        name: of the sub-directory, such as `worker-1`; empty for the directory itself.
        directory: where it is.
    """

    name: str
    directory: Path

    def label(self, number: object) -> str:
        """How a letter or a request of this part is called."""
        return f"{self.name}/{number}" if self.name else str(number)

    @contextmanager
    def letters(self) -> Iterator[DeadLetters | None]:
        """Its dead letters, or None where there is no such file: it is not made."""
        if not (self.directory / deadletters.FILE).exists():
            yield None
            return
        with closing(DeadLetters(self.directory)) as letters:
            yield letters


class Chosen:
    """Dead letters that were asked for, part by part.

    Args:
        parts: of the journal.
        labels: such as `12` or `worker-1/12`; none for all.

    Raises:
        ReadingError: one of them is not there.
    """

    def __init__(self, parts: Sequence[Part], labels: Sequence[str]) -> None:
        self._parts = parts
        self._numbers: dict[str, list[int]] = {}
        for label in labels:
            name, _, number = label.rpartition("/")
            self._numbers.setdefault(name, []).append(int(number))
        found = {label for label, _ in self} if labels else set()
        missing = [label for label in dict.fromkeys(labels) if label not in found]
        if missing:
            raise ReadingError(f"no dead letter {', '.join(missing)} (`raccoon-journal list`)")

    def __iter__(self) -> Iterator[tuple[str, Letter]]:
        for part, numbers in self.by_part():
            with part.letters() as letters:
                for number, letter in letters.all(numbers) if letters else ():
                    yield part.label(number), letter

    def by_part(self) -> Iterator[tuple[Part, list[int]]]:
        """Each part that is concerned, with the numbers; none of them for all."""
        for part in self._parts:
            if not self._numbers:
                yield part, []
            elif part.name in self._numbers:
                yield part, self._numbers[part.name]

    def count(self) -> int:
        """How many they are."""
        count = 0
        for part, numbers in self.by_part():
            with part.letters() as letters:
                if letters:
                    count += len(set(numbers)) if numbers else letters.count()[0]
        return count


def parts_of(directory: Path) -> list[Part]:
    """The journals in a directory: its own, and those of its sub-directories.

    Raises:
        ReadingError: there is none.
    """
    if not directory.is_dir():
        what = "is not a directory" if directory.exists() else "there is no such directory"
        raise ReadingError(f"{directory}: {what} (--dir chooses another)")
    inside = sorted(path for path in directory.iterdir() if path.is_dir())
    parts = [Part("", directory)] + [Part(path.name, path) for path in inside]
    found = [part for part in parts if _holds_something(part.directory)]
    if not found and (directory / LOCK).exists():
        return parts[:1]
    if not found:
        raise ReadingError(f"{directory}: this is not a journal (--dir chooses another)")
    return found


def waiting(seen: Seen) -> Iterator[tuple[str, Record]]:
    """The requests of a journal that are not known to be delivered, oldest first, with their names.

    Raises:
        ReadingError: a segment could not be read; those that can be were given before.
    """
    unreadable = list(seen.unreadable)
    for segment in seen.segments:
        events = segment.events
        index = 0
        while True:
            while index < len(events) and segment.is_done(index):
                index += 1
            if index >= len(events):
                break
            try:
                batch = _read(segment, index)
            except (DamagedError, apsw.Error) as error:
                if segment.path.exists():
                    unreadable.append((segment.path, str(error)))
                break
            for at, record in batch:
                if at < len(events) and not segment.is_done(at):
                    yield f"{segment.number}:{at}", record
            index = batch[-1][0] + 1
    if unreadable:
        raise ReadingError("; ".join(f"{path}: cannot be read: {why}" for path, why in unreadable))


def oldest(seen: Seen) -> float | None:
    """When the oldest waiting request came, in Unix seconds, or None."""
    try:
        return next((record.received_at for _, record in waiting(seen)), None)
    except ReadingError:
        return None


def salvage(path: Path) -> list[tuple[int, Record]]:
    """What can be read of a segment's file, with each request's index; the file stays as it is.

    Raises:
        ReadingError: nothing can.
    """
    with tempfile.TemporaryDirectory(prefix="raccoon-journal-") as directory:
        saved = salvaging.salvage(
            path, path.with_name(path.name + "-wal"), Path(directory) / "copy"
        )
    if not saved:
        raise ReadingError(f"{path}: no request could be read")
    return saved


def _holds_something(directory: Path) -> bool:
    return (directory / deadletters.FILE).exists() or bool(segment_numbers(directory))


def _read(segment: Segment, first: int) -> list[tuple[int, Record]]:
    """Some records from the group of index `first` on, the file closed again.

    An open file would keep the server from giving the segment its last form.
    """
    records: list[tuple[int, Record]] = []
    size = 0
    with closing(segment.read(first)) as groups:
        for start, group in groups:
            records += enumerate(group, start)
            size += sum(len(record.body) for record in group)
            if size >= _READ_BYTES:
                break
    if not records:
        raise DamagedError(f"request {first} is missing")
    return records
