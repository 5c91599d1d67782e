"""deploy/grafana: that Grafana can read it, and that what it asks Prometheus for is there."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.dashboard import file
from scripts.metrics import metrics, name_of
from tests.deploy.configuration import CONFIG, GRAFANA, ROOT, TARGET, dashboard, promtool, queries, unknown

PANELS = dashboard()["panels"]
# What others on the dashboard stand for: deaths; whole requests; prefill and decode.
NOT_SHOWN = {
    "verbatim_engine_restarts",
    "vllm:e2e_request_latency_seconds",
    "vllm:request_inference_time_seconds",
}


def targets() -> list[dict[str, Any]]:
    return [target for panel in PANELS for target in panel.get("targets", ())]


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def test_the_file_is_current() -> None:
    """It is what `python -m scripts.dashboard` writes."""
    assert (ROOT / file.FILE).read_text("utf-8") == file.text()


def test_grafana_knows_every_key() -> None:
    """Read into Grafana's own types and written again, nothing is missing: they leave out what they
    do not know."""
    models = pytest.importorskip(
        "grafana_foundation_sdk.models.dashboard", reason="grafana-foundation-sdk is not installed"
    )
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    written = json.loads(JSONEncoder().encode(models.Dashboard.from_json(dashboard())))
    assert lost(dashboard(), written) == []


def lost(before: Any, after: Any, path: str = "") -> list[str]:
    """Where something is not as it was; keys may have come."""
    if isinstance(before, dict) and isinstance(after, dict):
        parts = [(f"{path}/{key}", value, after.get(key)) for key, value in before.items()]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        parts = [(f"{path}/{k}", *pair) for k, pair in enumerate(zip(before, after, strict=True))]
    else:
        return [] if before == after else [path]
    return [one for where, value, other in parts for one in lost(value, other, where)]


def test_panels_have_their_own_places_and_numbers() -> None:
    """No two have one number, none covers another, none is wider than the page; nor have two queries of a
    panel one letter."""
    assert len({panel["id"] for panel in PANELS}) == len(PANELS) > 30
    places = [panel["gridPos"] for panel in PANELS]
    assert not any(overlap(*pair) for pair in combinations(places, 2))
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for panel in PANELS:
        letters = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(letters)) == len(letters)
        assert panel["type"] == "row" or (letters and panel["description"])


def test_which_prometheus_is_asked_is_a_variable() -> None:
    """Of everything that asks one, so that the dashboard can be imported anywhere."""
    variables = {one["name"]: one for one in dashboard()["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    asks = [*targets(), *dashboard()["annotations"]["list"], *(variables[one] for one in ("job", "model"))]
    assert {json.dumps(one["datasource"]) for one in asks} == {
        json.dumps({"type": "prometheus", "uid": "${datasource}"})
    }


def test_what_is_asked_for_is_there() -> None:
    """Every metric of a panel, a variable or a mark, and every label that it is chosen or grouped by."""
    others = [one["expr"] for one in dashboard()["annotations"]["list"]]
    wrong = {where: unknown(expression) for where, expression in queries()}
    assert {where: names for where, names in wrong.items() if names} == {}
    assert [unknown(expression) for expression in others] == [set()]
    for target in targets():
        grouped = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", target["expr"]))))
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= grouped | TARGET


def test_every_metric_is_on_a_panel() -> None:
    """But for those that another one stands for."""
    asked = " ".join(expression for _, expression in queries())
    assert {name_of(metric) for metric in metrics() if name_of(metric) not in asked} == NOT_SHOWN


def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    """As the rules of a file, which promtool reads."""
    rules = [
        {"record": f"panel:{number}", "expr": expression} for number, (_, expression) in enumerate(queries())
    ]
    panels = tmp_path / "panels.yml"
    panels.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    promtool("check", "rules", panels)


def test_grafana_is_told_where_all_of_it_is() -> None:
    """A Prometheus on the same machine, scraped as often as it says; a folder for the dashboard."""
    source, provider = (
        yaml.safe_load((GRAFANA / f"provisioning/{name}/verbatim.yml").read_text("utf-8"))
        for name in ("datasources", "dashboards")
    )
    assert source["datasources"][0]["type"] == "prometheus"
    every = yaml.safe_load(CONFIG.read_text("utf-8"))["global"]["scrape_interval"]
    assert source["datasources"][0]["jsonData"]["timeInterval"] == every
    assert provider["providers"][0]["options"]["path"] == "/var/lib/grafana/dashboards/verbatim"
