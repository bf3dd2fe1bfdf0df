"""Options of cross-origin requests."""

from __future__ import annotations

import attrs

from raccoon.config.options import boolean, integer, listing, option


@attrs.frozen(kw_only=True)
class CorsSettings:
    """Cross-origin requests (CORS)."""

    enabled: bool = option("SERVER_CORS_ENABLED", False, "answer cross-origin requests", boolean)
    allowed_origin: tuple[str, ...] = option(
        "SERVER_CORS_ALLOWED_ORIGIN", (), "allowed origins, or * for all", listing
    )
    allowed_methods: tuple[str, ...] = option(
        "SERVER_CORS_ALLOWED_METHODS",
        ("GET", "HEAD", "POST", "OPTIONS"),
        "allowed methods",
        listing,
    )
    allowed_headers: tuple[str, ...] = option(
        "SERVER_CORS_ALLOWED_HEADERS", (), "allowed request headers", listing
    )
    allow_credentials: bool = option(
        "SERVER_CORS_ALLOW_CREDENTIALS", False, "allow cookies and authorization headers", boolean
    )
    preflight_max_age_seconds: int = option(
        "SERVER_CORS_PREFLIGHT_MAX_AGE_SECONDS",
        0,
        "seconds that a browser may cache a preflight (at most 600 are sent)",
        integer(0, 86_400),
    )
