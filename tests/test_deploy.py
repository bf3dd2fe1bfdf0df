"""The alert rules and the dashboard of deploy/ against the metrics that there are."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from twisted.trial.unittest import SynchronousTestCase

from raccoon.metrics.names import HISTOGRAM, METRICS

ROOT = Path(__file__).resolve().parent.parent
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"
CASES = ROOT / "deploy" / "prometheus" / "alerts_test.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "raccoon.json"

EXPOSED = {
    metric.name + suffix
    for metric in METRICS
    for suffix in (("_bucket", "_count", "_sum") if metric.kind == HISTOGRAM else ("",))
}
# Prometheus's own.
EXPOSED_BY_ALL = {"up"}
LABELS = {label for metric in METRICS for label in metric.labels} | {"job", "instance", "le"}
_GROUPING = r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)"
_OPERATORS = {"and", "or", "unless", "bool", "offset"}


def metrics_of(query: str) -> set[str]:
    """The metrics that a PromQL query names."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(_GROUPING, "", bare)
    words = re.findall(r"(?<![\w.])[A-Za-z_:][\w:]*(?!\s*\(|[\w:])", bare)
    return set(words) - _OPERATORS


def labels_of(query: str) -> set[str]:
    """The labels that a PromQL query selects or groups by."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', query)
    selected = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"\"", bare)
    grouped = [name.strip() for found in re.findall(_GROUPING, bare) for name in found.split(",")]
    return {name for name in (*selected, *grouped) if name}


def rules() -> list[dict[str, Any]]:
    """All alert rules."""
    groups = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """All panels of the dashboard."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


def panel_queries() -> Iterator[tuple[str, str]]:
    """(title, query) of each target of the dashboard."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


class ParsingTests(SynchronousTestCase):
    """The reading of queries that the other tests rely on."""

    def test_metrics(self) -> None:
        """Metrics are told from functions, operators, labels, durations and numbers."""
        for query, expected in (
            ("up", {"up"}),
            ('sum by (a) (rate(b{c="d", e=~"f"}[5m])) > 1e3', {"b"}),
            ("b / on (c, d) group_left (e) f", {"b", "f"}),
            ("max_over_time(b[1h] offset 5m) and not_a_function", {"b", "not_a_function"}),
            ('label_values(b{c="$d"}, e)', {"b", "e"}),
        ):
            self.assertEqual(expected, metrics_of(query) - {"5m"}, query)

    def test_labels(self) -> None:
        """Labels are those selected and those grouped by."""
        self.assertEqual({"a", "b", "c", "e"}, labels_of('sum by (a, b) (x{c="d=f", e!~"g"}) / y'))


class AlertTests(SynchronousTestCase):
    """deploy/prometheus/alerts.yml."""

    def test_metrics_exist(self) -> None:
        """Every metric and label in a rule is one that is exposed."""
        for rule in rules():
            used = metrics_of(rule["expr"])
            self.assertTrue(used, rule["alert"])
            self.assertEqual(set(), used - EXPOSED - EXPOSED_BY_ALL, rule["alert"])
            self.assertEqual(set(), labels_of(rule["expr"]) - LABELS, rule["alert"])

    def test_annotations(self) -> None:
        """Every rule has a severity, a summary that names the instance, and a description."""
        for rule in rules():
            self.assertIn(rule["labels"]["severity"], ("critical", "warning"), rule["alert"])
            self.assertIn("$labels.instance", rule["annotations"]["summary"])
            self.assertTrue(rule["annotations"]["description"])

    def test_every_rule_has_cases(self) -> None:
        """In each case nothing fires at first, and each alert fires alone in one."""
        fired = set()
        for case in yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]:
            first, *later = [check["exp_samples"] for check in case["promql_expr_test"]]
            self.assertEqual([], first, case["name"])
            for samples in later:
                if len(samples) == 1:
                    fired |= set(re.findall(r'alertname="(\w+)"', samples[0]["labels"]))
        self.assertEqual({rule["alert"] for rule in rules()}, fired)

    def test_cases_are_about_series_that_exist(self) -> None:
        """No case is about a metric or label that nothing exposes."""
        for case in yaml.safe_load(CASES.read_text(encoding="utf-8"))["tests"]:
            for series in case["input_series"]:
                self.assertLessEqual(metrics_of(series["series"]), EXPOSED | EXPOSED_BY_ALL)
                self.assertLessEqual(labels_of(series["series"]), LABELS)

    def test_explained(self) -> None:
        """docs/operations.md says what to do about each alert."""
        page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
        missing = [rule["alert"] for rule in rules() if f"`{rule['alert']}`" not in page]
        self.assertEqual([], missing)


class DashboardTests(SynchronousTestCase):
    """deploy/grafana/raccoon.json."""

    def test_metrics_exist(self) -> None:
        """Every metric and label in a query is one that is exposed."""
        for title, query in panel_queries():
            used = metrics_of(query)
            self.assertTrue(used, title)
            self.assertEqual(set(), used - EXPOSED, title)
            self.assertEqual(set(), labels_of(query) - LABELS, title)

    def test_variables(self) -> None:
        """Its variables are read from a metric that is exposed."""
        variables = json.loads(DASHBOARD.read_text(encoding="utf-8"))["templating"]["list"]
        self.assertEqual(["datasource", "job", "instance"], [v["name"] for v in variables])
        for variable in variables[1:]:
            used = metrics_of(variable["query"]["query"])
            self.assertLessEqual(used, EXPOSED | LABELS, variable["name"])

    def test_every_query_is_of_the_chosen_instances(self) -> None:
        """Each metric of each query is selected by job and instance."""
        for title, query in panel_queries():
            selected = query.count('{job="$job",instance=~"$instance"')
            named = sum(len(re.findall(rf"\b{name}\b", query)) for name in metrics_of(query))
            self.assertEqual(named, selected, title)

    def test_the_sum(self) -> None:
        """A panel shows received less all that events become."""
        (query,) = [query for title, query in panel_queries() if title == "Unaccounted events"]
        terms = {"rx_total", "delivered_total", "refused_total", "failed_total", "waiting_current"}
        journal = {
            "recovered_events_total",
            "events_current",
            "dead_lettered_events_total",
            "lost_events_total",
        }
        named = {f"events_{term}" for term in terms} | {f"journal_{term}" for term in journal}
        self.assertEqual(named, metrics_of(query))

    def test_panels(self) -> None:
        """Panels have ids of their own and do not lie on one another."""
        taken: set[tuple[int, int]] = set()
        for panel in panels():
            at = panel["gridPos"]
            self.assertLessEqual(at["x"] + at["w"], 24, panel["title"])
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            self.assertEqual(set(), cells & taken, panel["title"])
            taken |= cells
        self.assertEqual(len(panels()), len({panel["id"] for panel in panels()}))
