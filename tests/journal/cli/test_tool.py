"""Tests of raccoon.journal.cli.tool."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from twisted.trial.unittest import SynchronousTestCase

from raccoon.journal.cli.tool import main
from raccoon.journal.deadletters import DeadLetters, Letter
from raccoon.journal.files.body import MESSAGEPACK, encode_body
from raccoon.journal.files.record import Record, encode
from raccoon.journal.files.store import Store
from raccoon.messages import Batch

HOUR = 3600


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """What it wrote, line by line."""
        return self.out.splitlines()


class Terminal(io.StringIO):
    """Somebody at a terminal, who types the text."""

    def isatty(self) -> bool:
        return True


def make_record(
    guid: str = "guid",
    events: Sequence[tuple[str, bytes]] = (("click", b'{"a":1}'),),
    *,
    group: str = "web",
    received_at: float = 0.0,
    sent_time: float | None = None,
) -> Record:
    """A request as the journal has it."""
    batch = Batch(guid, sent_time, [kind for kind, _ in events], [data for _, data in events])
    return Record("me", group, received_at, len(events), MESSAGEPACK, encode_body(batch))


class ToolCase(SynchronousTestCase):
    """A journal that a server has open, with dead letters."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.store = self.open(self.directory)
        self.letters = self.letters_of(self.directory)

    def open(self, directory: Path) -> Store:
        store = Store(directory, 1 << 20, lambda *_: None)
        store.open()
        store.recover()
        store.carry()
        self.addCleanup(store.close)
        return store

    def letters_of(self, directory: Path) -> DeadLetters:
        letters = DeadLetters(directory)
        self.addCleanup(letters.close)
        return letters

    def bury(
        self,
        record: Record,
        failed: Mapping[str, int],
        reason: str = "topic click does not exist",
        ago: float = 0.0,
    ) -> None:
        self.letters.add([Letter(time.time() - ago, reason, failed, record)])

    def write(self, *records: Record) -> list[int]:
        first = self.store.write([(encode(record), record.events) for record in records], ())
        return list(range(first, first + len(records)))

    def run_tool(self, *argv: str, directory: Path | None = None, typed: str | None = None) -> Ran:
        stdin = io.StringIO() if typed is None else Terminal(typed)
        self.patch(__import__("sys"), "stdin", stdin)
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = main(["--dir", str(directory or self.directory), *argv])
            except SystemExit as ended:
                code = int(ended.code or 0)
        return Ran(code, out.getvalue(), err.getvalue())

    def refused(self, code: int, words: str, *argv: str, directory: Path | None = None) -> None:
        """The command fails with a code and one line of words, and writes nothing else."""
        ran = self.run_tool(*argv, directory=directory)
        self.assertEqual((code, ""), (ran.code, ran.out))
        line = ran.err.splitlines()[-1]
        self.assertIn(words, line)
        self.assertTrue(line.startswith("raccoon-journal"), line)
        if code == 1:
            self.assertEqual(1, len(ran.err.splitlines()))

    def exported(self, *argv: str) -> list[dict[str, Any]]:
        ran = self.run_tool("export", *argv)
        self.assertEqual((0, ""), (ran.code, ran.err))
        return [json.loads(line) for line in ran.lines]

    def marked(self) -> list[int]:
        return [number for number, _ in self.letters.to_replay(100)]


class StatusTests(ToolCase):
    """The state of a journal."""

    def status(self, directory: Path | None = None) -> dict[str, str]:
        ran = self.run_tool("status", directory=directory)
        self.assertEqual((0, ""), (ran.code, ran.err))
        return {line[:13].strip(): line[13:].strip() for line in ran.lines if line[0] != " "}

    def test_running(self) -> None:
        """What waits is counted without what was delivered, beside the server that has it."""
        old = make_record(events=[("a", b"")] * 3, received_at=time.time() - 5 * HOUR)
        positions = self.write(make_record(), old, make_record(received_at=time.time()))
        self.store.write([], positions[:1])
        said = self.status()
        self.assertEqual(str(self.directory), said["journal"])
        self.assertEqual("has it open", said["server"])
        self.assertEqual("2 requests with 4 events, the oldest 5 h old", said["waiting"])
        self.assertRegex(said["segments"], r"^1, \d+ kB$")
        self.assertEqual("none", said["dead letters"])

    def test_stopped(self) -> None:
        """After the server's end it says so; nothing waits."""
        self.store.close()
        said = self.status()
        self.assertEqual("none has it open", said["server"])
        self.assertEqual("nothing", said["waiting"])
        self.assertEqual("0, 0 bytes", said["segments"])

    def test_dead_letters_by_reason(self) -> None:
        """Dead letters are counted by reason, the most frequent first."""
        self.bury(make_record(), {"click": 1}, "too large")
        for _ in range(2):
            self.bury(make_record(), {"click": 1}, "no\ntopic")
        self.letters.mark_for_replay([1])
        lines = self.run_tool("status").lines
        at = next(i for i, line in enumerate(lines) if line.startswith("dead letters"))
        self.assertEqual("dead letters  3, 1 of them to be sent again", lines[at])
        self.assertEqual(
            [["2", "no\\ntopic"], ["1", "too large"]],
            [line.split(maxsplit=1) for line in lines[at + 1 :]],
        )

    def test_many_reasons(self) -> None:
        """Ten reasons are shown, and how many more there are."""
        for number in range(13):
            self.bury(make_record(), {"click": 1}, f"reason {number}")
        self.assertIn("and 3 other reasons", self.run_tool("status").lines[-1])

    def test_damage(self) -> None:
        """Files set aside are named with what to do; an unreadable one fails the command."""
        (self.directory / "0000000007.journal.damaged").touch()
        self.assertIn("salvage", self.status()["set aside"])
        (self.directory / "0000000008.journal").write_bytes(b"noise" * 100_000)
        ran = self.run_tool("status")
        self.assertEqual(1, ran.code)
        self.assertIn("unreadable    0000000008.journal", ran.out)

    def test_where(self) -> None:
        """The directory is that of --dir, else of the environment, else the default's."""
        self.patch(os, "environ", {"JOURNAL_DIR": str(self.directory)})
        out = io.StringIO()
        with redirect_stdout(out):
            self.assertEqual(0, main(["status"]))
        self.assertIn(str(self.directory), out.getvalue())
        other = Path(self.mktemp())
        self.open(other)
        with redirect_stdout(out):
            self.assertEqual(0, main(["status", "--dir", str(other)]))
        self.assertIn(str(other), out.getvalue())
        self.patch(os, "environ", {})
        err = io.StringIO()
        with redirect_stderr(err):
            self.assertEqual(1, main(["status"]))
        self.assertIn("raccoon-journal: there is no such directory", err.getvalue())

    def test_not_a_journal(self) -> None:
        """Another directory is refused, and nothing is made there."""
        other = Path(self.mktemp())
        self.refused(1, "no such directory", "status", directory=other)
        other.mkdir()
        for command in (["status"], ["list"], ["replay", "--all"], ["export"], ["show", "1"]):
            self.refused(1, "not a journal", *command, directory=other)
        self.assertEqual([], list(other.iterdir()))

    def test_broken_file(self) -> None:
        """A file of dead letters that is none is one line of words."""
        other = Path(self.mktemp())
        other.mkdir()
        (other / "dead-letters.db").write_bytes(b"noise" * 1000)
        self.refused(1, "not a database", "replay", "--all", directory=other)

    def test_usage(self) -> None:
        """What is no command ends with 2."""
        self.refused(2, "required: COMMAND")
        self.refused(2, "invalid choice", "frobnicate")
        self.refused(2, "is not a number", "show", "one")

    def test_workers(self) -> None:
        """Journals in sub-directories are gone through, each with its name."""
        above = Path(self.mktemp())
        for name in ("worker-0", "worker-1"):
            self.open(above / name)
            self.letters_of(above / name).add([Letter(0.0, name, {"click": 1}, make_record())])
        self.open(above / "worker-2")
        ran = self.run_tool("status", directory=above)
        self.assertEqual(3, sum(line.startswith("journal ") for line in ran.lines))
        ran = self.run_tool("list", directory=above)
        self.assertEqual(["worker-0/1", "worker-1/1"], [row.split()[0] for row in ran.lines[1:]])
        self.refused(1, "no dead letter 1 ", "show", "1", directory=above)
        ran = self.run_tool("purge", "worker-1/1", "--yes", directory=above)
        self.assertEqual("1 dead letter deleted\n", ran.out)
        ran = self.run_tool("replay", "--all", directory=above)
        self.assertEqual(3, len(ran.lines))
        self.assertIn("1 dead letter of worker-0 marked; the server sends", ran.lines[0])
        self.assertEqual("0 dead letters of worker-1 marked", ran.lines[1])


class ListTests(ToolCase):
    """One line each."""

    def test_letters(self) -> None:
        """A dead letter is a line of number, time, age, events, group and reason."""
        self.bury(make_record(events=[("a", b"")] * 3), {"a": 2}, "too large", ago=HOUR * 3)
        self.bury(make_record(group="\x1b[31m"), {"click": 1}, "a\nb")
        header, first, second = self.run_tool("list").lines
        self.assertEqual(["LETTER", "SINCE", "AGE", "EVENTS", "GROUP", "REASON"], header.split())
        self.assertRegex(
            first, r"^ +1  \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ +3 h +2 of 3  web  +too large$"
        )
        self.assertIn("\\x1b[31m", second)
        self.assertTrue(second.endswith("  a\\nb"))

    def test_waiting(self) -> None:
        """A request that waits is a line too."""
        self.write(make_record(received_at=time.time() - 120), make_record())
        lines = self.run_tool("list", "--waiting").lines
        self.assertEqual(3, len(lines))
        self.assertRegex(lines[1], r"^ +1:0  .* +2 min +1  id=me group=web$")
        self.assertRegex(lines[2], r"^ +1:1  1970-01-01T00:00:00Z ")


class ShowTests(ToolCase):
    """One letter in full."""

    def test_events(self) -> None:
        """Each event is shown with type, size, form, outcome and content."""
        record = make_record(
            "7f1c",
            [("click", b'{"a": 1}'), ("page", b"\x08\x05"), ("", b"\xff\x00")],
            sent_time=1_700_000_000,
        )
        self.bury(record, {"click": 1}, "topic click does not exist")
        out = self.run_tool("show", "1").out
        self.assertIn("reason         topic click does not exist\n", out)
        self.assertIn("not delivered  1 click\n", out)
        self.assertIn("client         id=me group=web\n", out)
        self.assertIn(f"7f1c, 3 events, {len(record.body)} bytes in the journal\n", out)
        self.assertIn("sent           2023-11-14T22:13:20Z", out)
        self.assertIn('event 0: click, 8 bytes, json: not delivered\n  {"a":1}\n', out)
        self.assertIn("event 1: page, 2 bytes, protobuf: delivered\n  {1: 5}\n", out)
        self.assertIn("event 2: without a type, 2 bytes, hex: delivered\n  ff00\n", out)

    def test_some_of_a_type(self) -> None:
        """Where only some events of a type failed, it says how many."""
        self.bury(make_record(events=[("click", b""), ("click", b"")]), {"click": 1})
        self.assertIn("1 of the 2 of this type were not delivered", self.run_tool("show", "1").out)

    def test_undecodable(self) -> None:
        """A request that cannot be read is shown as bytes, and why is said."""
        self.bury(make_record()._replace(body=b"\x94\xa1\xff"), {"": 1}, "not a request")
        ran = self.run_tool("show", "1")
        self.assertEqual(0, ran.code)
        self.assertRegex(ran.out, r"(?m)^it cannot be read: .+")  # the rest is msgspec's
        self.assertIn(": 94a1ff\n", ran.out)

    def test_wild_clock(self) -> None:
        """A client's impossible time is shown as the number it is."""
        self.bury(make_record(sent_time=float(1 << 60)), {"click": 1})
        self.assertIn("sent           1.15292e+18 s", self.run_tool("show", "1").out)

    def test_missing(self) -> None:
        """A number that is not there is an error."""
        self.refused(1, "no dead letter 5", "show", "5")


class ExportTests(ToolCase):
    """JSON, one event a line."""

    def test_letters(self) -> None:
        """Every event of every letter has its line, whether it failed or not."""
        self.bury(
            make_record("g1", [("click", b"\xff\x00"), ("page", b"{}")], received_at=12.5),
            {"click": 1},
            "too large",
        )
        self.bury(make_record("g2", [("click", b"x")]), {"click": 1})
        first, second, third = self.exported()
        self.assertEqual(
            {
                "letter": "1",
                "type": "click",
                "payload": "/wA=",
                "req_guid": "g1",
                "index": 0,
                "conn_id": "me",
                "conn_group": "web",
                "received_at": 12.5,
                "reason": "too large",
                "failed": True,
            },
            first,
        )
        self.assertEqual((1, "page", False), (second["index"], second["type"], second["failed"]))
        self.assertEqual(
            ("2", "g2", "eA=="), (third["letter"], third["req_guid"], third["payload"])
        )
        self.assertEqual(["g2"], [line["req_guid"] for line in self.exported("2")])

    def test_waiting(self) -> None:
        """What waits has no letter, no reason and did not fail."""
        positions = self.write(make_record("g1"), make_record("g2", [("a", b"1"), ("b", b"2")]))
        self.bury(make_record("letter"), {"click": 1})
        self.store.write([], positions[:1])
        lines = self.exported("--waiting")
        self.assertEqual(
            [("g2", 0, "a", None, None, False), ("g2", 1, "b", None, None, False)],
            [
                (
                    line["req_guid"],
                    line["index"],
                    line["type"],
                    line["letter"],
                    line["reason"],
                    line["failed"],
                )
                for line in lines
            ],
        )

    def test_large_requests(self) -> None:
        """What a server accepted under any limits is exported."""
        events = [("a/b c", b"")] * 20_000
        self.bury(make_record("g" * 5000, events), {"a/b c": 1})
        self.assertEqual(20_000, len(self.exported()))

    def test_undecodable(self) -> None:
        """A request that cannot be read is one line with all its bytes; the others follow."""
        self.bury(make_record()._replace(body=b"\x94\xa1\xff"), {"": 3})
        self.bury(make_record("next"), {"click": 1})
        line, following = self.exported()
        self.assertEqual("next", following["req_guid"])
        self.assertEqual(
            (None, "lKH/", None, True),
            tuple(line[key] for key in ("type", "payload", "index", "failed")),
        )

    def test_usage(self) -> None:
        """Numbers are those of letters, not of what waits."""
        self.refused(2, "takes no numbers", "export", "--waiting", "1")


class ReplayTests(ToolCase):
    """Letters that are sent again."""

    def setUp(self) -> None:
        super().setUp()
        for _ in range(3):
            self.bury(make_record(), {"click": 1})

    def test_some(self) -> None:
        """Those that are named are marked, and the running server is told of."""
        ran = self.run_tool("replay", "1", "3", "3")
        self.assertEqual(0, ran.code)
        self.assertEqual(
            "2 dead letters marked; the server sends them again within seconds\n", ran.out
        )
        self.assertEqual([1, 3], self.marked())

    def test_all(self) -> None:
        """With --all each is marked; without a server the next start is told of."""
        self.store.close()
        ran = self.run_tool("replay", "--all")
        self.assertIn("3 dead letters marked; no server has this journal open", ran.out)
        self.assertEqual([1, 2, 3], self.marked())

    def test_missing(self) -> None:
        """Where one is not there, none is marked."""
        self.refused(1, "no dead letter 4, 9 ", "replay", "1", "4", "9")
        self.assertEqual([], self.marked())

    def test_usage(self) -> None:
        """Neither none nor both of numbers and --all."""
        self.refused(2, "numbers of dead letters, or --all", "replay")
        self.refused(2, "numbers of dead letters, or --all", "replay", "1", "--all")
        self.assertEqual([], self.marked())


class PurgeTests(ToolCase):
    """Letters that are deleted."""

    def setUp(self) -> None:
        super().setUp()
        for _ in range(3):
            self.bury(make_record(), {"click": 1})

    def left(self) -> list[int]:
        return [number for number, _ in self.letters.all()]

    def test_confirmed(self) -> None:
        """At a terminal it asks, and deletes what was confirmed."""
        ran = self.run_tool("purge", "1", "2", typed="y\n")
        self.assertEqual(0, ran.code)
        self.assertIn("Delete 2 dead letters for good? [y/N] 2 dead letters deleted", ran.out)
        self.assertEqual([3], self.left())

    def test_not_confirmed(self) -> None:
        """Anything but yes deletes nothing."""
        for typed in ("n\n", "\n", "", "maybe\n"):
            ran = self.run_tool("purge", "--all", typed=typed)
            self.assertEqual(1, ran.code)
            self.assertIn("Delete 3 dead letters", ran.out)
            self.assertIn("nothing was deleted", ran.out)
        self.assertEqual([1, 2, 3], self.left())

    def test_no_terminal(self) -> None:
        """Without a terminal it refuses, unless --yes is given."""
        self.refused(2, "no terminal", "purge", "--all")
        self.assertEqual([1, 2, 3], self.left())
        ran = self.run_tool("purge", "--all", "--yes")
        self.assertEqual((0, "3 dead letters deleted\n"), (ran.code, ran.out))
        self.assertEqual([], self.left())

    def test_missing(self) -> None:
        """Where one is not there, none is deleted."""
        self.refused(1, "no dead letter 4", "purge", "1", "4", "--yes")
        self.assertEqual([1, 2, 3], self.left())

    def test_usage(self) -> None:
        """Neither none nor both of numbers and --all."""
        self.refused(2, "numbers of dead letters, or --all", "purge", "--yes")
        self.refused(2, "numbers of dead letters, or --all", "purge", "1", "--all", "--yes")
        self.assertEqual([1, 2, 3], self.left())


class SalvageTests(ToolCase):
    """What is left of a file."""

    def test_file(self) -> None:
        """What can be read goes to standard output, how much that is to standard error."""
        self.write(make_record("g1", [("a", b"1"), ("b", b"2")]))
        self.store.reopen()
        self.store.tidy()
        aside = self.directory / "0000000001.journal.damaged"
        (self.directory / "0000000001.journal").rename(aside)
        ran = self.run_tool("salvage", str(aside))
        self.assertEqual(0, ran.code)
        self.assertEqual(["MQ==", "Mg=="], [json.loads(line)["payload"] for line in ran.lines])
        self.assertEqual("1 request with 2 events could be read\n", ran.err)

    def test_nothing(self) -> None:
        """A file without a request, or none, is one line of words."""
        self.refused(1, "No such file", "salvage", str(self.directory / "none"))
        self.refused(1, "no request could be read", "salvage", str(self.directory / "lock"))
