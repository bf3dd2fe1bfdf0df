"""Options of the log."""

from __future__ import annotations

import attrs

from raccoon.config.options import choice, option


@attrs.frozen(kw_only=True)
class LogSettings:
    """Log of Raccoon itself."""

    level: str = option(
        "LOG_LEVEL",
        "info",
        "lowest level that is logged",
        choice("debug", "info", "warn", "error", "fatal", "panic"),
    )
