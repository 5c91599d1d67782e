from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

from server.text.tokenizer import Tokenizer, load_tokenizer
from tests.helpers import VOCAB_SIZE, byte_level, model_directory

pytest_plugins = ["tests.skips", "tests.tiers"]

# A machine that is busy makes no test fail; pytest-timeout ends what hangs.
hypothesis.settings.register_profile("verbatim", deadline=None)
hypothesis.settings.load_profile("verbatim")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The server runs on asyncio alone."""
    return "asyncio"


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a byte-level tokenizer."""
    return model_directory(tmp_path_factory.mktemp("models") / "byte-level", byte_level())


@pytest.fixture(scope="session")
def bytes_tokenizer(directory: Path) -> Tokenizer:
    """The tokenizer of that model."""
    return load_tokenizer(directory, VOCAB_SIZE)
