"""A LoRA adapter's directory, checked against its model."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from server.errors import ConfigurationError
from server.weights.adapters import Adapter, Base, check_adapter
from server.weights.checkpoint import digest_of
from tests.adapters import PREFIX, SHAPES, Q, write_adapter

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture
def base(tmp_path: Path) -> Base:
    path = tmp_path / "base"
    path.mkdir()
    (path / "tokenizer.json").write_text("{}")
    return Base(path, ("org/base", "base"), {f"{name}.weight": shape for name, shape in SHAPES.items()})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter")


def check(directory: Path, base: Base, **sha256: str) -> Adapter:
    return check_adapter(
        "a", directory, base, {name.replace("_json", ".json"): v for name, v in sha256.items()}
    )


def refusal(directory: Path, base: Base, **sha256: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check(directory, base, **sha256)
    assert caught.value.message.startswith("adapter a: ")
    return caught.value.message


def test_an_adapter_that_fits(directory: Path, base: Base) -> None:
    """Its rank and its size are told."""
    found = check(directory, base)
    assert (found.id, found.directory, found.rank) == ("a", directory, 2)
    assert found.num_bytes == (directory / WEIGHTS).stat().st_size


def test_other_files_are_another_adapter(directory: Path, base: Base) -> None:
    """What an engine knows it by follows from its files, wherever these are: neither a cached prefix nor its
    weights in memory are those of others."""
    before = check(directory, base)
    moved = check(directory.rename(directory.with_name("moved")), base)
    assert (moved.name, moved.number) == (before.name, before.number)
    file = moved.directory / WEIGHTS
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    after = check(moved.directory, base)
    assert after.name != before.name
    assert after.number != before.number
    assert 0 < after.number < 2**31


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"peft_type": "LOHA"}, "LOHA"),
        ({"task_type": "SEQ_CLS"}, "SEQ_CLS"),
        ({"lora_alpha": None}, "no lora_alpha"),
        ({"target_modules": None}, "no target_modules"),
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "bias"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"alora_invocation_tokens": [3]}, "aLoRA"),
        ({"init_lora_weights": "pissa"}, "pissa"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_plain_lora_is_refused(
    directory: Path, base: Base, config: dict[str, Any], words: str
) -> None:
    """By name: each of them would be another text than PEFT's."""
    assert words in refusal(write_adapter(directory, **config), base)


@pytest.mark.parametrize(
    "config", [{"use_rslora": True}, {"init_lora_weights": "gaussian"}, {"modules_to_save": []}], ids=str
)
def test_what_vllm_has_is_served(directory: Path, base: Base, config: dict[str, Any]) -> None:
    """Rank-stabilized scales, and whatever changes no weights of the model."""
    assert check(write_adapter(directory, **config), base).rank == 2


def test_pickles_are_refused(directory: Path, base: Base) -> None:
    """A pickle can run any code, so it is not even opened; the message says how to convert it."""
    (directory / WEIGHTS).rename(directory / "adapter_model.bin")
    assert "save_pretrained" in refusal(directory, base)


def test_a_directory_that_is_none(directory: Path, base: Base) -> None:
    """No directory, no configuration, no weights: each is said."""
    assert "does not exist" in refusal(directory / "gone", base)
    (directory / WEIGHTS).unlink()
    assert "no adapter_model.safetensors" in refusal(directory, base)
    (directory / CONFIG).unlink()
    assert "no adapter_config.json" in refusal(directory, base)


def test_a_module_that_the_model_has_not(directory: Path, base: Base) -> None:
    """It is named, for it was trained on another model."""
    name = Q.replace(".0.", ".7.")
    assert f"{name}, but the model has no such module" in refusal(
        write_adapter(directory, {name: (8, 4)}), base
    )


def test_another_shape_than_the_models(directory: Path, base: Base) -> None:
    """Both are told."""
    message = refusal(write_adapter(directory, {Q: (8, 5)}), base)
    assert f"{Q} is 8 × 5 in the adapter and 8 × 4 in the model" in message


def test_weights_that_are_not_read_have_no_shapes(directory: Path, base: Base) -> None:
    """With random weights, as load_format dummy has them, there is nothing to compare."""
    assert check(write_adapter(directory, {"any": (1, 1)}), Base(base.directory, base.names, {})).rank == 2


def test_a_quantized_module_has_a_shape_of_its_own(directory: Path, base: Base) -> None:
    """It is there, and vLLM compares the shapes."""
    packed = Base(base.directory, base.names, {f"{Q}.qweight": (1, 8)})
    assert check(directory, packed).rank == 2


def test_ranks_follow_the_patterns(directory: Path, base: Base) -> None:
    """By PEFT's rule, where modules have ranks of their own; the largest counts."""
    assert check(write_adapter(directory, rank=4, r=2, rank_pattern={"q_proj": 4}), base).rank == 4


def test_a_rank_that_the_configuration_does_not_say(directory: Path, base: Base) -> None:
    """The scale would be wrong: the files are not of one adapter."""
    assert "says 8" in refusal(write_adapter(directory, rank=4, r=8), base)


def test_a_rank_beyond_vllms(directory: Path, base: Base) -> None:
    """It is refused with the largest there is."""
    assert "at most 512" in refusal(write_adapter(directory, rank=513), base)


def test_a_tensor_that_is_neither_a_nor_b(directory: Path, base: Base) -> None:
    """A whole head, or a magnitude, would be left out in silence."""
    name = f"{PREFIX}lm_head.weight"
    assert name in refusal(write_adapter(directory, more={name: (9, 4)}), base)


def test_half_an_adapter(directory: Path, base: Base) -> None:
    """An A without its B is named."""
    write_adapter(directory, more={f"{PREFIX}other.lora_A.weight": (2, 4)})
    assert "no lora_B for other" in refusal(directory, base)


def test_a_digest_that_differs(directory: Path, base: Base) -> None:
    """A file that is not the expected one is named; the same in capitals is one."""
    actual = digest_of(directory / CONFIG)
    assert check(directory, base, adapter_config_json=actual.upper()).rank == 2
    assert f"{actual}, not {'0' * 64}" in refusal(directory, base, adapter_config_json="0" * 64)


def test_checksums_beside_it_are_compared(directory: Path, base: Base) -> None:
    """As a model's are."""
    (directory / "checksums.json").write_text(json.dumps({WEIGHTS: "0" * 64}))
    assert WEIGHTS in refusal(directory, base)


def test_another_base_model_is_a_warning(
    directory: Path, base: Base, caplog: pytest.LogCaptureFixture
) -> None:
    """Names of models are written in many ways: where the shapes fit, it is served and said."""
    with caplog.at_level(logging.WARNING):
        check(write_adapter(directory, base_model_name_or_path="/models/Base/"), base)
        assert not caplog.records
        check(write_adapter(directory, base_model_name_or_path="org/other"), base)
    assert "it was trained on org/other" in caplog.text


def test_a_tokenizer_of_its_own_is_a_warning(
    directory: Path, base: Base, caplog: pytest.LogCaptureFixture
) -> None:
    """The model's is used; where both are the same there is nothing to say."""
    with caplog.at_level(logging.WARNING):
        (directory / "tokenizer.json").write_text("{}")
        check(directory, base)
        assert not caplog.records
        (directory / "tokenizer.json").write_text('{"more": 1}')
        check(directory, base)
    assert "its tokenizer.json differs" in caplog.text
