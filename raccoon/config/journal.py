"""Options of the journal."""

from __future__ import annotations

import attrs

from raccoon.config.options import choice, integer, option, text


@attrs.frozen(kw_only=True)
class JournalSettings:
    """Journal: requests on local disk until they are delivered."""

    enabled: str = option(
        "JOURNAL_ENABLED",
        "auto",
        "whether to keep a journal (auto: only at EVENT_ACK=2); at EVENT_ACK=0 and 1 it keeps the"
        " requests that could not be delivered",
        choice("auto", "true", "false"),
    )
    dir: str = option(
        "JOURNAL_DIR", "raccoon-journal", "directory of the journal, on a local disk", text
    )
    max_bytes: int = option(
        "JOURNAL_MAX_BYTES",
        4 << 30,
        "disk space of waiting requests; beyond this, requests are refused until space is free",
        integer(8 << 20, 1 << 44),
    )
    dead_letters_max_bytes: int = option(
        "JOURNAL_DEAD_LETTERS_MAX_BYTES",
        1 << 30,
        "disk space of the dead letters; beyond this, undeliverable requests wait in the journal",
        integer(8 << 20, 1 << 44),
    )
    segment_bytes: int = option(
        "JOURNAL_SEGMENT_BYTES",
        32 << 20,
        "size of one journal file; disk space is freed, and damage set aside, file by file",
        integer(1 << 20, 1 << 30),
    )
    commit_delay_ms: int = option(
        "JOURNAL_COMMIT_DELAY_MS",
        5,
        "maximum wait of a commit for further requests, up to 48; the wait shrinks as load falls",
        integer(0, 1000),
    )
