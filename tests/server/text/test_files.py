from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import processors

from server.errors import ConfigurationError
from server.text.tokenizer import Tokenizer, load_tokenizer
from tests.helpers import EOS, VOCAB_SIZE, byte_level, model_directory


def write(directory: Path, file: str, **content: Any) -> None:
    (directory / file).write_text(json.dumps(content))


def loaded(directory: Path, vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    return load_tokenizer(directory, vocab_size)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model directory of its own."""
    return model_directory(tmp_path, byte_level())


# --- ids that begin and end a text -------------------------------------------------------------------------


def test_ends_and_beginning(directory: Path) -> None:
    """BOS and EOS are read from the tokenizer's configuration, where it has them."""
    assert (loaded(directory).bos_id, loaded(directory).eos_ids) == (0, (1,))


def test_ends_of_every_file(path: Path) -> None:
    """Each id that any file calls an end is one, once."""
    write(path, "generation_config.json", eos_token_id=[1, 9])
    write(path, "config.json", eos_token_id=8, bos_token_id=7)
    (path / "tokenizer_config.json").unlink()
    assert (loaded(path).bos_id, loaded(path).eos_ids) == (7, (1, 9, 8))


@pytest.mark.parametrize("strange", [5000, VOCAB_SIZE, -1, True, "1", 1.0, {}])
def test_ids_that_the_model_lacks(path: Path, caplog: pytest.LogCaptureFixture, strange: object) -> None:
    """What is no id of the model is left out with a warning, whichever file has it."""
    (path / "tokenizer_config.json").unlink()
    write(path, "generation_config.json", eos_token_id=[2, strange], bos_token_id=strange)
    write(path, "config.json", eos_token_id=strange, bos_token_id=7)
    tokenizer = loaded(path)
    assert (tokenizer.bos_id, tokenizer.eos_ids) == (7, (2,))
    assert caplog.text.count("no id of the model's") == 3


def test_tokenizers_end_beyond_the_model(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A tokenizer that has more tokens than its model has no end there."""
    assert loaded(path, 1).eos_ids == ()
    assert "tokenizer_config.json: eos_token is 1" in caplog.text


def test_beginning_beyond_the_model(tmp_path: Path) -> None:
    """A tokenizer that begins every prompt with a token which the model lacks is refused."""
    tokenizer = byte_level()
    tokenizer.post_processor = processors.TemplateProcessing(f"{EOS} $A", special_tokens=[(EOS, 5000)])
    with pytest.raises(ConfigurationError, match="token id 5000 around every prompt"):
        loaded(model_directory(tmp_path, tokenizer))
