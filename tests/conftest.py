from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from server.text.tokenizer import Tokenizer, load_tokenizer
from tests.helpers import VOCAB_SIZE, byte_level, model_directory

pytest_plugins = ["tests.skips", "tests.tiers"]

CONFIGURED = ("server", "verbatim", "asyncio", "urllib3", "filelock")  # loggers (server/observe/logs.py)

# A machine that is busy makes no test fail; pytest-timeout ends what hangs.
hypothesis.settings.register_profile("verbatim", deadline=None)
hypothesis.settings.load_profile("verbatim")


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """A test that configures the log, as a server does, changes nothing for later ones, which read theirs."""
    root = logging.getLogger()
    loggers = [root, *map(logging.getLogger, CONFIGURED)]
    handlers, levels = root.handlers[:], [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
    # pytest's own handlers, which it changes meanwhile, are subclasses.
    root.handlers = [
        one for one in root.handlers if one in handlers or type(one) is not logging.StreamHandler
    ]


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
