"""The table of all metrics, as docs/metrics.md has it."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics import MetricWrapperBase

from conform.report import cell
from server.http.metrics import Metrics

GROUPS = {"verbatim_": "Of the server", "vllm:": "Of engines, under vLLM's names"}


def tables() -> str:
    """A table for the server's metrics, and one for those of engines."""
    parts = []
    for prefix, title in GROUPS.items():
        lines = ["| metric | type | labels | |", "|---|---|---|---|"]
        lines += [_row(metric) for metric in _metrics() if metric._name.startswith(prefix)]
        parts += [f"## {title}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _metrics() -> Iterator[MetricWrapperBase]:
    """All of a registry; prometheus_client has no public way to their labels."""
    for metric in Metrics()._registry._collector_to_names:
        assert isinstance(metric, MetricWrapperBase)
        yield metric


def _row(metric: MetricWrapperBase) -> str:
    name = metric._name + ("_total" if metric._type == "counter" else "")
    labels = ", ".join(f"`{label}`" for label in metric._labelnames)
    return f"| `{name}` | {metric._type} | {labels} | {cell(metric._documentation)} |"
