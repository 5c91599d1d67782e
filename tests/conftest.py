from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import hypothesis
import pytest
import yaml

from bundle.signing import make_keys
from server.text.tokenizer import Tokenizer, load_tokenizer
from tests.engine.serving import SMOL_MODEL
from tests.helpers import VOCAB_SIZE, byte_level, model_directory

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


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The text profile for the CPU with the built-in model, in parts and signed; made with a network."""
    subprocess.run([sys.executable, "-m", "server.weights.builtin"], check=True)
    folder = tmp_path_factory.mktemp("bundle")
    make_keys(folder / "maker")
    config = {"port": 0, "attest": True, "models": [SMOL_MODEL]}
    (folder / "models.yaml").write_text(yaml.safe_dump(config))
    command = [Path(sys.executable).with_name("verbatim"), "bundle", "--config", folder / "models.yaml"]
    command += ["--device", "cpu", "--profile", "text", "--out", folder / "bundle", "--part-size", "60MiB"]
    command += ["--sign", folder / "maker.key"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return folder / "bundle"
