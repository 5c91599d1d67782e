"""The contract's rules (conform/), on the twin."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from conform.runner import connect
from conform.subject.client import Client
from conform.subject.server import Subject
from tests.engine.conftest import KEYS
from tests.engine.test_contract import *  # noqa: F403
from tests.serving import ANSWER_S, serving, tiny_model


@pytest.fixture(scope="module")
def subject(tiny_path: Path, keys_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """As the real engine's."""
    config = {"models": [tiny_model(tiny_path)], "api_keys_file": str(keys_file)}
    with serving(
        tmp_path_factory.mktemp("plain"), config, "--profile", "gpu-8b", "--speed", "4", command="simulate"
    ) as server:
        server.wait_ready()
        key = KEYS["alice"]
        found = connect(server.url(), "hosted", None, key, lambda base: Client(base, key, timeout_s=ANSWER_S))
        yield found
        found.client.close()
