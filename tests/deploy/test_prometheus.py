"""deploy/prometheus, read and tried by promtool, Prometheus's own tool."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.metrics import alerts
from tests.deploy.alert_cases import CASES, TARGET, Case
from tests.deploy.configuration import CONFIG, RULES, promtool, unknown, variants


def series_of(case: Case) -> list[dict[str, str]]:
    """With the target's labels, where a series does not say others."""
    found = []
    for series, values in case.series.items():
        name, _, own = series.rstrip("}").partition("{")
        labels = TARGET | dict(re.findall(r'(\w+)="([^"]*)"', own))
        text = ",".join(f'{label}="{value}"' for label, value in labels.items())
        found.append({"series": f"{name}{{{text}}}", "values": values})
    return found


def as_test(case: Case) -> dict[str, Any]:
    """As promtool reads it: what Prometheus itself writes of an alert that fires is the series ALERTS."""
    severity = next(alert.severity for alert in alerts(RULES) if alert.name == case.alert)
    alert = {"alertname": case.alert, "alertstate": "firing"}
    labels = None if case.fires is None else alert | {"severity": severity} | case.fires
    rings = [] if labels is None else [{"labels": f"ALERTS{selector(labels)}", "value": 1}]
    asked = {"expr": f"ALERTS{selector(alert)}", "eval_time": f"{case.at}m", "exp_samples": rings}
    series = series_of(case)
    return {"name": case.why, "interval": "1m", "input_series": series, "promql_expr_test": [asked]}


def selector(labels: dict[str, str]) -> str:
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def test_prometheus_takes_the_configuration() -> None:
    """And the rules that it names."""
    promtool("check", "config", CONFIG)


@pytest.mark.parametrize("variant", variants(), ids=["admin port", "TLS", "proxy", "cluster"])
def test_prometheus_takes_each_variant(variant: str, tmp_path: Path) -> None:
    """Of the jobs that stand in comments; the files of certificates and keys are not there to be read."""
    config = tmp_path / "prometheus.yml"
    before = CONFIG.read_text("utf-8").split("\nscrape_configs:\n")[0]
    config.write_text(f"{before}\n{variant}", "utf-8")
    promtool("check", "config", "--syntax-only", config)
    names = [job["job_name"] for job in yaml.safe_load(variant)["scrape_configs"]]
    assert all(name.startswith("verbatim") for name in names), "VerbatimDown knows it by its name"


@pytest.mark.parametrize("name", [alert.name for alert in alerts(RULES)])
def test_an_alert_rings_or_does_not(name: str, tmp_path: Path) -> None:
    """As its cases say, by Prometheus's own evaluation."""
    file = tmp_path / "test.yml"
    tests = [as_test(case) for case in CASES if case.alert == name]
    rules = {"rule_files": [str(RULES)], "evaluation_interval": "1m"}
    file.write_text(yaml.safe_dump(rules | {"tests": tests}), "utf-8")
    promtool("test", "rules", file)


@pytest.mark.parametrize("alert", alerts(RULES), ids=lambda alert: alert.name)
def test_each_alert_is_tried_both_ways(alert: Any) -> None:
    """A case in which it rings, and one in which it does not; a severity, and what to do."""
    assert {case.fires is None for case in CASES if case.alert == alert.name} == {True, False}
    assert alert.severity in ("critical", "warning")
    assert alert.action


@pytest.mark.parametrize("alert", alerts(RULES), ids=lambda alert: alert.name)
def test_an_alert_is_about_metrics_that_there_are(alert: Any) -> None:
    """By name, and their labels too."""
    assert unknown(alert.expression) == set()
