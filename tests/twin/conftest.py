"""The twin's own language, once for all."""

from __future__ import annotations

import pytest

from twin.language.model import Language
from twin.language.store import own_language


@pytest.fixture(scope="session")
def language() -> Language:
    return own_language()
