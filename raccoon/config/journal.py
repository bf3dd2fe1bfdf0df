"""Options of the journal."""

from __future__ import annotations

import attrs

from raccoon.config.options import choice, integer, option, text


@attrs.frozen(kw_only=True)
class JournalSettings:
    """Requests on local disk until they are delivered."""

    enabled: str = option(
        "JOURNAL_ENABLED",
        "auto",
        "true, false, or auto: where EVENT_ACK is 2. With EVENT_ACK 0 and 1 it keeps what could"
        " not be delivered",
        choice("auto", "true", "false"),
    )
    dir: str = option(
        "JOURNAL_DIR", "raccoon-journal", "directory of the journal, on a local disk", text
    )
    max_bytes: int = option(
        "JOURNAL_MAX_BYTES",
        4 << 30,
        "of disk, dead letters included; past it requests are refused until there is room",
        integer(8 << 20, 1 << 44),
    )
    segment_bytes: int = option(
        "JOURNAL_SEGMENT_BYTES",
        32 << 20,
        "of a file of the journal; disk is given back and damage set aside file by file",
        integer(1 << 20, 1 << 30),
    )
    commit_delay_ms: int = option(
        "JOURNAL_COMMIT_DELAY_MS",
        5,
        "a commit waits up to this long, or until 48 requests share it: the busier, the longer",
        integer(0, 1000),
    )
