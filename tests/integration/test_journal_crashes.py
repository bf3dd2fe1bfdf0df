"""A journal whose process is killed at every step, and whose bits change."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from raccoon.journal.segment import Segment
from raccoon.journal.store import Found, Store
from tests.integration.journal_process import SEGMENT_BYTES, make_record
from tests.integration.torture import Progress, long_or_short
from tests.journal.fakes import StoreCase
from tests.journal.test_store import check_bit_flips

# All that changes a file or a directory, but for making one: the next of these comes after that.
CALLS = ("write", "pwrite64", "fsync", "fdatasync", "ftruncate", "unlink", "rename")
_CALL = re.compile(r"^\d+ +(\w+)\(")
_FAULT = 137  # killed by SIGKILL, as a shell would say
_STEP = 61


def strace(*options: str) -> list[str]:
    """The command that runs another one under strace.

    Raises:
        AssertionError: strace is missing, or may not trace.
    """
    if shutil.which("strace") is None:
        raise AssertionError("strace is not installed (Debian: apt-get install strace)")
    tried = subprocess.run(["strace", "-qq", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise AssertionError(f"strace may not trace here: {tried.stderr.strip()}")
    return ["strace", "-f", "-qq", *options]


class CrashTests(SynchronousTestCase):
    """One process that uses the journal's files as the service does."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="raccoon-crash-")
        self.addCleanup(directory.cleanup)
        self.root = Path(directory.name)

    def run_process(self, place: Path, run: str, under: list[str]) -> int:
        """The exit code of one run on the journal of a place."""
        command = [sys.executable, "-m", "tests.integration.journal_process"]
        done = subprocess.run(
            [*under, *command, str(place / "journal"), str(place / "ledger"), run],
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode not in (0, -9, _FAULT):
            raise AssertionError(f"exit code {done.returncode}: {done.stderr}")
        return done.returncode

    def prepare(self) -> tuple[Path, Counter[str]]:
        """A journal that was closed once and killed once, and the calls of another run on it."""
        place = self.root / "prepared"
        place.mkdir()
        self.assertEqual(0, self.run_process(place, "first", []))
        kill = strace("-e", "trace=fdatasync", "-e", "inject=fdatasync:signal=KILL:when=25")
        self.assertNotEqual(0, self.run_process(place, "second", [*kill, "-o", "/dev/null"]))
        counted = self.root / "counted"
        shutil.copytree(place, counted)
        trace = self.root / "trace"
        options = ("-o", str(trace), "-e", f"trace={','.join(CALLS)}")
        self.assertEqual(0, self.run_process(counted, "third", strace(*options)))
        self.check(counted)
        called = map(_CALL.match, trace.read_text().splitlines())
        return place, Counter(call[1] for call in called if call is not None)

    def test_killed_at_every_call(self) -> None:
        """Killed before any of its writes, syncs, renames and removals, it loses nothing."""
        prepared, calls = self.prepare()
        points = [(call, number + 1) for call in CALLS for number in range(calls[call])]
        points = points[:: long_or_short(1, _STEP)]
        progress = Progress("kill -9 at every call", len(points))
        place = self.root / "place"
        for done, (call, number) in enumerate(points, 1):
            shutil.copytree(prepared, place)
            inject = f"inject={call}:signal=KILL:when={number}"
            under = strace("-o", "/dev/null", "-e", f"trace={call}", "-e", inject)
            code = self.run_process(place, "third", under)
            self.assertNotEqual(0, code, f"was not killed at {call} {number}")
            try:
                self.check(place)
                self.assertEqual(0, self.run_process(place, "fourth", []))
                self.check(place)
            except Exception as error:
                raise AssertionError(f"killed at {call} {number}: {error}") from error
            shutil.rmtree(place)
            progress.step(done, f"at {call} {number}: nothing lost, every start went well")

    def check(self, place: Path) -> None:
        """Compare what waits in a journal with what its processes were told."""
        noted: dict[str, set[str]] = {sign: set() for sign in "+a-d"}
        for line in (place / "ledger").read_text().splitlines():
            sign, _, name = line.partition(" ")
            noted[sign].add(name)

        def damaged(segment: Segment, why: str, saved: list[Found]) -> None:
            raise AssertionError(f"{segment.path.name} is damaged: {why}")

        store = Store(place / "journal", SEGMENT_BYTES, damaged)
        store.open()
        try:
            recovered = store.recover()
            self.assertFalse(store.unread, "a segment cannot be read")
            found, _ = store.read(-1, recovered.last, frozenset(), 1 << 30, 1 << 40)
        finally:
            store.close()
        waiting = {record.client: record for _, record in found}
        self.assertEqual(recovered.requests, len(found))
        self.assertEqual(len(waiting), len(found), "a request is there twice")
        self.assertEqual(set(), noted["a"] - noted["-"] - waiting.keys(), "lost")
        self.assertEqual(set(), noted["d"] & waiting.keys(), "delivered and comes again")
        self.assertEqual(set(), waiting.keys() - noted["+"], "never written")
        self.assertEqual([], [name for name, one in waiting.items() if one != make_record(name)])


class BitTests(StoreCase):
    """Bits in closed segments."""

    def test_bit_flips(self) -> None:
        """Each is found, costs at most its segment, and never a start."""
        count = long_or_short(1000, 20)
        seen = check_bit_flips(self, count, seed=1)
        Progress("bit flips", count).say(seen)
