"""deploy/prometheus and deploy/grafana, as tests read them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.metrics import ALERTS, metrics, name_of

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "deploy/prometheus/prometheus.yml"
RULES = ROOT / ALERTS
GRAFANA = ROOT / "deploy/grafana"
TARGET = {"job", "instance"}  # labels that Prometheus gives what it scrapes
OF_ALERTS = {"alertname", "alertstate", "severity"}  # of the series that Prometheus writes itself


def promtool(*arguments: str | Path) -> None:
    """Prometheus's own tool; fails with what it says."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    ran = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def variants() -> list[str]:
    """What the configuration's comments offer instead of its own targets, without the marks of a comment: an
    admin port, TLS, a proxy, a cluster."""
    _, *parts = CONFIG.read_text("utf-8").split("\n# scrape_configs:\n")
    lines = (re.match(r"(?:# .+\n)+", part) for part in parts)
    return ["scrape_configs:\n" + re.sub("^# ", "", found[0], flags=re.MULTILINE) for found in lines if found]


def labels() -> dict[str, set[str]]:
    """Of each series that there is, by its name: those of a histogram have a name each."""
    found = {"up": TARGET, "ALERTS": TARGET | OF_ALERTS}
    for metric in metrics():
        own = TARGET | set(metric._labelnames)
        found[name_of(metric)] = own
        if metric._type == "histogram":
            found |= {f"{name_of(metric)}_{part}": own for part in ("sum", "count")}
            found[f"{name_of(metric)}_bucket"] = own | {"le"}
            del found[name_of(metric)]
    return found


def unknown(expression: str) -> set[str]:
    """Names in an expression of PromQL that are no series, and labels that its series do not have."""
    there = labels()
    names = set(re.findall(r"\b(?:(?:verbatim_|vllm:)\w+|ALERTS|up)\b", expression))
    wrong = names - there.keys()
    selectors = re.findall(r"([\w:]+)\{([^}]*)\}", expression)
    for name, inside in selectors:
        wrong |= set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside)) - there.get(name, set())
    known = set().union(*(there[name] for name in names & there.keys()))
    for inside in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression):
        wrong |= set(inside.split(", ")) - known
    return wrong


def dashboard() -> dict[str, Any]:
    read: dict[str, Any] = json.loads((GRAFANA / "verbatim.json").read_text("utf-8"))
    return read


def queries() -> Iterator[tuple[str, str]]:
    """Of the dashboard: panel and letter, and the expression as Grafana asks it, for all jobs and models."""
    values = {"$job": ".*", "$model": ".*", "$__rate_interval": "1m"}
    for panel in dashboard()["panels"]:
        for target in panel.get("targets", ()):
            expression = re.sub(r"\$\w+", lambda found: values[found[0]], target["expr"])
            yield f"{panel['title']} {target['refId']}", expression
