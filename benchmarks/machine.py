"""What a run was made on and with, for those who read its figures later."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

_PROJECT = Path(__file__).parents[1]
_PACKAGES = (
    "Twisted",
    "autobahn",
    "klein",
    "orjson",
    "msgspec",
    "apsw",
    "grpcio",
    "protobuf",
    "confluent-kafka",
)


def describe() -> dict[str, str]:
    """Machine, system and versions."""
    import confluent_kafka  # noqa: PLC0415 - with the driver's library

    return {
        "processor": _processor(),
        "memory": _memory(),
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "raccoon": f"{version('raccoon-collector')}{_revision()}",
        **{name: version(name) for name in _PACKAGES},
        "librdkafka": confluent_kafka.libversion()[0],
        "Go": _said(["go", "env", "GOVERSION"]).removeprefix("go"),
    }


def command_line(arguments: Sequence[str]) -> str:
    """The command of this run, without the directories of this machine."""
    shown = [re.sub(r"(?<![\w:/])/\S*/", "", argument) for argument in arguments]
    quoted = (f"'{one}'" if re.search(r"[^\w=.:,/+-]", one) else one for one in shown)
    return " ".join(["python -m benchmarks", *quoted])


def _processor() -> str:
    found = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    return f"{found[0] if found else platform.machine()}, {len(found) or '?'} cores"


def _memory() -> str:
    found = re.search(r"^MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.M)
    return f"{int(found[1]) / 1e6:.0f} GB" if found else "?"


def _revision() -> str:
    commit = _said(["git", "-C", str(_PROJECT), "rev-parse", "--short", "HEAD"])
    if not commit:
        return ""
    changed = _said(["git", "-C", str(_PROJECT), "status", "--porcelain", "raccoon"])
    return f", commit {commit}" + (" with changes" if changed else "")


def _said(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return done.stdout.strip()
