from __future__ import annotations

from importlib.util import find_spec

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("ray") is None:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="Ray is not installed"))
