"""The contract's rules (conform/), on the twin."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from conform.subject.server import Subject
from tests.conform.subjects import subject_at
from tests.engine.conftest import KEYS
from tests.engine.test_contract import *  # noqa: F403
from tests.serving import serving, tiny_model


@pytest.fixture(scope="module")
def subject(tiny_path: Path, keys_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """As the real engine's."""
    config = {"models": [tiny_model(tiny_path)], "api_keys_file": str(keys_file)}
    with serving(
        tmp_path_factory.mktemp("plain"), config, "--profile", "gpu-8b", "--speed", "4", command="simulate"
    ) as server:
        server.wait_ready()
        with subject_at(server.url(), KEYS["alice"]) as subject:
            yield subject
