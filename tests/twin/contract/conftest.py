"""The server of tests/engine, with the twin in the engines' place: the same models, limits and keys."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import Started, client, configuration, keys_file, smol_path, tiny_path, watched
from tests.serving import serving

__all__ = ["client", "keys_file", "smol_path", "tiny_path"]


@pytest.fixture(scope="session")
def started(tiny_path: Path, keys_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    config = configuration(tiny_path, keys_file)
    with serving(
        tmp_path_factory.mktemp("twin"), config, "--profile", "gpu-8b", "--speed", "4", command="simulate"
    ) as server:
        yield watched(server)
