from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.collector import Collector, collecting


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector of traces, over HTTP."""
    with collecting() as one:
        yield one
