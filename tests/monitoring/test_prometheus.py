"""deploy/prometheus on a real Prometheus, which scrapes running servers."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client.metrics import MetricWrapperBase

from scripts.metrics import alerts, metrics, name_of
from tests.deploy.configuration import RULES
from tests.monitoring.conftest import NUM_STREAMS, NUM_TOKENS, Watched
from tests.monitoring.prometheus import becomes
from tests.serving import TINY, wait_for

pytestmark = pytest.mark.timeout(900)  # its servers start one after the other
# Appear when a connection is dropped, for want of file descriptors say; when a load fails; with tracing.
NOT_THERE = {
    "verbatim_connections_dropped_total",
    "verbatim_model_load_failures_total",
    "verbatim_spans_total",
}


def series_of(metric: MetricWrapperBase) -> str:
    """One of its series."""
    return name_of(metric) + ("_count" if metric._type == "histogram" else "")


def test_targets_are_up(watched: Watched) -> None:
    """A plain port, an admin port and one with TLS, each by its own variant of the configuration."""

    def up() -> set[str]:
        targets = watched.prometheus.get("targets")["activeTargets"]
        return {one["labels"]["job"] for one in targets if one["health"] == "up"}

    jobs = {"verbatim", "verbatim-admin", "verbatim-tls"}
    assert becomes(up, jobs) == jobs


def test_rules_are_evaluated(watched: Watched) -> None:
    """All of them, and none has an error."""

    def rules() -> list[dict[str, str]]:
        return [rule for group in watched.prometheus.get("rules")["groups"] for rule in group["rules"]]

    wait_for(lambda: all(rule["health"] != "unknown" for rule in rules()), 30)
    assert {rule["name"]: rule.get("lastError", "") for rule in rules()} == {
        alert.name: "" for alert in alerts(RULES)
    }


def test_every_metric_arrives(watched: Watched) -> None:
    """With the type and meaning that docs/metrics.md has, and with series, but for what has not happened."""
    told = watched.prometheus.get("metadata")
    named = {name_of(metric): metric for metric in metrics()}
    there = {name: told[name][0] for name in named if name in told}
    assert {name: (one["type"], one["help"]) for name, one in there.items()} == {
        name: (metric._type, metric._documentation) for name, metric in named.items()
    }

    def empty() -> set[str]:
        return {name for name, metric in named.items() if not watched.prometheus.query(series_of(metric))}

    assert becomes(empty, NOT_THERE) == NOT_THERE


def test_tokens_are_counted_once(watched: Watched) -> None:
    """By the server those that were asked for; by the engine its warm-up's too. Each is a request's first, or
    has a distance to the one before."""

    of_engine = f'{{model_name="{TINY}"}}'
    tokens = f"vllm:generation_tokens_total{of_engine}"
    first = f"vllm:time_to_first_token_seconds_count{of_engine}"
    gaps = f"vllm:inter_token_latency_seconds_count{of_engine}"
    asked = NUM_STREAMS * NUM_TOKENS
    assert becomes(lambda: watched.prometheus.value(f"{tokens} - {first} - {gaps}"), 0) == 0
    ours = f'verbatim_completion_tokens_total{{model="{TINY}"}}'
    assert becomes(lambda: watched.prometheus.value(ours), asked) == asked
    assert (watched.prometheus.value(f"max_over_time({tokens}[10m])") or 0) >= asked


def test_a_server_that_is_gone_rings(watched: Watched) -> None:
    """And no other does, nor a model that is unloaded until it is asked for."""
    prometheus = watched.prometheus
    rings = {"verbatim-gone": "firing"}
    assert becomes(lambda: prometheus.alerts("VerbatimDown"), rings) == rings
    unloaded = 'verbatim_model_state{model="rare",state="unloaded"}'
    assert becomes(lambda: prometheus.value(unloaded), 1) == 1
    assert becomes(lambda: prometheus.alerts("VerbatimModelNotReady"), {}) == {}


def test_an_engine_that_is_killed_rings(watched: Watched) -> None:
    """While it starts again its model is not ready: pending, firing, and silent when it is back. The streams
    have gone on, and the death is counted."""
    prometheus, states = watched.prometheus, set[str]()
    (engine,) = [one for one in watched.server.engines() if one.name().startswith("VLLM::Engine")]
    deaths = f'increase(verbatim_engine_deaths_total{{model="{TINY}"}}[1h])'
    with ThreadPoolExecutor(1) as pool:
        streams = pool.submit(watched.load, TINY, 200)
        with watched.client() as client:
            wait_for(lambda: client.running(TINY), 30)
        os.kill(engine.pid, signal.SIGKILL)

        def is_over() -> bool:
            state = prometheus.alerts("VerbatimModelNotReady").get(TINY, "")
            states.add(state)
            return state == "" and "firing" in states

        wait_for(is_over, 120, every_s=0.1)
        streams.result(120)
    assert states == {"", "pending", "firing"}
    assert wait_for(lambda: prometheus.value(deaths), 10) >= 1
    assert wait_for(lambda: prometheus.value(f'verbatim_resumed_total{{model="{TINY}"}}'), 10) > 0
    (alert,) = [one for one in prometheus.get("alerts")["alerts"] if one["labels"]["job"] == "verbatim-gone"]
    assert alert["annotations"]["summary"].endswith("does not answer Prometheus")
