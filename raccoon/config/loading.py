"""From flags, environment and file to the settings, and from the settings to lines for people."""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any, cast

import attrs
import yaml

from raccoon.config.kafka import KAFKA_CLIENT_PREFIX, KafkaSettings
from raccoon.config.options import shown
from raccoon.config.settings import OPTIONS, Settings, inconsistencies
from raccoon.errors import ConfigError

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
    """Read the configuration: a flag goes before the environment, that before the file.

    Args:
        flags: given flags, by variable name.
        environment: the process's environment. An empty value counts as unset.
        path: a YAML file, or None.

    Raises:
        ConfigError: holds every problem found, each naming the option, the value and what was
            expected.
    """
    file = read_file(path) if path else {}
    problems: list[str] = []
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    kafka_client: dict[str, str] = {}
    layers: tuple[tuple[str, Mapping[str, Any]], ...] = (
        (f"file {path}", file),
        ("environment", {k: v for k, v in environment.items() if v != ""}),
        ("flag", flags),
    )
    for source, layer in layers:
        for variable, value in layer.items():
            if variable.startswith(KAFKA_CLIENT_PREFIX) and not isinstance(value, (list, tuple)):
                if value is None or value == "":
                    continue
                name = variable.removeprefix(KAFKA_CLIENT_PREFIX).lower().replace("_", ".")
                kafka_client[name] = _kafka_value(value)
                sources[variable] = source
            elif option := _BY_VARIABLE.get(variable):
                if value is None:
                    continue
                try:
                    values[variable] = option.parse(value)
                except ValueError as error:
                    problems.append(
                        f"{variable}: {shown(variable, value)!r} from the {source};"
                        f" expected {error}"
                    )
                sources[variable] = source
            elif source.startswith("file"):
                close = difflib.get_close_matches(variable, _BY_VARIABLE, 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                problems.append(f"{variable}: unknown key in {path}{hint}")
    if problems:
        raise ConfigError(problems)
    settings = cast(Settings, _build(Settings, values, kafka_client, sources))
    if problems := inconsistencies(settings):
        raise ConfigError(problems)
    return settings


def _kafka_value(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _build(
    section: type[Any],
    values: Mapping[str, Any],
    kafka_client: Mapping[str, str],
    sources: Mapping[str, str],
) -> Any:
    arguments: dict[str, Any] = {}
    for field in attrs.fields(section):
        variable = field.metadata.get("variable")
        if variable in values:
            arguments[field.name] = values[variable]
        elif attrs.has(field.type):
            arguments[field.name] = _build(field.type, values, kafka_client, sources)
    if section is KafkaSettings:
        arguments["client"] = dict(kafka_client)
    if section is Settings:
        arguments["sources"] = dict(sources)
    return section(**arguments)


def describe(settings: Settings) -> list[str]:
    """The effective configuration, one `VARIABLE=value  # source` a line, secrets masked."""
    lines = []
    for option in OPTIONS:
        value = shown(
            option.variable, getattr(_section(settings, option.section), option.attribute)
        )
        source = settings.sources.get(option.variable, "default")
        lines.append(f"{option.variable}={value}  # {source}")
    for name, value in sorted(settings.publisher.kafka.client.items()):
        variable = KAFKA_CLIENT_PREFIX + name.upper().replace(".", "_")
        lines.append(f"{variable}={shown(variable, value)}  # {settings.sources[variable]}")
    return lines


def _section(settings: Settings, kind: type[Any]) -> Any:
    sections = [settings.publisher.kafka, settings.publisher.pubsub, settings.publisher.kinesis]
    sections += [getattr(settings, field.name) for field in attrs.fields(Settings)]
    return next(section for section in sections if type(section) is kind)


def default_file() -> str | None:
    """`config.yaml` of the working directory where there is one, as in the Go server."""
    return "config.yaml" if os.path.isfile("config.yaml") else None
