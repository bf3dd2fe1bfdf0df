"""What a disk holds when the power fails, worked out from the system calls of a process.

POSIX promises of a file what was written before an fsync of it, and of a name what was done before
an fsync of its directory. Of all else anything may be there: here each sector of a write, and each
truncation and each change of a name is or is not.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Generic, NamedTuple, TypeVar

# All by which Python and SQLite change files and directories, or tell others of what they did.
_FOLLOWED = re.compile(
    "openat|close|write|pwrite64|fsync|fdatasync|ftruncate|unlink|rename|mkdir|sendto|sendmsg|execve"
)
# Would change files in ways that are not followed here.
_OTHERS = (
    "open|creat|writev|pwritev2?|fallocate|truncate|unlinkat|renameat2?|mkdirat|rmdir|link|linkat"
    "|sync_file_range|copy_file_range|sync|syncfs"
)
# For strace, whose trace `traced` reads.
OPTIONS = ("-xx", "-s", str(1 << 24), "-e", f"trace=/^({_FOLLOWED.pattern}|{_OTHERS})$")

_SECTOR = 512
# How likely it is, in one failure, that a change is left that was not synced.
_LIKELY = (0.1, 0.5, 0.9, 1.0)

State = TypeVar("State")
Change = TypeVar("Change")

_LINE = re.compile(r"^(\d+) +(\w+)\((.*?)(?:\)\s+= (-?\d+)[^\"]*| <unfinished \.\.\.>)$")
_RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>.*\)\s+= (-?\d+)[^\"]*$")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


class Call(NamedTuple):
    """A system call, when it begins or when it has ended.

    Attributes:
        name: of it.
        arguments: as strace shows them, but for strings.
        strings: those among the arguments, in order.
        result: what it gave; None when it begins.
    """

    name: str
    arguments: list[str]
    strings: list[bytes]
    result: int | None

    @property
    def path(self) -> Path:
        """The first string as a path."""
        return Path(os.fsdecode(self.strings[0]))


def traced(trace: Path) -> Iterator[Call]:
    """What a trace by strace with `OPTIONS` shows, each call twice: its begin and its end.

    Raises:
        AssertionError: a line is not understood, or a call is not followed here.
    """
    begun: dict[str, Call] = {}
    for line in trace.read_text().splitlines():
        if match := _LINE.match(line):
            thread, name, arguments, result = match.groups()
            if not _FOLLOWED.fullmatch(name) and result != "-1":
                raise AssertionError(f"{name} is not followed")
            strings = [bytes.fromhex(one.replace("\\x", "")) for one in _STRING.findall(arguments)]
            call = Call(name, _STRING.sub('""', arguments).split(", "), strings, None)
            yield call
            if result is None:
                begun[thread] = call
            else:
                yield call._replace(result=int(result))
        elif match := _RESUMED.match(line):
            thread, name, result = match.groups()
            call = begun.pop(thread)
            assert call.name == name, line[:200]
            yield call._replace(result=int(result))
        elif not line.endswith(("+++", "---", "= ?", "???( <unfinished ...>")):  # it was killed
            raise AssertionError(f"strace said {line[:200]!r}")


class _Node(Generic[State, Change]):
    """A state on disk, and what was done to it since it was last synced."""

    def __init__(self, synced: State) -> None:
        self.synced = synced
        self.changes: list[Change] = []
        self._settled = 0  # how many changes there were before those

    @property
    def changed(self) -> int:
        """How many changes there were in all."""
        return self._settled + len(self.changes)

    def sync(self, upto: int) -> None:
        """All but what came after so many changes is on disk."""
        count = max(upto - self._settled, 0)
        self.synced = self._after(self.changes[:count])
        del self.changes[:count]
        self._settled += count

    def _after(self, changes: list[Change]) -> State:
        raise NotImplementedError


class _File(_Node[bytes, tuple[int, bytes | None]]):
    """Bytes. A change is an offset with what was written, or None: cut off there."""

    def __init__(self, synced: bytes = b"") -> None:
        super().__init__(synced)
        self.size = len(synced)

    def write(self, offset: int, data: bytes) -> None:
        self.changes.append((offset, data))
        self.size = max(self.size, offset + len(data))

    def truncate(self, size: int) -> None:
        self.changes.append((size, None))
        self.size = size

    def content(self) -> bytes:
        """As the process sees it."""
        return self._after(self.changes)

    def left(self, source: Random | None) -> bytes:
        """After a power failure; without a source nothing unsynced is left."""
        if source is None or not self.changes:
            return self.synced
        likely = source.choice(_LIKELY)
        survived: list[tuple[int, bytes | None]] = []
        for offset, data in self.changes:
            if data is None:
                if source.random() < likely:
                    survived.append((offset, None))
                continue
            start = 0
            while start < len(data):
                end = start + _SECTOR - (offset + start) % _SECTOR
                if source.random() < likely:
                    survived.append((offset + start, data[start:end]))
                start = end
        return self._after(survived)

    def _after(self, changes: list[tuple[int, bytes | None]]) -> bytes:
        content = bytearray(self.synced)
        for offset, data in changes:
            if len(content) < offset:
                content.extend(bytes(offset - len(content)))
            if data is None:
                del content[offset:]
            else:
                content[offset : offset + len(data)] = data
        return bytes(content)


class _Directory(_Node["Names", "Renames"]):
    """Names. A change is what they stand for from then on, or None: removed."""

    def __init__(self) -> None:
        super().__init__({})
        self.names: Names = {}

    def change(self, names: Renames) -> None:
        self.changes.append(names)
        self.names = _renamed(self.names, names)

    def left(self, source: Random | None) -> Names:
        """After a power failure; without a source nothing unsynced is left."""
        if source is None:
            return self.synced
        likely = source.choice(_LIKELY)
        return self._after([change for change in self.changes if source.random() < likely])

    def _after(self, changes: list[Renames]) -> Names:
        names = self.synced
        for change in changes:
            names = _renamed(names, change)
        return names


Names = dict[str, _File | _Directory]
Renames = dict[str, _File | _Directory | None]


def _renamed(names: Names, change: Renames) -> Names:
    return {name: one for name, one in (names | change).items() if one is not None}


class _Open:
    """A file that the process has open, or a directory."""

    def __init__(self, node: _File | _Directory, append: bool) -> None:
        self.node = node
        self.append = append
        self.offset = 0


class Disk:
    """All below one directory, as a process changes it.

    Args:
        root: the directory; what is there is on disk. Paths that are not absolute are taken to be
            from here.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._top = _read(root)
        self._open: dict[int, _Open] = {}
        self._syncing: dict[int, tuple[_File | _Directory, int]] = {}
        self._programs = 0

    def follow(self, call: Call) -> None:
        """The process has come so far.

        Raises:
            AssertionError: it runs another program, whose files would be taken for its own.
        """
        if call.result is None:
            self._begin(call)
        elif call.result >= 0:
            self._end(call, call.result)

    def content(self, path: Path) -> bytes:
        """A file as the process sees it."""
        file = self._find(path)
        assert isinstance(file, _File)
        return file.content()

    def fail(self, target: Path, seed: int | None) -> None:
        """Make a directory that holds what is left when the power fails now.

        Args:
            target: the directory to make.
            seed: of the choice of what is left that was not synced; None: nothing is.
        """
        _write(self._top, target, None if seed is None else Random(seed))

    def _begin(self, call: Call) -> None:
        if call.name not in ("write", "pwrite64", "ftruncate", "fsync", "fdatasync", "close"):
            return
        number = int(call.arguments[0])
        opened = self._open.get(number)
        if opened is None:
            return
        node = opened.node
        if call.name == "close":
            del self._open[number]
        elif call.name in ("fsync", "fdatasync"):
            self._syncing[number] = (node, node.changed)
        elif isinstance(node, _File):
            if call.name == "ftruncate":
                node.truncate(int(call.arguments[1]))
            elif call.name == "pwrite64":
                node.write(int(call.arguments[3]), call.strings[0])
            else:
                offset = node.size if opened.append else opened.offset
                node.write(offset, call.strings[0])
                opened.offset = offset + len(call.strings[0])

    def _end(self, call: Call, result: int) -> None:
        if call.name == "execve":
            self._programs += 1
            assert self._programs == 1, "another program runs"
        elif call.name in ("fsync", "fdatasync"):
            node, upto = self._syncing.pop(int(call.arguments[0]), (None, 0))
            if node is not None:
                node.sync(upto)
        elif call.name in ("openat", "unlink", "rename", "mkdir"):
            path = self._root / call.path
            if not path.is_relative_to(self._root):
                return
            if call.name == "openat":
                self._opened(path, call.arguments[2], result)
                return
            parent = self._parent(path)
            if call.name == "unlink":
                parent.change({path.name: None})
            elif call.name == "mkdir":
                parent.change({path.name: _Directory()})
            else:
                to = self._root / os.fsdecode(call.strings[1])
                assert to.parent == path.parent, "a rename between directories is not followed"
                parent.change({path.name: None, to.name: parent.names[path.name]})

    def _opened(self, path: Path, flags: str, number: int) -> None:
        node = self._top if path == self._root else self._parent(path).names.get(path.name)
        if node is None:
            assert "O_CREAT" in flags, path
            node = _File()
            self._parent(path).change({path.name: node})
        elif "O_TRUNC" in flags and isinstance(node, _File):
            node.truncate(0)
        self._open[number] = _Open(node, "O_APPEND" in flags)

    def _find(self, path: Path) -> _File | _Directory:
        node: _File | _Directory = self._top
        for name in path.relative_to(self._root).parts:
            assert isinstance(node, _Directory)
            node = node.names[name]
        return node

    def _parent(self, path: Path) -> _Directory:
        parent = self._find(path.parent)
        assert isinstance(parent, _Directory)
        return parent


def _read(path: Path) -> _Directory:
    directory = _Directory()
    for one in path.iterdir():
        directory.names[one.name] = _read(one) if one.is_dir() else _File(one.read_bytes())
    directory.synced = dict(directory.names)
    return directory


def _write(directory: _Directory, target: Path, source: Random | None) -> None:
    target.mkdir()
    for name, node in directory.left(source).items():
        if isinstance(node, _Directory):
            _write(node, target / name, source)
        else:
            (target / name).write_bytes(node.left(source))
