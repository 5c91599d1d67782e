"""What the dashboard of deploy/grafana shows of servers that run."""

from __future__ import annotations

import pytest

from tests.deploy.configuration import queries
from tests.monitoring.conftest import Watched
from tests.monitoring.prometheus import becomes

pytestmark = pytest.mark.timeout(900)  # its servers start one after the other
# What has not happened: nothing was dropped, no load failed, nothing is traced.
EMPTY = {"The server itself B", "Failed loads A", "Spans of traces A"}


def test_each_panel_has_something_to_show(watched: Watched) -> None:
    """Prometheus takes all of its queries, and each has series."""

    def empty() -> set[str]:
        found = {where: watched.prometheus.query(expression) for where, expression in queries()}
        return {where for where, series in found.items() if not series}

    assert becomes(empty, EMPTY) == EMPTY
