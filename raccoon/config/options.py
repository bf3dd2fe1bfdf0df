"""How an option is declared, read and shown."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import attrs

_SECRET_WORDS = (
    "password",
    "passphrase",
    "secret",
    "private.key",
    "ssl.key",
    "sasl.jaas",
    "token",
    "keystore",
)
MASK = "********"

Parser = Callable[[Any], Any]


def boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise ValueError("true, false, 1 or 0")


def text(value: Any) -> str:
    if isinstance(value, (dict, list)):
        raise ValueError("a text")
    return str(value)


def listing(value: Any) -> tuple[str, ...]:
    if isinstance(value, (list, tuple)):
        return tuple(str(item).strip() for item in value)
    if isinstance(value, dict):
        raise ValueError("a comma-separated list")
    return tuple(item.strip() for item in str(value).split(",") if item.strip())


def integer(low: int, high: int) -> Parser:
    def parse(value: Any) -> int:
        try:
            if isinstance(value, (bool, float)):
                raise ValueError
            number = int(str(value))
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return number

    return parse


def choice(*allowed: str) -> Parser:
    def parse(value: Any) -> str:
        text = str(value).strip()
        for candidate in allowed:
            if text.lower() == candidate.lower():
                return candidate
        raise ValueError("one of " + ", ".join(allowed))

    return parse


def regex(value: Any) -> str:
    try:
        re.compile(str(value))
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from None
    return str(value)


def header(value: Any) -> str:
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]*", str(value)):
        raise ValueError("the name of an HTTP header")
    return str(value)


PORT = integer(0, 65535)
MILLISECONDS = integer(0, 7 * 24 * 3600 * 1000)
COUNT = integer(1, 100_000_000)
BYTES = integer(1024, 1 << 40)


def option(variable: str, default: Any, meaning: str, parse: Parser) -> Any:
    return attrs.field(
        default=default,
        metadata={"variable": variable, "meaning": meaning, "parse": parse},
    )


class Option(NamedTuple):
    """One row of the table: a setting's names, default and meaning."""

    variable: str
    default: Any
    meaning: str
    parse: Parser
    section: type[Any]
    attribute: str

    @property
    def flag(self) -> str:
        """The option's flag without the leading dashes."""
        return self.variable.lower().replace("_", ".")

    @property
    def default_shown(self) -> str:
        """The default as people read it."""
        return shown(self.variable, self.default) or "none"


def options_of(section: type[Any]) -> Iterator[Option]:
    attrs.resolve_types(section)
    for field in attrs.fields(section):
        if "variable" in field.metadata:
            meta = field.metadata
            yield Option(
                meta["variable"], field.default, meta["meaning"], meta["parse"], section, field.name
            )
        elif attrs.has(field.type):
            yield from options_of(field.type)


def shown(variable: str, value: Any) -> str:
    """A value as it may be printed: secrets masked, lists as they are written."""
    name = variable.lower().replace("_", ".")
    if value and any(word in name for word in _SECRET_WORDS):
        return MASK
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
