from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from server.errors import ConfigurationError
from server.weights import architecture
from server.weights.architecture import (
    Architecture,
    check_generates,
    context_size,
    filled_in,
    read_architecture,
)

LLAMA = Architecture(("LlamaForCausalLM",), longest=64, vocab_size=10)


def read(directory: Path, **config: Any) -> Architecture:
    (directory / "config.json").write_text(json.dumps(config))
    return read_architecture(directory)


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"n_positions": 7}, 7),
        ({"max_position_embeddings": 9, "max_sequence_length": 8}, 8),
        ({"max_position_embeddings": 9, "model_max_length": 12}, 12),
        ({"text_config": {"max_position_embeddings": 9}}, 9),
        ({"max_position_embeddings": 1, "text_config": {"max_position_embeddings": 9}}, 9),
    ],
)
def test_the_families_names_of_a_length(tmp_path: Path, config: dict[str, Any], longest: int) -> None:
    """The smallest of them counts, but for model_max_length, which goes before all; the text part's own."""
    found = read(tmp_path, vocab_size=3, **config)
    assert (found.longest, found.vocab_size) == (longest, 3)


@pytest.mark.parametrize(
    ("scaling", "longest"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 2048),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 1024),
        ({"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}, 2048),
        ({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8}}}, 4096),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, 512),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 512),
        ({"rope_scaling": {"rope_type": "longrope", "long_factor": [1.0]}}, 512),
        ({"rope_scaling": None}, 512),
        ({"rope_scaling": {"rope_type": "linear", "factor": None}}, 512),
        ({"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 512),
    ],
)
def test_what_rope_scaling_describes_is_the_limit(
    tmp_path: Path, scaling: dict[str, Any], longest: int
) -> None:
    """Linear and dynamic scaling reach further than the length says; the others' length is scaled already."""
    assert read(tmp_path, max_position_embeddings=512, vocab_size=3, **scaling).longest == longest


def test_a_context_that_is_chosen() -> None:
    """It may be as long as the model reaches, longer where the engine is told how, and is the
    model's own otherwise."""
    assert context_size(LLAMA, 64, extended=False) == 64
    assert context_size(LLAMA, 65, extended=True) == 65
    assert context_size(LLAMA, None, extended=False) == 64
    with pytest.raises(ConfigurationError, match="is 65, but the model was made for 64 tokens"):
        context_size(LLAMA, 65, extended=False)


def test_a_model_without_a_limit_needs_a_choice() -> None:
    """Where neither config.json nor its class says how long, max_model_len has to."""
    endless = Architecture(("MambaForCausalLM",), longest=None, vocab_size=10)
    assert context_size(endless, 100, extended=False) == 100
    with pytest.raises(ConfigurationError, match="set max_model_len"):
        context_size(endless, None, extended=False)


@pytest.mark.parametrize("vocab_size", [None, 0, True, "300", -1])
def test_no_vocabulary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vocab_size: object) -> None:
    """A vocabulary that is no positive integer, and no class to ask: an error, not a guess."""
    monkeypatch.setattr(architecture, "filled_in", lambda _: {})
    with pytest.raises(ConfigurationError, match="vocab_size"):
        read(tmp_path, max_position_embeddings=9, vocab_size=vocab_size)


def test_a_model_without_a_class(tmp_path: Path) -> None:
    """Transformers, asked in a process of its own, has nothing to say of it; that is an empty answer."""
    (tmp_path / "config.json").write_text(json.dumps({"max_position_embeddings": 9}))
    assert filled_in(tmp_path) == {}


@pytest.mark.parametrize(
    ("names", "encodes", "said"),
    [
        (("BertForSequenceClassification",), False, "does not continue a text"),
        (("BertModel",), False, "does not continue a text"),
        (("T5ForConditionalGeneration",), True, "has an encoder"),
        (("BartForConditionalGeneration",), False, "does not continue a text"),
        ((), False, "names no architecture"),
    ],
)
def test_what_generates_no_text_is_refused(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], encodes: bool, said: str
) -> None:
    """Classification, encoders alone, encoders with decoders: in a sentence, before anything is loaded."""
    known = frozenset({"LlamaForCausalLM", "ChatGLMModel"})
    monkeypatch.setattr(architecture, "generating_architectures", lambda: known)
    with pytest.raises(ConfigurationError, match=said):
        check_generates(Architecture(names, 64, 10, encodes))
    for name in (*known, "SomethingNewForCausalLM"):
        check_generates(Architecture((name,), 64, 10))


def test_without_vllm_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then config.json alone decides."""
    monkeypatch.setattr(architecture, "generating_architectures", frozenset)
    check_generates(Architecture(("AnyModel",), 64, 10))
