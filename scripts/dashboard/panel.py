"""A panel of the dashboard, and expressions that many panels use.

Gauges of engines are reported by every front end of a cluster: the largest counts, not the sum. Counters and
histograms are of what went through one front end: they are added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

OURS = 'job=~"$job", model=~"$model"'
ENGINES = 'job=~"$job", model_name=~"$model"'
RATE = "$__rate_interval"
STATES = ("failed", "unloaded", "asleep", "loading", "loaded")


class Kind(Enum):
    """Panel types by their names in Grafana."""

    STAT = "stat"
    TIME = "timeseries"
    STATES = "state-timeline"


@dataclass(frozen=True)
class Panel:
    """unit: by Grafana's names. queries: legend -> expression. most: the maximum of the scale. is_bad: values
    above zero are red. is_stacked: the values add up."""

    title: str
    meaning: str
    queries: dict[str, str]
    unit: str = "short"
    kind: Kind = Kind.TIME
    most: float | None = None
    is_bad: bool = False
    is_stacked: bool = False


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...]
    columns: int = 3


def quantiles(name: str, selector: str, by: str = "") -> dict[str, str]:
    """The quantiles 0.5, 0.95 and 0.99 of a histogram."""
    rate = f"sum by (le{by}) (rate({name}_bucket{{{selector}}}[{RATE}]))"
    return {f"p{part * 100:.0f}": f"histogram_quantile({part}, {rate})" for part in (0.5, 0.95, 0.99)}


def mean(name: str, selector: str) -> str:
    sums, counts = (f"sum(rate({name}_{part}{{{selector}}}[{RATE}]))" for part in ("sum", "count"))
    return f"{sums} / {counts}"


def rate(name: str, selector: str, by: str) -> str:
    return f"sum by ({by}) (rate({name}{{{selector}}}[{RATE}]))"


def largest(name: str, selector: str, by: str) -> str:
    return f"max by ({by}) ({name}{{{selector}}})"


def in_an_hour(name: str) -> str:
    """The increase in an hour of a counter that every front end of a cluster has."""
    return f"max by (job, model, engine) (increase({name}{{{OURS}}}[1h]))"


def in_use(name: str) -> str:
    """Only models that are not unloaded on purpose."""
    told = f'verbatim_model_state{{{OURS}, state=~"unloaded|asleep"}}'
    return f"{name}{{{OURS}}} unless on (job, instance, model) {told} == 1"


def state() -> str:
    """A number for each model, from 1, failed, to 5, loaded; with several front ends the worst."""
    told = f"max by (job, model) (verbatim_model_state{{{OURS}, state="
    return " or ".join(f'({told}"{one}"}}) == 1) * {number}' for number, one in enumerate(STATES, 1))
