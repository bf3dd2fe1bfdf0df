"""Tests of raccoon.config.extensions: options that publishers of other packages declare."""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Mapping
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from raccoon import config, tap
from raccoon.errors import ConfigError
from tests.pigeon_post import install_pigeon_post

LOFT = "PUBLISHER_HOMING_PIGEON_LOFT"
SPEED = "PUBLISHER_HOMING_PIGEON_SPEED"
WHISTLE = "PUBLISHER_HOMING_PIGEON_WHISTLE"
CHOSEN = {"PUBLISHER_TYPE": "homing-pigeon", LOFT: "attic"}


class ExtensionTestCase(SynchronousTestCase):
    """With a distribution of publishers installed."""

    def setUp(self) -> None:
        install_pigeon_post(self)

    def file(self, text: str) -> str:
        path: str = self.mktemp()
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def problems(
        self, environment: Mapping[str, str], flags: Mapping[str, Any] | None = None
    ) -> tuple[str, ...]:
        with self.assertRaises(ConfigError) as caught:
            config.load(flags or {}, environment)
        problems: tuple[str, ...] = caught.exception.problems
        return problems


class ReadingTests(ExtensionTestCase):
    """From the three spellings to the publisher's own section."""

    def test_three_spellings(self) -> None:
        """Its options are read from file, environment and flags, with the usual precedence."""
        path = self.file(
            "publisher:\n  type: homing-pigeon\n"
            "  homing_pigeon: {loft: file, speed: 1, whistle: file}\n"
        )
        own = config.load({LOFT: "flag"}, {LOFT: "environment", SPEED: "7"}, path).publisher.own
        self.assertEqual(("flag", 7, "file"), (own.loft, own.speed, own.whistle))

    def test_flags(self) -> None:
        """A flag of its own is taken by the command line, with = and with a space."""
        options = tap.Options()
        options.parseOptions(
            [
                "--publisher.type=homing-pigeon",
                "--publisher.homing.pigeon.loft",
                "attic",
                "--publisher.homing.pigeon.speed=3",
            ]
        )
        own = options.settings.publisher.own
        self.assertEqual(("attic", 3), (own.loft, own.speed))

    def test_not_chosen(self) -> None:
        """Options of a publisher that is not chosen are passed over, without importing it."""
        path = self.file("publisher: {homing_pigeon: {loft: attic}}")
        settings = config.load({SPEED: "many"}, {WHISTLE: "x"}, path)
        self.assertIsNone(settings.publisher.own)
        self.assertNotIn("pigeon_post", sys.modules)

    def test_publisher_without_options(self) -> None:
        """A publisher that declares nothing has no section."""
        self.assertIsNone(config.load({}, {"PUBLISHER_TYPE": "pigeon"}).publisher.own)


class ProblemTests(ExtensionTestCase):
    """Options that cannot be used."""

    def test_all_at_once(self) -> None:
        """A missing option and a wrong value are reported together with those of Raccoon."""
        self.assertEqual(
            (
                f"{SPEED}: 'many' from the environment; expected a whole number from 0 to 9",
                "EVENT_ACK: '7' from the environment; expected one of 0, 1, 2",
                f"{LOFT}: missing; expected a text, as PUBLISHER_TYPE is homing-pigeon",
            ),
            self.problems(
                {"PUBLISHER_TYPE": "homing-pigeon", SPEED: "many", "EVENT_ACK": "7"},
            ),
        )

    def test_unknown(self) -> None:
        """An unknown flag of the chosen publisher is refused, with the nearest that is known."""
        self.assertEqual(
            (f"{SPEED}Y: unknown flag; did you mean {SPEED}?",),
            self.problems(CHOSEN, {SPEED + "Y": "1"}),
        )

    def test_values_that_do_not_go_together(self) -> None:
        """What its section refuses as a whole is a problem like any other."""
        self.assertEqual(
            ("PUBLISHER_TYPE: 'homing-pigeon' refuses its options: a whistle without wings",),
            self.problems({**CHOSEN, SPEED: "0", WHISTLE: "x"}),
        )

    def test_declarations_that_cannot_be_used(self) -> None:
        """A section of another's options, or none of attrs, is refused."""
        (cuckoo,) = self.problems({"PUBLISHER_TYPE": "cuckoo"})
        self.assertEqual(
            "PUBLISHER_TYPE: the publisher 'cuckoo' declares SERVER_WEBSOCKET_PORT;"
            " expected a name that begins with PUBLISHER_CUCKOO_",
            cuckoo,
        )
        (gull,) = self.problems({"PUBLISHER_TYPE": "gull"})
        self.assertIn("the settings of 'gull' are not a class of attrs", gull)

    def test_import_that_fails(self) -> None:
        """A module that raises whatever it likes is a problem that quotes it."""
        (problem,) = self.problems({"PUBLISHER_TYPE": "broken"})
        self.assertIn("'broken' cannot be imported: moulting", problem)


class ShowingTests(ExtensionTestCase):
    """Its options before people's eyes."""

    def test_described(self) -> None:
        """--check-config shows them with their sources, secrets masked."""
        printed = config.describe(config.load({SPEED: "3"}, {**CHOSEN, WHISTLE: "tune"}))
        for line in (
            f"{LOFT}=attic  # environment",
            f"{SPEED}=3  # flag",
            f"{WHISTLE}={config.MASK}  # environment",
        ):
            self.assertIn(line, printed)
        self.assertNotIn("tune", "\n".join(printed))

    def test_secret_in_a_problem(self) -> None:
        """A refused value of a secret is not shown."""
        path = self.file("publisher: {type: homing-pigeon, homing_pigeon: {whistle: [tune]}}")
        with self.assertRaises(ConfigError) as caught:
            config.load({}, {LOFT: "attic"}, path)
        self.assertNotIn("tune", str(caught.exception))
        self.assertIn(WHISTLE, str(caught.exception))

    def test_help(self) -> None:
        """--help shows those of all installed publishers, and passes over broken ones."""
        printed = io.StringIO()
        self.patch(sys, "stdout", printed)
        with self.assertRaises(SystemExit):
            tap.Options().parseOptions(["--help"])
        text = " ".join(printed.getvalue().split())
        self.assertIn(
            "Homing pigeons --publisher.homing.pigeon.loft= where pigeons go home to [required]",
            text,
        )
        self.assertIn("wings that beat [default: 2]", text)


class ProcessTests(ExtensionTestCase):
    """With several processes that serve."""

    def test_reach_another_process(self) -> None:
        """The publisher's own section survives the way to the processes that serve."""
        settings = config.load({}, CHOSEN)
        self.assertEqual(settings, pickle.loads(pickle.dumps(settings)))
