"""Options of the log."""

from __future__ import annotations

import attrs

from raccoon.config.options import choice, option


@attrs.frozen(kw_only=True)
class LogSettings:
    """Raccoon's own log."""

    level: str = option(
        "LOG_LEVEL",
        "info",
        "debug, info, warn, error, fatal or panic",
        choice("debug", "info", "warn", "error", "fatal", "panic"),
    )
