"""The power fails while the service answers: what it acknowledged by then is on disk."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.engines.ports import free_port
from tests.integration.clients import CODECS
from tests.integration.daemon import Daemon
from tests.integration.load import in_threads
from tests.integration.power import OPTIONS, Disk, traced
from tests.integration.test_journal_crashes import journal_records, strace
from tests.integration.torture import Progress, long_or_short

_GUID = re.compile(rb"power/[a-z-]+/\d+/")
_PAYLOAD_BYTES = 20_000
_REQUESTS = 40  # of each codec; in all some segments
_STEP = 10


class PowerFailureTests(SynchronousTestCase):
    """A service whose destination is away, so that what it acknowledged is in the journal alone."""

    def trace(self) -> tuple[Disk, Path]:
        """The disk before a run of the service, and the calls by which it changed that.

        Every client has all its requests acknowledged.
        """
        trace = Path(self.mktemp()).absolute()
        settings = {
            "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": f"127.0.0.1:{free_port()}",
            "EVENT_ACK": 2,
            "JOURNAL_SEGMENT_BYTES": 1 << 20,
        }
        daemon = Daemon(settings, under=strace("-o", str(trace), *OPTIONS))
        self.addCleanup(daemon.kill)
        disk = Disk(daemon.directory)
        daemon.start()
        service = daemon.child()
        codecs = list(CODECS)

        def send(index: int) -> None:
            codec = codecs[index]
            with CODECS[codec](daemon, codec) as client:
                for number in range(_REQUESTS):
                    guid = f"power/{codec}/{number}/"
                    answer = client.send(guid, [("click", os.urandom(_PAYLOAD_BYTES))])
                    self.assertTrue(answer.ok, answer)

        try:
            in_threads(send, len(codecs))
        finally:
            os.kill(service, signal.SIGKILL)
            daemon.wait()
        return disk, trace

    def test_answered(self) -> None:
        """Whenever the power fails, each request of which an answer was sent is there."""
        disk, trace = self.trace()
        total = _REQUESTS * len(CODECS)
        progress = Progress("power failures of the service", total)
        told: set[bytes] = set()
        checked = 0
        for call in traced(trace):
            disk.follow(call)
            if call.result is not None or call.name not in ("sendto", "sendmsg"):
                continue
            told.update(_GUID.findall(b"".join(call.strings)))
            if len(told) < min(checked + long_or_short(1, _STEP), total) or checked == total:
                continue
            checked = len(told)
            for seed in (None, checked):
                kept = set(self.left(disk, seed))
                self.assertEqual(set(), told - kept, f"lost after {checked} answers, seed {seed}")
            progress.step(checked, "nothing lost")
        self.assertEqual(total, checked)

    def left(self, disk: Disk, seed: int | None) -> Iterator[bytes]:
        """The guids in the journal when the power fails now."""
        left = Path(tempfile.mkdtemp(prefix="raccoon-power-")) / "disk"
        disk.fail(left, seed)
        for record in journal_records(left / "raccoon-journal"):
            yield from _GUID.findall(record.body[:1000])
        shutil.rmtree(left.parent)
