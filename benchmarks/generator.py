"""The load generator in Go: building it, and one measurement with it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.errors import BenchmarkError

PROJECT = Path(__file__).parents[1]
_SOURCE = Path(__file__).with_name("loadgen")
_BUILD_SECONDS = 600


def build() -> Path:
    """The program, built if it is not current.

    Raises:
        BenchmarkError: there is no Go, or its modules cannot be had.
    """
    if shutil.which("go") is None:
        raise BenchmarkError(
            "go is not installed; the load generator needs it (Go 1.22 or later, https://go.dev/dl)"
        )
    target = PROJECT / ".cache" / "loadgen"
    target.parent.mkdir(exist_ok=True)
    done = subprocess.run(
        ["go", "build", "-o", str(target), "."],
        cwd=_SOURCE,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_BUILD_SECONDS,
        check=False,
    )
    if done.returncode:
        raise BenchmarkError(f"the load generator was not built: {' '.join(done.stderr.split())}")
    return target


def generate(program: Path, flags: Mapping[str, object], timeout: float) -> dict[str, Any]:
    """What the program found; see benchmarks/loadgen for its flags.

    Raises:
        BenchmarkError: it failed, or did not end in `timeout` seconds.
    """
    return answer_of([str(program), *(f"-{name}={flags[name]}" for name in flags)], timeout)


def answer_of(command: Sequence[str], timeout: float) -> dict[str, Any]:
    """The JSON object that a command prints.

    Raises:
        BenchmarkError: it failed, or did not end in `timeout` seconds.
    """
    try:
        done = subprocess.run(
            command, cwd=PROJECT, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise BenchmarkError(f"did not end in {timeout:g} s: {' '.join(command)}") from None
    if done.returncode:
        raise BenchmarkError(done.stderr.strip().rpartition("\n")[2] or f"{command[0]} failed")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
