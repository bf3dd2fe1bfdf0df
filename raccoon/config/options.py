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
    "oauthbearer.config",
    "oauthbearer.extensions",
    "kinit.cmd",
)
MASK = "********"

# The default of an option that must be given.
REQUIRED = attrs.NOTHING

Parser = Callable[[Any], Any]


def boolean(value: Any) -> bool:
    """Read true, false, 1 or 0, in any letter case."""
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("true", "1"):
        return True
    if text in ("false", "0"):
        return False
    raise ValueError("true, false, 1 or 0")


def text(value: Any) -> str:
    """Read any text."""
    if isinstance(value, (dict, list)):
        raise ValueError("a text")
    return str(value)


def listing(value: Any) -> tuple[str, ...]:
    """Read a comma-separated list, or a list of YAML."""
    if isinstance(value, (list, tuple)):
        return tuple(str(item).strip() for item in value)
    if isinstance(value, dict):
        raise ValueError("a comma-separated list")
    return tuple(item.strip() for item in str(value).split(",") if item.strip())


def integer(low: int, high: int) -> Parser:
    """A parser of whole numbers from low to high, both included."""

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
    """A parser of one of several words, in any letter case."""

    def parse(value: Any) -> str:
        text = str(value).strip()
        for candidate in allowed:
            if text.lower() == candidate.lower():
                return candidate
        raise ValueError("one of " + ", ".join(allowed))

    return parse


def regex(value: Any) -> str:
    """Read a regular expression."""
    try:
        re.compile(str(value))
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from None
    return str(value)


def header(value: Any) -> str:
    """Read the name of an HTTP header, which may be empty."""
    if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]*", str(value)):
        raise ValueError("the name of an HTTP header")
    return str(value)


PORT = integer(0, 65535)
MILLISECONDS = integer(0, 7 * 24 * 3600 * 1000)
COUNT = integer(1, 100_000_000)
BYTES = integer(1024, 1 << 40)


def option(
    variable: str, default: Any, meaning: str, parse: Parser, *, secret: bool = False
) -> Any:
    """Declare an attribute of a section as an option.

    Args:
        variable: its name in the environment, from which those of its flag and key follow.
        default: the value where none is given, or REQUIRED.
        meaning: for --help and the pages, in a few words.
        parse: from what was given, a text or a value of YAML, to the attribute's value; raises
            ValueError with what is expected.
        secret: whether its value is masked wherever it would be shown.
    """
    return attrs.field(
        default=default,
        metadata={"variable": variable, "meaning": meaning, "parse": parse, "secret": secret},
    )


class Option(NamedTuple):
    """One row of the table: a setting's names, default and meaning."""

    variable: str
    default: Any
    meaning: str
    parse: Parser
    secret: bool
    section: type[Any]
    attribute: str

    @property
    def flag(self) -> str:
        """The option's flag without the leading dashes."""
        return flag_of(self.variable)

    @property
    def default_shown(self) -> str:
        """The default as people read it."""
        return "required" if self.default is REQUIRED else self.shown(self.default) or "none"

    @property
    def expected(self) -> str:
        """What the parser says it expects, in the words of its own refusal."""
        try:
            self.parse({"(": None})  # neither a text, a number, a list, nor a regular expression
        except ValueError as error:
            return str(error).partition(" (")[0]
        raise AssertionError(f"the parser of {self.variable} takes a mapping")

    def shown(self, value: Any) -> str:
        """A value of the option as it may be printed."""
        return MASK if value and self.secret else shown(self.variable, value)


def flag_of(variable: str) -> str:
    """The flag of a variable, without the leading dashes."""
    return variable.lower().replace("_", ".")


def variable_of(flag: str) -> str:
    """The variable of a flag, with or without the leading dashes."""
    return flag.removeprefix("--").upper().replace(".", "_")


def options_of(section: type[Any]) -> Iterator[Option]:
    """The options of a section and of the sections in it, in the order of their declaration."""
    attrs.resolve_types(section)
    for field in attrs.fields(section):
        if "variable" in field.metadata:
            yield Option(
                **field.metadata, default=field.default, section=section, attribute=field.name
            )
        elif attrs.has(field.type):
            yield from options_of(field.type)


def title(section: type[Any]) -> str:
    """The heading of a section, for --help and the pages: the first line of its docstring."""
    return (section.__doc__ or section.__name__).strip().splitlines()[0].rstrip(".")


def shown(variable: str, value: Any) -> str:
    """A value as it may be printed: secrets masked, lists as they are written."""
    name = flag_of(variable)
    if value and any(word in name for word in _SECRET_WORDS):
        return MASK
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)
