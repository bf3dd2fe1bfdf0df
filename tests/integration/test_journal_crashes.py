"""A journal whose process is killed, or whose power fails, at every step, and whose bits change."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from raccoon.journal.deadletters import DeadLetters
from raccoon.journal.files.record import Record
from raccoon.journal.files.segment import Segment
from raccoon.journal.files.store import Found, Store
from tests.integration.journal_process import SEGMENT_BYTES, make_record
from tests.integration.power import OPTIONS, Disk, traced
from tests.integration.torture import Progress, long_or_short
from tests.journal.fakes import StoreCase
from tests.journal.files.test_store import check_bit_flips

# All that changes a file or a directory, but for making one: the next of these comes after that.
CALLS = ("write", "pwrite64", "fsync", "fdatasync", "ftruncate", "unlink", "rename")
_CALL = re.compile(r"^\d+ +(\w+)\(")
_FAULT = 137  # killed by SIGKILL, as a shell would say
_STEP = 61
_POWER_STEP = 29
_FAILURES = 2  # after one call, beside the one that leaves nothing unsynced


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


def journal_records(directory: Path) -> list[Record]:
    """What waits in a journal, after a start that finds no damage.

    Raises:
        AssertionError: it does, or cannot read all.
    """

    def damaged(segment: Segment, why: str, saved: list[Found]) -> None:
        raise AssertionError(f"{segment.path.name} is damaged: {why}")

    store = Store(directory, SEGMENT_BYTES, damaged)
    store.open()
    try:
        recovered = store.recover()
        found, _ = store.read(-1, recovered.last, frozenset(), 1 << 30, 1 << 40)
        if store.unread or len(found) != recovered.requests:
            raise AssertionError(f"{len(found)} of {recovered.requests} requests can be read")
    finally:
        store.close()
    return [record for _, record in found]


class ProcessCase(SynchronousTestCase):
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

    def prepare(self) -> Path:
        """A journal that was closed once and killed once."""
        place = self.root / "prepared"
        place.mkdir()
        self.assertEqual(0, self.run_process(place, "first", []))
        kill = strace("-e", "trace=fdatasync", "-e", "inject=fdatasync:signal=KILL:when=25")
        self.assertNotEqual(0, self.run_process(place, "second", [*kill, "-o", "/dev/null"]))
        return place

    def check(self, place: Path) -> None:
        """Compare what waits in a journal with what its processes were told."""
        noted: dict[str, set[str]] = {sign: set() for sign in "+a-dl"}
        for line in (place / "ledger").read_text().splitlines():
            sign, _, name = line.partition(" ")
            noted[sign].add(name)
        found = journal_records(place / "journal")
        letters = DeadLetters(place / "journal")
        given_up = {letter.record.client for _, letter in letters.all()}
        letters.close()
        waiting = {record.client: record for record in found}
        self.assertEqual(len(waiting), len(found), "a request is there twice")
        self.assertEqual(set(), noted["a"] - noted["-"] - waiting.keys(), "lost")
        self.assertEqual(set(), noted["l"] - given_up, "a dead letter is lost")
        self.assertEqual(set(), noted["d"] & waiting.keys(), "delivered and comes again")
        self.assertEqual(set(), waiting.keys() - noted["+"], "never written")
        self.assertEqual([], [name for name, one in waiting.items() if one != make_record(name)])


class CrashTests(ProcessCase):
    """The process is killed; what it wrote is there."""

    def count_calls(self, prepared: Path) -> Counter[str]:
        """The calls of another run on this journal."""
        counted, trace = self.root / "counted", self.root / "trace"
        shutil.copytree(prepared, counted)
        options = ("-o", str(trace), "-e", f"trace={','.join(CALLS)}")
        self.assertEqual(0, self.run_process(counted, "third", strace(*options)))
        self.check(counted)
        called = map(_CALL.match, trace.read_text().splitlines())
        return Counter(call[1] for call in called if call is not None)

    def test_killed_at_every_call(self) -> None:
        """Killed before any of its writes, syncs, renames and removals, it loses nothing."""
        prepared = self.prepare()
        calls = self.count_calls(prepared)
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


class PowerTests(ProcessCase):
    """The power fails; of what was not synced anything may be there."""

    def test_first_run(self) -> None:
        """A journal that was not there before is there with all that was acknowledged."""
        place = self.root / "place"
        place.mkdir()
        self.check_power(place, "first")

    def test_later_run(self) -> None:
        """So is one that was recovered, with segments that are sealed and removed meanwhile."""
        self.check_power(self.prepare(), "third")

    def check_power(self, place: Path, run: str) -> None:
        """Let the power fail after each call of a run that changes something."""
        disk, trace = Disk(place), self.root / "trace"
        self.assertEqual(0, self.run_process(place, run, strace("-o", str(trace), *OPTIONS)))
        ended = [call for call in traced(trace) if call.name in CALLS and call.result is not None]
        progress = Progress(f"power failures in the {run} run", len(ended))
        done = 0
        for call in traced(trace):
            disk.follow(call)
            if call.name not in CALLS or call.result is None:
                continue
            done += 1
            if done % long_or_short(1, _POWER_STEP):
                continue
            for seed in (None, *range(done, done + _FAILURES)):
                self.start_after(disk, place, seed, f"after {call.name}, number {done}")
            progress.step(done, f"at {call.name}: nothing lost, every start went well")
        self.assertGreater(done, 300)

    def start_after(self, disk: Disk, place: Path, seed: int | None, what: str) -> None:
        """Start on what is left of the disk, twice."""
        left = self.root / "left"
        disk.fail(left, seed)
        # Its lines stand for what others know, whose power has not failed.
        (left / "ledger").write_bytes(disk.content(place / "ledger"))
        try:
            self.check(left)
            self.check(left)
        except Exception as error:
            raise AssertionError(f"power failure {what}, seed {seed}: {error}") from error
        shutil.rmtree(left)


class BitTests(StoreCase):
    """Bits in closed segments."""

    def test_bit_flips(self) -> None:
        """Each is found, costs at most its segment, and never a start."""
        count = long_or_short(1000, 20)
        seen = check_bit_flips(self, count, seed=1)
        Progress("bit flips", count).say(seen)
