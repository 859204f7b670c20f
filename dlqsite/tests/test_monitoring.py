"""Alert rules and dashboard: complete, tested, and about metrics that exist. ``make alerts`` runs their tests."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from dlqsite.tests.test_docs import DOCS, ROOT, anchors

PROMETHEUS = ROOT / "deploy/prometheus"
GROUPS = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text(encoding="utf-8"))["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
_LABELS = re.compile(r"\{[^}]*\}")
_METRIC = re.compile(r"\b(dlq_[a-z0-9_]+)")


def cases() -> Iterator[tuple[str, bool]]:
    """Each tested alert, and whether the test expects it to fire."""
    for file in ("alerts_test.yml", "alerts_slow_test.yml"):
        for test in yaml.safe_load((PROMETHEUS / file).read_text(encoding="utf-8"))["tests"]:
            for expected in test.get("promql_expr_test", []):
                yield re.findall(r'alertname="(\w+)"', expected["expr"])[0], bool(expected["exp_samples"])


def metrics_of(expression: str) -> set[str]:
    return {re.sub(r"_bucket$", "", name) for name in _METRIC.findall(_LABELS.sub("", expression))} - {"dlq_console"}


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_every_alert_says_what_it_means_and_what_to_do(rule: dict[str, Any]) -> None:
    notes = rule["annotations"]
    page, _, anchor = notes["runbook_url"].partition("#")

    assert rule["labels"]["severity"] in ("critical", "warning")
    assert notes["summary"].endswith(".")
    assert notes["description"].endswith(".")
    assert page.endswith("/admin/docs/on-call/")
    assert anchor in anchors(ROOT / "docs/on-call.md")
    assert f"`{rule['alert']}` | {rule['labels']['severity']} |" in DOCS["alerts.md"]


def test_the_page_on_alerts_names_no_other() -> None:
    assert set(re.findall(r"`(Dlq\w+)`", DOCS["alerts.md"])) == {rule["alert"] for rule in ALERTS}


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    assert set(cases()) == {(rule["alert"], fires) for rule in ALERTS for fires in (True, False)}


def dashboard_expressions() -> list[str]:
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/dlq.json").read_text(encoding="utf-8"))
    return [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]


def test_rules_and_dashboard_read_only_metrics_that_exist() -> None:
    read = {name for text in [*(rule["expr"] for rule in RULES), *dashboard_expressions()] for name in metrics_of(text)}

    assert read - set(_METRIC.findall(DOCS["metrics.md"])) == set()
