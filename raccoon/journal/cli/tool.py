"""`raccoon-journal`: a look into a journal, and what becomes of its dead letters."""

from __future__ import annotations

import argparse
import base64
import os
import re
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import apsw
import orjson

from raccoon.config import JournalSettings
from raccoon.errors import RaccoonError
from raccoon.journal.cli.reading import Chosen, Part, oldest, parts_of, salvage, waiting
from raccoon.journal.deadletters import FILE, Letter
from raccoon.journal.files.body import UnreadableError, decode_body
from raccoon.journal.files.record import Record
from raccoon.journal.files.store import in_use, inspect
from raccoon.logs import escape
from raccoon.messages import Batch
from raccoon.payload import show

_DIRECTORY = "JOURNAL_DIR"
_REASONS_SHOWN = 10
_REASON_LENGTH = 300
_NAME_LENGTH = 60
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_SIZE_STEP = 1000

_DESCRIPTION = """\
Look into Raccoon's journal: the requests that wait on disk for their delivery, and the dead
letters, which can never be delivered and wait for you. Safe beside a running server."""

_EPILOG = f"""\
The directory is that of --dir, else of {_DIRECTORY} in the environment, else
./{JournalSettings().dir}. Where it has a journal in each of several sub-directories, all are gone
through, and letter 12 of worker-1 is called worker-1/12.

examples:
  raccoon-journal status                 how much waits, and for how long
  raccoon-journal list                   the dead letters
  raccoon-journal show 12                one of them, with its events
  raccoon-journal export > letters.jsonl
  raccoon-journal replay 12 13           once their topic exists, say
  raccoon-journal purge --all            when they are of no use to you

exit codes: 0 done, 1 it failed (standard error says why), 2 not a command of this kind"""


class UsageError(RaccoonError):
    """The command cannot be meant so."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has enough. Python would complain of the same at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 1
    except (RaccoonError, apsw.Error, OSError) as error:
        sys.stderr.write(f"raccoon-journal: {' '.join(str(error).split())}\n")
        return 2 if isinstance(error, UsageError) else 1
    return code


def _parser() -> argparse.ArgumentParser:
    directory = argparse.ArgumentParser(add_help=False)
    directory.add_argument(
        "--dir",
        metavar="DIR",
        type=Path,
        default=argparse.SUPPRESS,
        help=f"the journal's directory [default: {_DIRECTORY}, else ./{JournalSettings().dir}]",
    )
    parser = argparse.ArgumentParser(
        prog="raccoon-journal",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[directory],
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + ".", parents=[directory]
        )
        made.set_defaults(run=run)
        return made

    def numbers(of: argparse.ArgumentParser, count: str | None, what: str) -> None:
        of.add_argument("numbers", metavar="N", type=_label, nargs=count, help=what)

    command("status", _status, "say how much waits and how long, and count dead letters by reason")

    made = command("list", _list, "list the dead letters, one line each")
    made.add_argument("--waiting", action="store_true", help="the requests that wait, instead")

    made = command("show", _show, "show one dead letter in full, with what its events hold")
    numbers(made, None, "its number in `list`")

    made = command("export", _export, "write events to standard output as JSON, one a line")
    numbers(made, "*", "a dead letter's number in `list`; all where none is given")
    made.add_argument("--waiting", action="store_true", help="the requests that wait, instead")

    made = command("replay", _replay, "have the server send dead letters again")
    numbers(made, "*", "a dead letter's number in `list`")
    made.add_argument("--all", action="store_true", help="all of them")

    made = command("purge", _purge, "delete dead letters for good")
    numbers(made, "*", "a dead letter's number in `list`")
    made.add_argument("--all", action="store_true", help="all of them")
    made.add_argument("--yes", action="store_true", help="do not ask")

    made = command(
        "salvage",
        _salvage,
        "write what can be read of a segment's file, such as one set aside as *.damaged, to"
        " standard output as JSON, one event a line; some may have been delivered",
    )
    made.add_argument("file", metavar="FILE", type=Path, help="it is not changed")
    return parser


def _label(text: str) -> str:
    if not re.fullmatch(r"(.+/)?[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of `raccoon-journal list`")
    name, slash, number = text.rpartition("/")
    return f"{name}{slash}{int(number)}"


def _parts(options: argparse.Namespace) -> list[Part]:
    default = os.environ.get(_DIRECTORY) or JournalSettings().dir
    return parts_of(getattr(options, "dir", None) or Path(default))


def _status(options: argparse.Namespace) -> int:
    code = 0
    for number, part in enumerate(_parts(options)):
        if number:
            _say()
        code = max(code, _status_of(part))
    return code


def _status_of(part: Part) -> int:
    seen = inspect(part.directory)
    left = [segment.events[index] for segment in seen.segments for index in segment.waiting()]
    size = sum(segment.size for segment in seen.segments)
    running = in_use(part.directory)
    _say(f"journal       {part.directory}")
    _say(f"server        {'has it open' if running else 'none has it open'}")
    _say(f"segments      {len(seen.segments)}, {_size(size)}")
    line = f"{_many(len(left), 'request')} with {_many(sum(left), 'event')}"
    if left:
        first = oldest(seen)
        line += f", the oldest {_age(first)} old" if first is not None else ""
    _say(f"waiting       {line if left else 'nothing'}")
    with part.letters() as letters:
        total, marked = letters.count() if letters else (0, 0)
        reasons = letters.reasons() if letters else []
    again = f", {marked} of them to be sent again" if marked else ""
    _say(f"dead letters  {total or 'none'}{again}")
    for reason, count in reasons[:_REASONS_SHOWN]:
        _say(f"  {count:>10}  {escape(reason, _REASON_LENGTH)}")
    if len(reasons) > _REASONS_SHOWN:
        _say(f"  {'':>10}  and {len(reasons) - _REASONS_SHOWN} other reasons")
    for damaged in sorted(part.directory.glob("*.damaged")):
        letters_file = damaged.name.startswith(FILE)
        way = (
            f"sqlite3 {damaged} .recover" if letters_file else f"raccoon-journal salvage {damaged}"
        )
        _say(f"set aside     {damaged.name}: try `{way}`")
    for path, why in seen.unreadable:
        _say(f"unreadable    {path.name}: {escape(why)}")
    return 1 if seen.unreadable else 0


def _list(options: argparse.Namespace) -> int:
    parts = _parts(options)
    if options.waiting:
        _say(f"{'REQUEST':>12}  {'RECEIVED':<20}  {'AGE':>8}  {'EVENTS':>9}  CLIENT")
        for part in parts:
            for name, record in waiting(inspect(part.directory)):
                _say(
                    f"{part.label(name):>12}  {_time(record.received_at):<20}"
                    f"  {_age(record.received_at):>8}  {record.events:>9}  {_client(record)}"
                )
        return 0
    _say(f"{'LETTER':>12}  {'SINCE':<20}  {'AGE':>8}  {'EVENTS':>9}  {'GROUP':<12}  REASON")
    for label, letter in Chosen(parts, ()):
        record = letter.record
        events = f"{sum(letter.failed.values())} of {record.events}"
        _say(
            f"{label:>12}  {_time(letter.stored_at):<20}  {_age(letter.stored_at):>8}"
            f"  {events:>9}  {escape(record.group, _NAME_LENGTH) or '-':<12}"
            f"  {escape(letter.reason, _REASON_LENGTH)}"
        )
    return 0


def _show(options: argparse.Namespace) -> int:
    for label, letter in Chosen(_parts(options), [options.numbers]):
        record = letter.record
        failed = ", ".join(
            f"{count} {_type(kind)}" for kind, count in sorted(letter.failed.items())
        )
        _say(
            f"dead letter    {label}, {_age(letter.stored_at)} old, since {_time(letter.stored_at)}"
        )
        _say(f"reason         {escape(letter.reason)}")
        _say(f"not delivered  {failed}")
        _say(f"client         {_client(record)}")
        _say(f"received       {_time(record.received_at)}")
        size = f"{_many(record.events, 'event')}, {len(record.body)} bytes in the journal"
        try:
            batch = decode_body(record.form, record.body)
        except UnreadableError as error:
            _say(f"request        {size}")
            _say(f"it cannot be read: {error}: {escape(show(record.body)[1])}")
            continue
        _say(f"request        {escape(batch.guid)}, {size}")
        if batch.sent_time is not None:
            _say(f"sent           {_time(batch.sent_time)} by the client's clock")
        for index, (kind, payload) in enumerate(zip(batch.types, batch.payloads, strict=True)):
            count, all_of = letter.failed.get(kind, 0), batch.types.count(kind)
            outcome = "not delivered" if letter.includes(kind) else "delivered"
            if 0 < count < all_of:
                outcome = f"{count} of the {all_of} of this type were not delivered"
            form, text = show(payload)
            _say()
            _say(f"event {index}: {_type(kind)}, {_many(len(payload), 'byte')}, {form}: {outcome}")
            _say(f"  {escape(text)}")
    return 0


def _export(options: argparse.Namespace) -> int:
    if options.waiting and options.numbers:
        raise UsageError("export: --waiting takes no numbers")
    parts = _parts(options)
    if options.waiting:
        for part in parts:
            for _, record in waiting(inspect(part.directory)):
                _write(record)
        return 0
    for label, letter in Chosen(parts, options.numbers):
        _write(letter.record, label, letter)
    return 0


def _replay(options: argparse.Namespace) -> int:
    chosen = _one_or_all(options, "replay")
    for part, numbers in chosen.by_part():
        with part.letters() as letters:
            count = letters.mark_for_replay(numbers) if letters else 0
        where = f" of {part.name}" if part.name else ""
        when = (
            "the server sends them again within seconds"
            if in_use(part.directory)
            else "no server has this journal open: the next start sends them again"
        )
        _say(f"{_many(count, 'dead letter')}{where} marked{'; ' + when if count else ''}")
    return 0


def _purge(options: argparse.Namespace) -> int:
    chosen = _one_or_all(options, "purge")
    if not options.yes:
        if not sys.stdin.isatty():
            raise UsageError("purge: there is no terminal to ask at; --yes deletes without asking")
        sys.stdout.write(f"Delete {_many(chosen.count(), 'dead letter')} for good? [y/N] ")
        sys.stdout.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            _say("nothing was deleted")
            return 1
    count = 0
    for part, numbers in chosen.by_part():
        with part.letters() as letters:
            count += letters.remove(numbers) if letters else 0
    _say(f"{_many(count, 'dead letter')} deleted")
    return 0


def _salvage(options: argparse.Namespace) -> int:
    saved = salvage(options.file)
    for _, record in saved:
        _write(record)
    events = sum(record.events for _, record in saved)
    sys.stderr.write(
        f"{_many(len(saved), 'request')} with {_many(events, 'event')} could be read\n"
    )
    return 0


def _one_or_all(options: argparse.Namespace, command: str) -> Chosen:
    if bool(options.numbers) == options.all:
        raise UsageError(f"{command}: give the numbers of dead letters, or --all")
    return Chosen(_parts(options), options.numbers)


def _write(record: Record, label: str | None = None, letter: Letter | None = None) -> None:
    """One line of JSON for each event; a request that cannot be read is one event, whole."""
    batch: Batch | None = None
    types: Sequence[str | None] = [None]
    payloads = [record.body]
    with suppress(UnreadableError):
        batch = decode_body(record.form, record.body)
        types, payloads = batch.types, batch.payloads
    for index, (kind, payload) in enumerate(zip(types, payloads, strict=True)):
        line = {
            "letter": label,
            "type": kind,
            "payload": base64.b64encode(payload).decode(),
            "req_guid": batch.guid if batch else None,
            "index": index if batch else None,
            "conn_id": record.client,
            "conn_group": record.group,
            "received_at": record.received_at,
            "reason": letter.reason if letter else None,
            "failed": letter is not None and (kind is None or letter.includes(kind)),
        }
        _say(orjson.dumps(line).decode())


def _say(line: str = "") -> None:
    sys.stdout.write(line + "\n")


def _client(record: Record) -> str:
    parts = (("id", record.client), ("group", record.group))
    return (
        " ".join(f"{name}={escape(value, _NAME_LENGTH)}" for name, value in parts if value) or "-"
    )


def _type(kind: str) -> str:
    return escape(kind) or "without a type"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g} s"  # a client's clock says what it will


def _age(since: float) -> str:
    seconds = max(time.time() - since, 0)
    for step, unit in ((_DAY, "days"), (_HOUR, "h"), (_MINUTE, "min")):
        if seconds >= 2 * step:
            return f"{seconds / step:.0f} {unit}"
    return f"{seconds:.0f} s"


def _size(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < _SIZE_STEP:
            return f"{count:.0f} {unit}"
        count /= _SIZE_STEP
    return f"{count:.1f} GB"


if __name__ == "__main__":
    sys.exit(main())
