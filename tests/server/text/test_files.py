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
    assert caplog.text.count("not an id of the model's") == 3


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


# --- tokens beside tokenizer.json --------------------------------------------------------------------------

CHATML = {"<|im_start|>": 265, "<|im_end|>": 266}
SPECIAL = {"special": True, "normalized": False}


@pytest.mark.parametrize(
    "files",
    [
        {
            "tokenizer_config.json": {
                "added_tokens_decoder": {i: {"content": t, **SPECIAL} for t, i in CHATML.items()}
            }
        },
        {"added_tokens.json": CHATML},
    ],
)
def test_tokens_of_other_files(path: Path, files: dict[str, Any]) -> None:
    """Tokens that tokenizer.json lacks are tokens, and the one that is named as the end ends."""
    write(path, "tokenizer_config.json")
    for file, content in files.items():
        write(path, file, **content)
    config = files.get("tokenizer_config.json", {})
    write(path, "tokenizer_config.json", **config, eos_token="<|im_end|>")
    tokenizer = loaded(path)
    assert tokenizer.eos_ids == (266,)
    assert tokenizer.encode("<|im_start|>hello<|im_end|>") == [265, 261, 266]
    assert tokenizer.special >= {266}


@pytest.mark.parametrize("name", ["bos_token", "eos_token"])
def test_end_that_no_file_has(path: Path, name: str) -> None:
    """A BOS or EOS that is none of the tokenizer's tokens is refused by its name."""
    write(path, "tokenizer_config.json", **{name: "<nowhere>"})
    with pytest.raises(
        ConfigurationError, match=f"{name} is '<nowhere>', but the tokenizer has no such token"
    ):
        loaded(path)


def test_token_beyond_the_model_is_not_added(path: Path) -> None:
    """A special token that the model was never taught is no token: a prompt may have such text."""
    write(path, "tokenizer_config.json", pad_token="[PAD]")
    assert loaded(path, 265).encode("[PAD]") != loaded(path, 266).encode("[PAD]") == [265]


@pytest.mark.parametrize("decoder", [[], {"x": {}}, {"1": {}}, {"1": "<s>"}, {"1": {"content": 1}}])
def test_tokens_described_in_no_known_way(path: Path, decoder: object) -> None:
    """What cannot be read as tokens is an error that names the directory, not a crash."""
    write(path, "tokenizer_config.json", added_tokens_decoder=decoder)
    with pytest.raises(ConfigurationError, match=str(path)):
        loaded(path)


@pytest.mark.parametrize("content", ["[" * 100_000, "{", "[]"])
def test_a_file_that_cannot_be_read(path: Path, content: str) -> None:
    """One that is no JSON object, or nested without end, is named."""
    (path / "tokenizer_config.json").write_text(content)
    with pytest.raises(ConfigurationError, match=r"tokenizer_config\.json"):
        load_tokenizer(path, VOCAB_SIZE)
