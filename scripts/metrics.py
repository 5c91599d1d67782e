"""The tables of all metrics and alerts in docs/metrics.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml
from prometheus_client.metrics import MetricWrapperBase

from conform.report import cell
from server.http.metrics import Metrics

ALERTS = Path("deploy/prometheus/alerts.yml")
GROUPS = {"verbatim_": "Of the server", "vllm:": "Of engines, under vLLM's names"}


@dataclass(frozen=True)
class Alert:
    """One alerting rule of Prometheus. after: how long it must hold, as Prometheus writes it; empty:
    not at all."""

    name: str
    expression: str
    after: str
    severity: str
    meaning: str
    action: str

    @property
    def metrics(self) -> set[str]:
        """The metrics in its expression, without Prometheus's functions and labels."""
        return set(re.findall(r"\b(?:verbatim_|vllm:)\w+", self.expression))


def alerts(file: Path = ALERTS) -> list[Alert]:
    """The alerts of the rules file, in its order."""
    groups = yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]
    return [
        Alert(
            rule["alert"],
            " ".join(rule["expr"].split()),
            rule.get("for", ""),
            rule["labels"]["severity"],
            rule["annotations"]["description"],
            rule["annotations"]["action"],
        )
        for group in groups
        for rule in group["rules"]
    ]


def tables() -> str:
    """A table of the alerts, one of the server's metrics, and one of the engines' metrics."""
    there = alerts()
    lines = ["| alert | severity | after | it means | what to do |", "|---|---|---|---|---|"]
    lines += [_alert_row(alert) for alert in there]
    parts = ["## Alerts", "\n".join(lines)]
    for prefix, title in GROUPS.items():
        lines = ["| metric | type | labels | | alert |", "|---|---|---|---|---|"]
        lines += [_row(metric, there) for metric in metrics() if metric._name.startswith(prefix)]
        parts += [f"## {title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def metrics() -> Iterator[MetricWrapperBase]:
    """All metrics of a registry; prometheus_client has no public way to their labels."""
    for metric in Metrics()._registry._collector_to_names:
        assert isinstance(metric, MetricWrapperBase)
        yield metric


def name_of(metric: MetricWrapperBase) -> str:
    """The name in /metrics; a counter's samples have the same name."""
    name: str = metric._name
    return name + ("_total" if metric._type == "counter" else "")


def _alert_row(alert: Alert) -> str:
    cells = (f"`{alert.name}`", alert.severity, alert.after, cell(alert.meaning), cell(alert.action))
    return f"| {' | '.join(cells)} |"


def _row(metric: MetricWrapperBase, there: list[Alert]) -> str:
    name = name_of(metric)
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)
    hangs = ", ".join(f"`{alert.name}`" for alert in there if name in alert.metrics)
    return f"| `{name}` | {metric._type} | {labels} | {cell(metric._documentation)} | {hangs} |"
