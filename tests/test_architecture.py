"""What may import what, as docs and reviews rely on it."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from twisted.trial.unittest import SynchronousTestCase

import raccoon

ROOT = Path(raccoon.__file__).parent

# Who may import whom: each part, and the parts that it may import beside itself.
MAY_IMPORT = {
    "__init__": "",
    "admission": "",
    "proto": "",
    "errors": "",
    "logs": "",
    "memory": "",
    "messages": "",
    "payload": "",
    "signals": "",
    "stopping": "",
    "config": "errors",
    "listening": "errors",
    "request": "config errors messages",
    "interfaces": "errors messages request",
    "supervision": "interfaces",
    "identification": "config errors messages",
    "deserialization": "config errors interfaces messages proto",
    "serialization": "interfaces messages proto",
    "queue": "request",
    "collector": "config errors interfaces queue request supervision",
    "metrics": "collector config interfaces listening request supervision",
    "health": "collector interfaces supervision",
    "intake": "errors identification interfaces logs messages metrics request supervision",
    "service": "__init__ admission config deserialization errors identification intake interfaces"
    " listening logs messages metrics proto request serialization supervision",
    "worker": "collector config errors interfaces logs metrics queue request supervision",
    "publisher": "config errors interfaces payload request supervision",
    "journal": "config deserialization errors interfaces logs messages payload request supervision",
    "app": "__init__ admission collector config errors health identification interfaces journal"
    " listening logs memory metrics publisher service signals stopping supervision worker",
    "processes": "__init__ app config errors interfaces listening logs messages metrics service"
    " signals stopping supervision",
    "tap": "__init__ app config errors logs metrics processes publisher supervision",
}
SETS_GRPC_VERBOSITY = "raccoon.service.grpc"  # for grpcio, before its import
DRIVERS = {
    "confluent_kafka": "raccoon.publisher.kafka",
    "google.api_core": "raccoon.publisher.pubsub",
    "google.auth": "raccoon.publisher.pubsub",
    "google.cloud": "raccoon.publisher.pubsub",
    "google.oauth2": "raccoon.publisher.pubsub",
    "google.pubsub_v1": "raccoon.publisher.pubsub",
    "boto3": "raccoon.publisher.kinesis",
    "botocore": "raccoon.publisher.kinesis",
}


class Import(NamedTuple):
    """One import: which module imports what, and whether it does so while it is imported."""

    importer: str
    imported: str
    line: int
    at_top: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def module_name(path: Path) -> str:
    """The dotted name of a source file."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}


def imports_of(importer: str, tree: ast.Module) -> Iterator[Import]:
    """Every import of a module, those included that only a type checker sees."""

    def walk(nodes: list[ast.stmt], at_top: bool) -> Iterator[Import]:
        for node in nodes:
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(importer, alias.name, node.lineno, at_top)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{importer}:{node.lineno} imports by a relative path"
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    ours = (node.module or "").split(".")[0] == "raccoon"
                    name = (node.module or "") if ours and whole not in SOURCES else whole
                    yield Import(importer, name, node.lineno, at_top)
            else:
                inside = at_top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
                for _, block in ast.iter_fields(node):
                    if isinstance(block, list):
                        statements = [child for child in block if isinstance(child, ast.stmt)]
                        yield from walk(statements, inside)
                        for child in block:
                            if isinstance(child, ast.ExceptHandler | ast.match_case):
                                yield from walk(child.body, inside)

    return walk(tree.body, True)


IMPORTS = [found for name, tree in TREES.items() for found in imports_of(name, tree)]


def is_or_is_in(name: str, package: str) -> bool:
    """Whether a dotted name is a package or something in it."""
    return name == package or name.startswith(f"{package}.")


def part(module: str) -> str:
    """The part of Raccoon that a module belongs to: raccoon.metrics.rx is in metrics."""
    return [*module.split("."), "__init__"][1]


class DirectionTests(SynchronousTestCase):
    """Imports go one way."""

    def test_every_part_is_in_the_table(self) -> None:
        """Each part of Raccoon is in the table, and nothing else is."""
        allowed = {name for names in MAY_IMPORT.values() for name in names.split()}
        parts = {part(name) for name in SOURCES}
        self.assertEqual(set(), parts - MAY_IMPORT.keys())
        self.assertEqual(set(), allowed - MAY_IMPORT.keys())

    def test_as_the_table_says(self) -> None:
        """A part imports only those that the table allows."""
        wrong = {
            str(found)
            for found in IMPORTS
            if is_or_is_in(found.imported, "raccoon")
            and part(found.imported) != part(found.importer)
            and part(found.imported) not in MAY_IMPORT[part(found.importer)].split()
        }
        self.assertEqual(set(), wrong)

    def test_service_knows_no_worker_or_publisher(self) -> None:
        """The listeners import neither worker nor publisher."""
        wrong = [
            str(found)
            for found in IMPORTS
            if part(found.importer) == "service"
            and is_or_is_in(found.imported, "raccoon")
            and any(
                is_or_is_in(found.imported, name)
                for name in ("raccoon.worker", "raccoon.publisher")
            )
        ]
        self.assertEqual([], wrong)

    def test_no_circles(self) -> None:
        """No module imports, by whatever way round, itself."""
        graph: dict[str, set[str]] = {name: set() for name in SOURCES}
        for found in IMPORTS:
            if found.at_top and found.imported in SOURCES:
                graph[found.importer].add(found.imported)
        order = list(graphlib.TopologicalSorter(graph).static_order())
        self.assertEqual(len(SOURCES), len(order))


class DriverTests(SynchronousTestCase):
    """Who knows the drivers, and what publishers know."""

    def test_only_in_their_own_modules(self) -> None:
        """A driver is imported in its own package and nowhere else."""
        wrong = [
            str(found)
            for found in IMPORTS
            for driver, owner in DRIVERS.items()
            if is_or_is_in(found.imported, driver) and not is_or_is_in(found.importer, owner)
        ]
        self.assertEqual([], wrong)

    def test_backends_know_no_twisted(self) -> None:
        """Of the publisher package only its service imports Twisted."""
        users = {
            found.importer
            for found in IMPORTS
            if is_or_is_in(found.importer, "raccoon.publisher")
            and is_or_is_in(found.imported, "twisted")
        }
        self.assertEqual({"raccoon.publisher.service"}, users)

    def test_backends_are_known_to_none(self) -> None:
        """No module outside a backend imports it: each is found by its entry point."""
        packages = {f"raccoon.publisher.{name}" for name in ("kafka", "pubsub", "kinesis", "log")}
        wrong = [
            str(found)
            for found in IMPORTS
            for package in packages
            if is_or_is_in(found.imported, package) and not is_or_is_in(found.importer, package)
        ]
        self.assertEqual([], wrong)


class HouseRuleTests(SynchronousTestCase):
    """Rules that hold in every module."""

    def test_no_reactor_at_the_top(self) -> None:
        """No module imports the reactor while it is imported itself."""
        wrong = [
            str(found)
            for found in IMPORTS
            if found.at_top and is_or_is_in(found.imported, "twisted.internet.reactor")
        ]
        self.assertEqual([], wrong)

    def test_environment_is_read_in_one_place(self) -> None:
        """Only the commands read the environment, for their options."""
        readers = set()
        for name, tree in TREES.items():
            for node in ast.walk(tree):
                if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
                    readers.add(name)
        self.assertEqual({"raccoon.tap", "raccoon.journal.cli.tool", SETS_GRPC_VERBOSITY}, readers)
