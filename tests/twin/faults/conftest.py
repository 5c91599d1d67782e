from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import talking
from tests.twin.faults.faulty import SAID, Faulty, faulty


@pytest.fixture(scope="module", params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    """The simulator runs on uvloop; a user's own process may not."""
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture(scope="module")
async def running_server(directory: Path) -> AsyncIterator[Faulty]:
    """A server whose model says a text with a character of two bytes."""
    async with faulty(talking(directory, SAID)) as server:
        yield server


@pytest.fixture
def server(running_server: Faulty) -> Faulty:
    """That one, without rules."""
    running_server.faults.clear()
    return running_server
