"""What ends a run of the benchmark."""

from __future__ import annotations


class BenchmarkError(Exception):
    """The benchmark cannot go on; the message is one line."""
