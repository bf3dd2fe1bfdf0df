"""The journal's disk is full, or fails."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

from tests.integration.clients import CODECS, Client
from tests.integration.daemon import Daemon
from tests.integration.journal_case import JournalCase
from tests.integration.load import Load
from tests.integration.test_journal_crashes import strace
from tests.integration.torture import Progress, long_or_short
from tests.integration.waiting import wait_until

REFUSES_WITHIN = 0.05
SERVES_WITHIN = 2.0
_DISK_BYTES = 24 << 20
_SPACE = 1 << 19
_FILLER_BYTES = 8 << 20


class FullDiskTests(JournalCase):
    """A small file system of its own for the journal."""

    def mount(self) -> Path:
        """A directory on a disk that is soon full.

        Raises:
            AssertionError: it cannot be mounted.
        """
        directory = Path(self.mktemp()).absolute()
        directory.mkdir(parents=True)
        options = f"size={_DISK_BYTES}"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "raccoon-test", directory],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise AssertionError(f"a tmpfs cannot be mounted (be root): {done.stderr.strip()}")
        self.addCleanup(lambda: subprocess.run(["umount", "-l", directory], check=True))
        return directory

    def fill(self, client: Client, topic: str, acknowledged: list[bytes]) -> None:
        """Send until a request is refused, and then as often again: each refusal comes at once."""
        refused = number = 0
        slowest = 0.0
        while refused < 50:
            number += 1
            size = 20_000 if not refused else 200
            payload = f"{topic}/{len(acknowledged)}/{number}/".encode() + os.urandom(size)
            began = time.monotonic()
            answer = client.send(f"{number}", [(topic, payload)])
            took = time.monotonic() - began
            if answer.ok:
                acknowledged.append(payload)
            else:
                refused += 1
                slowest = max(slowest, took)
                self.assertIn("journal", answer.reason)
            self.assertLess(number, 5000)
        self.progress.say(f"slowest of {refused} refusals {slowest * 1000:.1f} ms")
        self.assertLess(slowest, REFUSES_WITHIN)

    def check_space(self, daemon: Daemon, client: Client, topic: str, got: list[bytes]) -> None:
        """From when there is space it takes requests again, within a time."""
        began = time.monotonic()
        while True:
            payload = f"{topic}/space/{len(got)}/{time.monotonic()}".encode()
            if client.send("space", [(topic, payload)]).ok:
                break
            self.assertLess(time.monotonic() - began, SERVES_WITHIN)
            time.sleep(0.01)
        got.append(payload)
        self.progress.say(f"serves {time.monotonic() - began:.2f} s after there is space")
        wait_until(lambda: not self.ready(daemon)[1].count("journal"), "nothing against it")

    def test_full(self) -> None:
        """A full disk refuses, keeps what it has through a kill and a restart, and goes on."""
        topic = "full"
        self.progress = Progress("disk full", 1)
        self.broker.create_topic(topic)
        disk = self.mount()
        filler = disk / "filler"
        filler.write_bytes(bytes(_FILLER_BYTES))
        daemon = self.start(
            JOURNAL_DIR=disk / "journal",
            JOURNAL_SEGMENT_BYTES=1 << 20,
            LOG_LEVEL="INFO",
        )
        acknowledged: list[bytes] = []
        self.broker.kill()
        try:
            self.reachable(daemon, False)
            with CODECS["websocket-binary"](daemon, "client") as client:
                self.fill(client, topic, acknowledged)
                self.assertFalse(self.ready(daemon)[0])
                self.assertIn("the disk is full", self.ready(daemon)[1])
                filler.unlink()
                self.check_space(daemon, client, topic, acknowledged)
                self.fill(client, topic, acknowledged)
            self.check_sum(daemon)
            daemon.crash()
            daemon.start()
            with CODECS["grpc"](daemon, "client") as client:
                self.fill(client, topic, acknowledged)
        finally:
            self.broker.start()
        self.reachable(daemon)
        wait_until(lambda: free(disk) > _SPACE, "space, as requests were delivered", 30)
        with CODECS["rest-json"](daemon, "client") as client:
            self.check_space(daemon, client, topic, acknowledged)
        self.settle(daemon)
        self.assertEqual(0, daemon.stop(), daemon.log())
        self.assertNotIn("Traceback", daemon.log())
        self.assertNotIn("damaged", daemon.log())
        stored = {payload for _, payload in self.broker.read([topic])}
        self.assertEqual(0, len(set(acknowledged) - stored), "acknowledged events are missing")


def free(disk: Path) -> int:
    """Bytes that can be written to it."""
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


class FailingDiskTests(JournalCase):
    """System calls of the running service that fail or kill it."""

    def test_sync_fails(self) -> None:
        """While fsync fails it acknowledges nothing and is not ready; then it goes on."""
        topic = "eio"
        self.broker.create_topic(topic)
        inject = "inject=fdatasync:error=EIO:when=30..40"
        under = strace("-o", "/dev/null", "-e", "trace=fdatasync", "-e", inject)
        daemon = Daemon(self.settings(), under=under)
        self.addCleanup(daemon.kill)
        self.broker.kill()
        try:
            daemon.start()
            child = daemon.child()
            self.addCleanup(end, child)
            self.reachable(daemon, False)
            load = Load(daemon, topic, 1, events=2)
            load.start()
            wait_until(lambda: load.refusals.total() > 100, "refusals", 20)
            self.assertIn("the journal cannot be written", next(iter(load.refusals)))
            reasons = self.ready(daemon)[1]
            self.assertIn("the journal cannot be written", reasons)
            acknowledged = load.requests()
            wait_until(lambda: load.requests() > acknowledged + 100, "acknowledgements again", 30)
            os.kill(child, signal.SIGKILL)
            daemon.wait()
            load.stop()
            self.assertIn("the journal can be written again", daemon.log())
        finally:
            self.broker.start()
        daemon.under = ()
        daemon.start()
        self.settle(daemon)
        self.assertEqual(0, daemon.stop(), daemon.log())
        # A commit whose fsync failed was refused, and may be on disk all the same.
        self.check_stored(topic, load.acknowledged, load.sent)
        self.assertNotIn("damaged", daemon.log())

    def test_killed_at_calls(self) -> None:
        """Killed at one of the journal's own calls it has lost nothing that it acknowledged."""
        topic = "killed-at-calls"
        self.broker.create_topic(topic)
        count = long_or_short(60, 3)
        progress = Progress("kill -9 at calls of the service", count)
        daemon = Daemon(self.settings(JOURNAL_SEGMENT_BYTES=1 << 20))
        self.addCleanup(daemon.kill)
        acknowledged, sent, killed_at = [], [], []
        for number in range(count):
            call = ("fdatasync", "pwrite64", "unlink")[number % 3]
            when = {"fdatasync": 15, "pwrite64": 90, "unlink": 1}[call] + number // 3 * 7
            inject = f"inject={call}:signal=KILL:when={when}"
            daemon.under = strace("-o", "/dev/null", "-e", f"trace={call}", "-e", inject)
            daemon.spawn()
            wait_until(lambda: daemon.ping() or not daemon.alive(), "a start, or its end", 30)
            load = Load(daemon, topic, 1, events=5, tag=f"{topic}/{number}")
            load.start()
            if call == "unlink" and daemon.alive():  # there may be few
                time.sleep(1)
                end(daemon.child())
            daemon.wait(60)
            killed_at.append(time.time())
            load.stop()
            acknowledged += load.acknowledged
            sent += load.sent
            progress.step(number + 1, f"at {call} {when}: {len(acknowledged)} events")
        daemon.under = ()
        daemon.start()
        self.settle(daemon)
        self.assertEqual(0, daemon.stop(), daemon.log())
        self.assertNotIn("damaged", daemon.log())
        self.assertNotIn("Traceback", daemon.log())
        progress.say(self.check_stored(topic, acknowledged, sent, killed_at))


def end(pid: int) -> None:
    """Kill a process that may be gone already."""
    try:
        if re.search("raccoon", Path(f"/proc/{pid}/cmdline").read_text()):
            os.kill(pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        pass
