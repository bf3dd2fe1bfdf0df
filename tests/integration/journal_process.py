"""A process to be killed: recovers a journal, writes, delivers, tidies and closes it.

    python -m tests.integration.journal_process DIRECTORY LEDGER RUN

appends to the ledger a line for each step: `+ NAME` before requests are written, `a NAME` once they
are acknowledged, `- NAME` before a delivery is noted, `d NAME` once it is, `l NAME` once a request
is among the dead letters.
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from raccoon.journal.deadletters import DeadLetters, Letter
from raccoon.journal.files.body import MESSAGEPACK
from raccoon.journal.files.record import Record, encode
from raccoon.journal.files.segment import Segment
from raccoon.journal.files.store import Found, Store

SEGMENT_BYTES = 60_000
_GROUPS = 12


def make_record(name: str) -> Record:
    """The request of a name: its bytes follow from it."""
    source = random.Random(name)
    return Record(name, "group", 1000.5, 1, MESSAGEPACK, source.randbytes(source.randrange(9000)))


class DamageError(Exception):
    """A segment was found damaged, which a killed process never leaves."""


def refuse_damage(segment: Segment, why: str, saved: list[Found]) -> None:
    """For Store: nothing may be damaged here."""
    raise DamageError(f"{segment.path}: {why}")


def main(directory: Path, ledger: Path, run: str) -> None:
    """See the module."""
    file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(sign: str, names: list[str]) -> None:
        if names:
            os.write(file, "".join(f"{sign} {name}\n" for name in names).encode())

    source = random.Random(run)
    store = Store(directory, SEGMENT_BYTES, refuse_damage)
    store.open()
    recovered = store.recover()
    store.carry()
    letters = DeadLetters(directory)
    found, _ = store.read(-1, recovered.last, frozenset(), 1000, 1 << 30)
    waiting = {position: record.client for position, record in found}
    for group in range(_GROUPS):
        records = [make_record(f"{run}/{group}/{n}") for n in range(source.randrange(1, 4))]
        names = [record.client for record in records]
        done = [place for place in waiting if source.random() < 0.5]
        gone = [waiting.pop(place) for place in done]
        note("-", gone)
        note("+", names)
        first = store.write([(encode(record), 1) for record in records], done)
        note("a", names)
        note("d", gone)
        waiting.update(enumerate(names, first))
        if group % 3 == 1:
            store.tidy()
        if group == _GROUPS // 2:
            place = next(iter(waiting))
            name = waiting.pop(place)
            note("-", [name])
            letters.add([Letter(1.0, "why", {"": 1}, make_record(name))])
            note("l", [name])
            store.write([], [place])
            note("d", [name])
    letters.close()
    store.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
