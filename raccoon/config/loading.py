"""From flags, environment and file to the settings, and from the settings to lines for people."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any, TypeVar, cast

import attrs
import yaml

from raccoon.config.extensions import of_another_publisher, section_of
from raccoon.config.kafka import KAFKA_CLIENT_PREFIX
from raccoon.config.options import REQUIRED, flag_of, options_of, shown, variable_of
from raccoon.config.settings import OPTIONS, Settings, inconsistencies
from raccoon.errors import ConfigError, StartError

_TYPE = "PUBLISHER_TYPE"
_Section = TypeVar("_Section")
_BY_VARIABLE = {option.variable: option for option in OPTIONS}


def read_file(path: str) -> dict[str, Any]:
    """The settings of a YAML file, by variable name.

    Raises:
        ConfigError: the file cannot be read, or does not hold a mapping.
    """
    try:
        with open(path, encoding="utf-8") as file:
            document = yaml.safe_load(file)
    except OSError as error:
        raise ConfigError([f"--config {path}: {error.strerror}"]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError([f"--config {path}: not YAML: {reason}"]) from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError([f"--config {path}: expected a mapping of sections"])
    found: dict[str, Any] = {}

    def flatten(node: dict[Any, Any], words: tuple[str, ...]) -> None:
        for key, value in node.items():
            path = (*words, str(key))
            if isinstance(value, dict):
                flatten(value, path)
            elif value is not None:
                found["_".join(path).upper().replace(".", "_")] = value

    flatten(document, ())
    return found


def load(
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    path: str | None = None,
) -> Settings:
    """Read the configuration. Flags override the environment, which overrides the file.

    Args:
        flags: given flags, by variable name.
        environment: the process's environment. An empty value counts as unset.
        path: a YAML file, or None.

    Raises:
        ConfigError: holds every problem found, each naming the option, the value and what was
            expected.
    """
    layers: tuple[tuple[str, Mapping[str, Any]], ...] = (
        (f"file {path}", read_file(path) if path else {}),
        ("environment", {name: value for name, value in environment.items() if value != ""}),
        ("flag", flags),
    )
    chosen = next((str(layer[_TYPE]) for _, layer in reversed(layers) if layer.get(_TYPE)), "")
    reading = _Reading(chosen)
    for source, layer in layers:
        for variable, value in layer.items():
            if value is not None:
                reading.take(source, variable, value)
    return reading.settings()


class _Reading:
    """What was given so far, and what was wrong with it.

    Args:
        chosen: the value of PUBLISHER_TYPE, or nothing.
    """

    def __init__(self, chosen: str) -> None:
        self._chosen = chosen
        self._own: type[Any] | None = None
        self._problems: list[str] = []
        self._wrong: set[str] = set()
        self._values: dict[str, Any] = {}
        self._sources: dict[str, str] = {}
        self._kafka_client: dict[str, str] = {}
        try:
            self._own = section_of(chosen)
        except StartError as error:
            self._problems.append(str(error))
            self._wrong.add(_TYPE)
        self._own_options = () if self._own is None else tuple(options_of(self._own))
        self._known = _BY_VARIABLE | {option.variable: option for option in self._own_options}

    def take(self, source: str, variable: str, value: Any) -> None:
        """Take a value; a later one replaces it."""
        if variable.startswith(KAFKA_CLIENT_PREFIX) and not isinstance(value, (list, tuple)):
            if value != "":
                name = flag_of(variable.removeprefix(KAFKA_CLIENT_PREFIX))
                self._kafka_client[name] = _kafka_value(value)
                self._sources[variable] = source
        elif option := self._known.get(variable):
            self._sources[variable] = source
            try:
                self._values[variable] = option.parse(value)
            except ValueError as error:
                self._wrong.add(variable)
                self._problems.append(
                    f"{variable}: {option.shown(value)!r} from the {source}; expected {error}"
                )
        elif source != "environment" and not of_another_publisher(variable, self._chosen):
            close = difflib.get_close_matches(variable, self._known, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            where = "flag" if source == "flag" else source.replace("file", "key in", 1)
            self._problems.append(f"{variable}: unknown {where}{hint}")

    def settings(self) -> Settings:
        """The settings.

        Raises:
            ConfigError: holds every problem.
        """
        self._problems += [
            f"{option.variable}: missing; expected {option.expected},"
            f" as PUBLISHER_TYPE is {self._chosen}"
            for option in self._own_options
            if option.default is REQUIRED and option.variable not in self._sources
        ]
        settings = _build(Settings, self._values)
        kafka = attrs.evolve(settings.publisher.kafka, client=self._kafka_client)
        settings = attrs.evolve(
            settings,
            publisher=attrs.evolve(settings.publisher, kafka=kafka),
            sources=self._sources,
        )
        self._problems += [
            problem
            for variables, problem in inconsistencies(settings)
            if not variables & self._wrong
        ]
        if self._problems:
            raise ConfigError(self._problems)
        if self._own is None:
            return settings
        try:
            own = _build(self._own, self._values)
        except ValueError as error:
            raise ConfigError(
                [f"PUBLISHER_TYPE: {self._chosen!r} refuses its options: {error}"]
            ) from None
        return attrs.evolve(settings, publisher=attrs.evolve(settings.publisher, own=own))


def _kafka_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _build(section: type[_Section], values: Mapping[str, Any]) -> _Section:
    arguments: dict[str, Any] = {}
    for field in attrs.fields(cast(Any, section)):
        variable = field.metadata.get("variable")
        if variable in values:
            arguments[field.name] = values[variable]
        elif attrs.has(field.type):
            arguments[field.name] = _build(field.type, values)
    return section(**arguments)


def describe(settings: Settings) -> list[str]:
    """The effective configuration, one `VARIABLE=value  # source` a line, secrets masked."""
    publisher = settings.publisher
    sections = [getattr(settings, field.name) for field in attrs.fields(Settings)]
    sections += [publisher.kafka, publisher.pubsub, publisher.kinesis]
    options = list(OPTIONS)
    if publisher.own is not None:
        sections.append(publisher.own)
        options += options_of(type(publisher.own))
    by_kind = {type(section): section for section in sections}
    lines = []
    for option in options:
        value = option.shown(getattr(by_kind[option.section], option.attribute))
        source = settings.sources.get(option.variable, "default")
        lines.append(f"{option.variable}={value}  # {source}")
    for name, value in sorted(publisher.kafka.client.items()):
        variable = KAFKA_CLIENT_PREFIX + variable_of(name)
        lines.append(f"{variable}={shown(variable, value)}  # {settings.sources[variable]}")
    return lines


def default_file() -> str | None:
    """`config.yaml` of the working directory where there is one, as in the Go server."""
    return "config.yaml" if os.path.isfile("config.yaml") else None
