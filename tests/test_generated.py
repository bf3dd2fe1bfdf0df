"""The pages of docs/ against what they describe."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from raccoon import config
from raccoon.metrics import names

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE_PREFIX = "PUBLISHER_PIGEON_"  # the publisher that docs/publishers.md makes
STRUCTURE = ROOT / "docs" / "structure.md"


def code_spans(page: Path) -> set[str]:
    """What a page writes between backticks, fenced blocks aside."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return set(re.findall(r"`([^`\n]+)`", text))


class GeneratedPagesTests(SynchronousTestCase):
    """docs/configuration.md and docs/metrics.md."""

    def setUp(self) -> None:
        self.pages = runpy.run_path(str(ROOT / "scripts" / "generate_docs.py"))["PAGES"]

    def test_pages_are_current(self) -> None:
        """Each generated page is what its table gives today; `make docs` makes it so."""
        for path, render in self.pages.items():
            self.assertEqual(path.read_text(encoding="utf-8"), render(), path.name)

    def test_every_option_and_metric_is_documented(self) -> None:
        """Each option and each metric has a row of its own."""
        rows = {
            line.split("`")[1]
            for path in self.pages
            for line in path.read_text(encoding="utf-8").splitlines()
            if line.startswith("| `")
        }
        expected = {option.variable for option in config.OPTIONS}
        expected |= {metric.name for metric in names.METRICS}
        self.assertEqual(rows, expected)


class WrittenPagesTests(SynchronousTestCase):
    """Facts in the pages that are written by hand."""

    def test_paths_of_the_structure_page_exist(self) -> None:
        """Each path that docs/structure.md names is in the project."""
        paths = {span for span in code_spans(STRUCTURE) if "/" in span and " " not in span}
        paths |= {span for span in code_spans(STRUCTURE) if span.endswith((".py", ".tac"))}
        self.assertIn("raccoon/app.py", paths)
        self.assertEqual([path for path in sorted(paths) if not (ROOT / path).exists()], [])

    def test_every_package_is_on_the_structure_page(self) -> None:
        """Each package of raccoon is named on docs/structure.md."""
        packages = {
            str(init.parent.relative_to(ROOT)) for init in ROOT.glob("raccoon/**/__init__.py")
        }
        self.assertEqual(packages - code_spans(STRUCTURE), set())

    def test_links_lead_somewhere(self) -> None:
        """Each relative link in a page leads to a file of the project."""
        pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("deploy/*.md")]
        self.assertIn(ROOT / "README.md", pages)
        for page in pages:
            for target in re.findall(r"\]\(([^)#:\s]+)[^):]*\)", page.read_text(encoding="utf-8")):
                self.assertTrue((page.parent / target).exists(), f"{page.name}: {target}")

    def test_variables_named_in_pages_are_options(self) -> None:
        """Each variable that a page names is an option, one of librdkafka's, or the example's."""
        known = {option.variable for option in config.OPTIONS}
        sections = tuple({variable.partition("_")[0] + "_" for variable in known})
        for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")]:
            named = re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", page.read_text(encoding="utf-8"))
            unknown = {
                name
                for name in named
                if name.startswith(sections)
                and name not in known
                and not name.startswith((config.KAFKA_CLIENT_PREFIX, EXAMPLE_PREFIX))
            }
            self.assertEqual(unknown, set(), page.name)
