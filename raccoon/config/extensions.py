"""Publishers by name, and the options that those of other packages declare.

A publisher is an entry point in the group `raccoon.publishers`. Where its object has an attribute
`settings`, a section of options made by `option`, these are read like Raccoon's own. A publisher's
module is imported only when it is chosen, or for --help: it may bring a driver that takes long.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import attrs

from raccoon.config.options import options_of, variable_of
from raccoon.errors import StartError

GROUP = "raccoon.publishers"

# Publishers whose sections are in the table; none of them is imported for its options.
_IN_TABLE = frozenset({"kafka", "kinesis", "log", "pubsub"})


def installed() -> dict[str, EntryPoint]:
    """The installed publishers, by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def load_publisher(name: str) -> Any:
    """What the entry point of a publisher names.

    Raises:
        StartError: no publisher of that name is installed, or importing its module fails.
    """
    points = installed()
    if name not in points:
        raise StartError(
            f"PUBLISHER_TYPE: no publisher {name!r} is installed;"
            f" expected one of {', '.join(sorted(points))}"
        )
    try:
        return points[name].load()
    except Exception as error:  # a module of somebody else's may raise anything
        raise StartError(
            f"PUBLISHER_TYPE: the publisher {name!r} cannot be imported: {error}"
        ) from error


def section_of(name: str) -> type[Any] | None:
    """The section that a publisher of another package declares, or None.

    Raises:
        StartError: the publisher cannot be loaded, or what it declares is no section of its own.
    """
    if not name or name in _IN_TABLE:
        return None
    section = getattr(load_publisher(name), "settings", None)
    if section is None:
        return None
    if not (isinstance(section, type) and attrs.has(section)):
        raise StartError(f"PUBLISHER_TYPE: the settings of {name!r} are not a class of attrs")
    for option in options_of(section):
        if not option.variable.startswith(_prefix(name)):
            raise StartError(
                f"PUBLISHER_TYPE: the publisher {name!r} declares {option.variable};"
                f" expected a name that begins with {_prefix(name)}"
            )
    return section


def sections() -> Iterator[type[Any]]:
    """The sections of all installed publishers of other packages; one that fails has none."""
    for name in sorted(installed()):
        try:
            section = section_of(name)
        except StartError:
            continue
        if section is not None:
            yield section


def of_another_publisher(variable: str, chosen: str) -> bool:
    """Whether a variable belongs to an installed publisher of another package, not chosen now."""
    return variable.startswith("PUBLISHER_") and any(
        variable.startswith(_prefix(name)) for name in installed().keys() - _IN_TABLE - {chosen}
    )


def _prefix(name: str) -> str:
    return variable_of(f"publisher.{name}.").replace("-", "_")
