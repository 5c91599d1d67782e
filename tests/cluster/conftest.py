from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("ray") is None:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="Ray is not installed"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    maker = Path(__file__).parents[1] / "tiny_llama.py"
    subprocess.run([sys.executable, maker, folder], check=True)
    return folder
