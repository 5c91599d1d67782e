"""A hub on loopback, with a fake engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from server.engine.vllm.hub import Hub
from tests.hubs import FakeEngine

NUM_SLOTS = 3


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub("127.0.0.1", tmp_path, NUM_SLOTS)
    yield hub
    hub.close()


@pytest.fixture
def engine(hub: Hub) -> Iterator[FakeEngine]:
    engine = FakeEngine(hub.folders)
    yield engine
    engine.close()
