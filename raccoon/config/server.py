"""Options of the serving processes."""

from __future__ import annotations

import os
from typing import Any, cast

import attrs

from raccoon.config.options import integer, option

_MAX_WORKERS = 256


def _processes(value: Any) -> int:
    if str(value).strip().lower() == "auto":
        return len(os.sched_getaffinity(0))
    try:
        return cast(int, integer(1, _MAX_WORKERS)(value))
    except ValueError as error:
        raise ValueError(f"auto, or {error}") from None


@attrs.frozen(kw_only=True)
class ServerSettings:
    """Serving processes.

    Attributes:
        index: which of them this is, from 0; stays when one is replaced.
    """

    workers: int = option(
        "SERVER_WORKERS",
        1,
        "number of serving processes, each on a core of its own; auto: one for each core",
        _processes,
    )
    index: int = 0
