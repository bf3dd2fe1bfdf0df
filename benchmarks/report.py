"""Figures from measurements: medians of the rounds, ratios, and the table in its two forms."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

BEGIN = "<!-- benchmark: begin -->"
END = "<!-- benchmark: end -->"

Figures = dict[str, float]

_LOAD_COLUMNS = (
    ("requests/s", "requests_s", "{:,.0f}"),
    ("events/s", "events_s", "{:,.0f}"),
    ("p50 ms", "p50_ms", "{:.1f}"),
    ("p99 ms", "p99_ms", "{:.1f}"),
    ("p99.9 ms", "p999_ms", "{:.1f}"),
    ("CPU µs/request", "cpu_us_request", "{:.1f}"),
    ("CPU µs/event", "cpu_us_event", "{:.2f}"),
    ("of floor", "of_floor", "{:.1f}"),
    ("core busy", "busy", "{:.0%}"),
    ("memory MB", "memory_mb", "{:.0f}"),
)
_IDLE_COLUMNS = (
    ("connections/s", "connections_s", "{:,.0f}"),
    ("CPU µs/connection", "cpu_us_connection", "{:.0f}"),
    ("KB/connection", "kb_connection", "{:.1f}"),
)
# Where a ratio says something: the first server's figure divided by another's.
_RATIOS = {
    "requests_s",
    "events_s",
    "p50_ms",
    "p99_ms",
    "p999_ms",
    "cpu_us_request",
    "cpu_us_event",
    "memory_mb",
    "connections_s",
    "cpu_us_connection",
    "kb_connection",
}
_NONE = "-"


def load_figures(found: Mapping[str, Any], events: int) -> Figures:
    """The figures of a measurement under load, from the load generator's answer."""
    requests, seconds, cpu = found["requests"], found["seconds"], found["cpu_seconds"]
    counts = {"requests": requests, "errors": found["errors"]}
    if not requests:
        return counts
    return counts | {
        "requests_s": requests / seconds,
        "events_s": requests * events / seconds,
        "p50_ms": found["p50_ms"],
        "p99_ms": found["p99_ms"],
        "p999_ms": found["p999_ms"],
        "max_ms": found["max_ms"],
        "cpu_us_request": cpu * 1e6 / requests,
        "cpu_us_event": cpu * 1e6 / requests / events,
        "busy": cpu / seconds,
        "generator_us_request": found["own_cpu_seconds"] * 1e6 / requests,
        "memory_mb": found["memory_bytes"] / 1e6,
    }


def idle_figures(found: Mapping[str, Any]) -> Figures:
    """The figures of connections that send nothing."""
    connections, counts = found["connections"], {"errors": found["errors"]}
    if not connections:
        return counts
    grown = found["memory_bytes"] - found["memory_bytes_at_start"]
    return counts | {
        "connections": connections,
        "connections_s": connections / found["seconds"],
        "cpu_us_connection": found["cpu_seconds"] * 1e6 / connections,
        "kb_connection": grown / 1e3 / connections,
    }


def floor_figures(found: Mapping[str, Any], events: int) -> Figures:
    """The figures of the bare producer, for requests of so many events."""
    rate, cpu = found["events"] / found["seconds"], found["cpu_seconds"] * 1e6 / found["events"]
    return {
        "errors": found["errors"],
        "requests_s": rate / events,
        "events_s": rate,
        "cpu_us_request": cpu * events,
        "cpu_us_event": cpu,
        "busy": found["cpu_seconds"] / found["seconds"],
    }


def in_brief(figures: Figures) -> str:
    """The figures that tell most, for the progress."""
    if "requests_s" in figures:
        return (
            f"{figures['requests_s']:,.0f} requests/s, p99 {figures['p99_ms']:.1f} ms, "
            f"{figures['cpu_us_request']:.0f} µs a request"
        )
    if "connections_s" in figures:
        return (
            f"{figures['connections_s']:,.0f} connections/s, {figures['kb_connection']:.1f} KB each"
        )
    return "no success"


def medians(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure that every round has; errors are added up."""
    names = set.intersection(*(set(one) for one in rounds))
    out = {name: float(median(one[name] for one in rounds)) for name in sorted(names)}
    return out | {"errors": sum(one["errors"] for one in rounds)}


def tables(results: Iterable[Mapping[str, Any]], floors: Mapping[int, Figures]) -> list[Table]:
    """The tables of a run: under load, then idle where that was measured.

    Args:
        results: one for each case and server, those of a case together and the first server first.
        floors: the bare producer's medians by the number of events in a batch.
    """
    load, idle = Table(_LOAD_COLUMNS), Table(_IDLE_COLUMNS)
    for events, floor in sorted(floors.items()):
        load.add(f"bare producer, {events} events", "", {**floor, "of_floor": 1.0})
    by_case: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        by_case.setdefault(result["case"], []).append(result)
    for first, *others in by_case.values():
        table = idle if first["idle"] else load
        for result in (first, *others):
            figures = dict(result["median"])
            floor = floors.get(result["events"], {})
            if floor and "cpu_us_event" in figures:
                figures["of_floor"] = figures["cpu_us_event"] / floor["cpu_us_event"]
            table.add(result["title"], result["server"], figures)
            if result is not first:
                table.add(
                    "",
                    f"{first['server']} / {result['server']}",
                    _ratios(first, result),
                    ratio=True,
                )
        for result in by_case.get(first["against"], ())[1:]:
            label = f"{first['server']} / {result['server']}, {result['title']}"
            table.add("", label, _ratios(first, result), ratio=True)
    return [table for table in (load, idle) if table.rows]


def _ratios(first: Mapping[str, Any], other: Mapping[str, Any]) -> Figures:
    """The first's figures divided by the other's."""
    return {
        name: first["median"][name] / figure
        for name, figure in other["median"].items()
        if figure and name in _RATIOS and name in first["median"]
    }


class Table:
    """Rows of figures under fixed columns."""

    def __init__(self, columns: Sequence[tuple[str, str, str]]) -> None:
        self._columns = columns
        self.heads = ["case", "server", *(head for head, _, _ in columns)]
        self.rows: list[list[str]] = []

    def add(
        self, title: str, server: str, figures: Mapping[str, float], *, ratio: bool = False
    ) -> None:
        """Append a row; figures that it does not have are a dash."""
        cells = [
            ("{:.2f}" if ratio else form).format(figures[name]) if name in figures else _NONE
            for _, name, form in self._columns
        ]
        self.rows.append([title, server, *cells])

    def text(self) -> str:
        """For a terminal."""
        widths = [max(map(len, column)) for column in zip(self.heads, *self.rows, strict=True)]
        lines = []
        for row in [self.heads, *self.rows]:
            cells = [
                cell.ljust(width) if index < 2 else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)

    def markdown(self) -> str:
        """For a page."""
        marks = ["---", "---", *("--:" for _ in self._columns)]
        return "\n".join(f"| {' | '.join(row)} |" for row in [self.heads, marks, *self.rows])


def heading(about: Mapping[str, Any]) -> str:
    """What stands above the tables in a terminal."""
    versions = ", ".join(f"{name} {value}" for name, value in about["machine"].items())
    return (
        f"{about['date']}: {about['command']}\n{versions}\n{about['cores']}\n"
        f"medians of {about['rounds']} rounds of {about['seconds']:g} s, "
        f"events of {about['event_bytes']} bytes, EVENT_ACK={about['settings']['EVENT_ACK']}"
    )


def page_heading(about: Mapping[str, Any]) -> str:
    """What stands above them on a page."""
    versions = dict(about["machine"])
    hardware = ", ".join(versions.pop(name) for name in ("processor", "memory", "system"))
    lines = [
        f"Measured on {about['date']} by `{about['command']}`:",
        "",
        f"- machine: {hardware}; {about['cores']}",
        f"- versions: {', '.join(' '.join(pair) for pair in versions.items())}",
        f"- medians of {about['rounds']} rounds of {about['seconds']:g} s; events of "
        f"{about['event_bytes']} bytes",
    ]
    return "\n".join(lines)


def replace_block(page: str, block: str) -> str:
    """A page with `block` between its two marks.

    Raises:
        ValueError: the page does not have them once each, in order.
    """
    pattern = f"{re.escape(BEGIN)}.*{re.escape(END)}"
    out, count = re.subn(pattern, lambda _: f"{BEGIN}\n{block}\n{END}", page, flags=re.S)
    if count != 1 or page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page has no block from {BEGIN} to {END}")
    return out
