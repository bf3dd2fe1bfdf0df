"""What the benchmark makes of its measurements."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from benchmarks import machine, report
from benchmarks.cases import all_cases

FOUND = {
    "requests": 1000,
    "errors": 2,
    "seconds": 4.0,
    "cpu_seconds": 0.2,
    "own_cpu_seconds": 0.02,
    "memory_bytes": 50_000_000,
    "p50_ms": 1.0,
    "p99_ms": 2.0,
    "p999_ms": 3.0,
    "max_ms": 4.0,
}


def result(case: str, server: str, against: str = "", **figures: float) -> dict[str, object]:
    """What a run gives for a case on a server."""
    return {
        "case": case,
        "title": case.upper(),
        "server": server,
        "events": 10,
        "idle": False,
        "against": against,
        "median": figures,
    }


class FiguresTests(SynchronousTestCase):
    """Figures of one measurement and of several rounds."""

    def test_load(self) -> None:
        """Rates are by the second, CPU by request and by event, from what was answered."""
        figures = report.load_figures(FOUND, 10)
        self.assertEqual((figures["requests_s"], figures["events_s"]), (250, 2500))
        self.assertAlmostEqual(figures["cpu_us_request"], 200)
        self.assertAlmostEqual(figures["cpu_us_event"], 20)
        self.assertAlmostEqual(figures["busy"], 0.05)

    def test_nothing_answered(self) -> None:
        """Where every request failed there is nothing to show but the errors."""
        figures = report.load_figures({**FOUND, "requests": 0, "errors": 5}, 10)
        self.assertEqual(figures, {"requests": 0, "errors": 5})

    def test_idle(self) -> None:
        """Memory is what the process has grown by, for each connection."""
        found = {**FOUND, "connections": 100, "memory_bytes_at_start": 49_000_000}
        figures = report.idle_figures(found)
        self.assertEqual((figures["connections_s"], figures["kb_connection"]), (25, 10))

    def test_medians(self) -> None:
        """A figure is its median over the rounds; errors are those of all rounds."""
        rounds = [{"errors": 1, "p50_ms": x} for x in (5.0, 1.0, 3.0)]
        self.assertEqual(report.medians(rounds), {"errors": 3, "p50_ms": 3.0})


class TableTests(SynchronousTestCase):
    """The table in its two forms."""

    def test_ratios_and_floor(self) -> None:
        """Under another server's row stands ours divided by it; CPU is also shown by the floor."""
        results = [
            result("one", "ours", requests_s=300.0, cpu_us_event=6.0),
            result("one", "go", requests_s=200.0, cpu_us_event=12.0),
        ]
        (table,) = report.tables(results, {10: {"cpu_us_event": 2.0}})
        rows = [dict(zip(table.heads, row, strict=True)) for row in table.rows]
        self.assertEqual([row["server"] for row in rows], ["", "ours", "go", "ours / go"])
        self.assertEqual([row["of floor"] for row in rows], ["1.0", "3.0", "6.0", "-"])
        self.assertEqual(rows[3]["requests/s"], "1.50")
        self.assertEqual(rows[3]["CPU µs/event"], "0.50")

    def test_against_another_case(self) -> None:
        """A case that only ours has is set against another of the other server's."""
        results = [
            result("unary", "ours", requests_s=100.0),
            result("unary", "go", requests_s=200.0),
            result("stream", "ours", "unary", requests_s=500.0),
        ]
        (table,) = report.tables(results, {})
        self.assertEqual(table.rows[-1][1:3], ["ours / go, UNARY", "2.50"])

    def test_text_and_markdown(self) -> None:
        """Both forms have the same cells."""
        (table,) = report.tables([result("one", "ours", requests_s=1234.0)], {})
        self.assertIn("1,234", table.text())
        heads, marks, row = table.markdown().splitlines()
        self.assertEqual(len({line.count("|") for line in (heads, marks, row)}), 1)
        self.assertIn("| ONE | ours | 1,234 |", row)


class PageTests(SynchronousTestCase):
    """The block in docs/performance.md that a run replaces."""

    def test_replaced(self) -> None:
        r"""What is between the marks is replaced, as it is; a \1 in it too."""
        page = f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n"
        new = report.replace_block(page, r"new \1")
        self.assertEqual(new, f"before\n{report.BEGIN}\nnew \\1\n{report.END}\nafter\n")

    def test_no_marks(self) -> None:
        """A page without the marks is refused."""
        self.assertRaises(ValueError, report.replace_block, "a page", "new")

    def test_command_without_directories(self) -> None:
        """The command is shown without directories, quoted as a shell wants it."""
        shown = machine.command_line(
            ["--json", "/a/b/c.json", "--other-command", "go=env A=1 /d/e f"]
        )
        self.assertEqual(
            shown, "python -m benchmarks --json c.json --other-command 'go=env A=1 e f'"
        )


class CasesTests(SynchronousTestCase):
    """The cases."""

    def test_by_the_clock(self) -> None:
        """At a rate, a case has one request in flight on each connection, as latency needs."""
        for case in all_cases(10):
            steady = case.at_rate(100)
            self.assertEqual(steady.in_flight, 1)
            self.assertEqual(steady.rate, 0 if case.idle else 100)

    def test_names(self) -> None:
        """Each case has a name and a title of its own; `against` is such a name."""
        cases = all_cases(10)
        names = {case.name for case in cases}
        self.assertEqual(len(names), len(cases))
        self.assertEqual(len({case.title for case in cases}), len(cases))
        self.assertLessEqual({case.against for case in cases} - {""}, names)
