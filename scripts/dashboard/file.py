"""Makes the dashboard's file, in the form of Grafana 10.1 and later.

The Prometheus to use is chosen in Grafana, with the variable `datasource`.
"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

from scripts.dashboard import engines, requests
from scripts.dashboard.panel import STATES, Kind, Panel, Row

FILE = Path("deploy/grafana/verbatim.json")
WIDTH = 24  # columns of Grafana's grid
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
HEIGHTS = {Kind.STAT: 4, Kind.TIME: 8, Kind.STATES: 6}
COLOURS = {"failed": "red", "unloaded": "text", "asleep": "blue", "loading": "yellow", "loaded": "green"}
ROWS = (*requests.ROWS, *engines.ROWS)


def dashboard() -> dict[str, Any]:
    return {
        "uid": "verbatim",
        "title": "Verbatim",
        "description": "A Verbatim server or cluster. Alerts and metrics: docs/metrics.md.",
        "tags": ["verbatim", "llm"],
        "schemaVersion": 38,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one crosshair on all panels
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables())},
        "annotations": {"list": [_alerts()]},
        "panels": _panels(),
    }


def text() -> str:
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"}
    asked = {"job": "label_values(verbatim_model_ready, job)"}
    asked["model"] = 'label_values(verbatim_model_ready{job=~"$job"}, model)'
    values = [
        {
            "name": name,
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,  # when the time range changes
            "includeAll": True,
            "multi": True,
            "current": {"text": "All", "value": "$__all", "selected": True},
            "sort": 1,
        }
        for name, query in asked.items()
    ]
    return [source, *values]


def _alerts() -> dict[str, Any]:
    """Marks on every panel when an alert fired."""
    return {
        "name": "Alerts",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": 'ALERTS{alertname=~"Verbatim.*", alertstate="firing", job=~"$job"}',
    }


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    numbers, top = count(1), 0
    for row in ROWS:
        panels.append(
            {
                "id": next(numbers),
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
                "panels": [],
            }
        )
        top += 1
        left = 0
        for panel in row.panels:
            width = WIDTH // row.columns
            if left + width > WIDTH:
                left, top = 0, top + _height(row)
            place = {"x": left, "y": top, "w": width, "h": _height(row)}
            panels.append({"id": next(numbers), "gridPos": place, **_panel(panel)})
            left += width
        top += _height(row)
    return panels


def _height(row: Row) -> int:
    return max(HEIGHTS[panel.kind] for panel in row.panels)


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": SOURCE,
            "expr": expression,
            "legendFormat": legend,
            "range": panel.kind is not Kind.STAT,
            "instant": panel.kind is Kind.STAT,
        }
        for number, (legend, expression) in enumerate(panel.queries.items())
    ]
    return {
        "type": panel.kind.value,
        "title": panel.title,
        "description": panel.meaning,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _options(panel),
    }


def _field(panel: Panel) -> dict[str, Any]:
    field: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.most is not None:
        field["max"] = panel.most
    if panel.kind is Kind.TIME:
        field["custom"] = {"fillOpacity": 25 if panel.is_stacked else 5, "showPoints": "never"}
        if panel.is_stacked:
            field["custom"]["stacking"] = {"mode": "normal", "group": "A"}
        return field
    steps: list[dict[str, Any]] = [{"value": None, "color": "green"}]
    if panel.is_bad:
        steps.append({"value": 1, "color": "red"})
    field |= {"thresholds": {"mode": "absolute", "steps": steps}, "color": {"mode": "thresholds"}}
    if panel.kind is Kind.STATES:
        field["mappings"] = [{"type": "value", "options": _states(panel)}]
    return field


def _states(panel: Panel) -> dict[str, dict[str, Any]]:
    """The names and colours of states."""
    if panel.most == 1:
        return {"0": {"text": "not ready", "color": "red"}, "1": {"text": "ready", "color": "green"}}
    return {
        str(number): {"text": state, "color": COLOURS[state], "index": number}
        for number, state in enumerate(STATES, 1)
    }


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind is Kind.STAT:
        reduce = {"calcs": ["lastNotNull"], "fields": "", "values": False}
        return {"reduceOptions": reduce, "colorMode": "value", "graphMode": "none", "textMode": "auto"}
    if panel.kind is Kind.STATES:
        return {"mergeValues": True, "showValue": "auto", "rowHeight": 0.8}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
