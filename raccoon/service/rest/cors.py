"""Cross-origin resource sharing, as the Go server's middleware answers it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from raccoon.config import CorsSettings

Headers = list[tuple[bytes, bytes]]

_SIMPLE_METHODS = frozenset({"GET", "HEAD", "POST"})
_SIMPLE_HEADERS = frozenset({"accept", "accept-language", "content-language", "origin"})
_MAX_AGE = 600


class Preflight(NamedTuple):
    """The answer to a preflight request: an HTTP status and headers."""

    status: int
    headers: Headers


class CorsPolicy:
    """Which origins, methods and headers may be used from another origin.

    Args:
        settings: what is allowed.
        client_headers: headers that any client sends, allowed besides.
    """

    def __init__(self, settings: CorsSettings, client_headers: Iterable[str]) -> None:
        self.enabled = settings.enabled
        self._origins = frozenset(settings.allowed_origin)
        self._all_origins = "*" in self._origins
        self._methods = frozenset(method.upper() for method in settings.allowed_methods)
        allowed = (*settings.allowed_headers, *client_headers)
        self._headers = _SIMPLE_HEADERS | {header.lower() for header in allowed}
        self._credentials = settings.allow_credentials
        self._max_age = min(settings.preflight_max_age_seconds, _MAX_AGE)

    def headers(self, origin: str) -> Headers:
        """Headers for the answer to a request from `origin`; none where it is not allowed."""
        if not self._all_origins and origin not in self._origins:
            return []
        anyone = self._all_origins and not self._credentials
        found: Headers = [
            (b"Access-Control-Allow-Origin", b"*" if anyone else origin.encode("latin-1")),
            (b"Vary", b"Origin"),
        ]
        if self._credentials:
            found.append((b"Access-Control-Allow-Credentials", b"true"))
        return found

    def preflight(self, origin: str, method: str | None, requested: str | None) -> Preflight:
        """Answer an OPTIONS request with an Origin.

        Args:
            origin: its Origin.
            method: its Access-Control-Request-Method.
            requested: its Access-Control-Request-Headers, comma-separated.
        """
        allowed = self.headers(origin)
        if not allowed:
            return Preflight(200, [])
        if not method:
            return Preflight(400, [])
        if method.upper() not in self._methods:
            return Preflight(405, [])
        names = [name.strip() for name in (requested or "").split(",") if name.strip()]
        if any(name.lower() not in self._headers for name in names):
            return Preflight(403, [])
        if names:
            joined = ",".join(name.title() for name in names)
            allowed.append((b"Access-Control-Allow-Headers", joined.encode("latin-1")))
        if method.upper() not in _SIMPLE_METHODS:
            allowed.append((b"Access-Control-Allow-Methods", method.upper().encode("latin-1")))
        if self._max_age:
            allowed.append((b"Access-Control-Max-Age", b"%d" % self._max_age))
        return Preflight(200, allowed)
