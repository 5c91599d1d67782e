from __future__ import annotations

from pathlib import Path

import pytest

from server.engine.served import ServedModel
from tests.helpers import talking


@pytest.fixture
def model(directory: Path) -> ServedModel:
    """A model that says a text of a dozen tokens."""
    return talking(directory, "hello or hello or")
