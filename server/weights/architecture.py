"""What config.json says about a model: its architecture, its longest context, the size of its vocabulary.

The rules are vLLM's (vllm/config/model.py and transformers_utils of 0.32.0), so that a model that passes here
passes there too.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from server.errors import ConfigurationError

# Names of the context length in different model families; if there are several, the smallest counts.
LENGTH_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
# Kinds of rope scaling that are already included in max_position_embeddings.
LENGTH_IS_SCALED = {
    "su",
    "longrope",
    "llama3",
    "yarn",
    "deepseek_yarn",
    "deepseek_llama_scaling",
}
GENERATE = ("_TEXT_GENERATION_MODELS", "_MULTIMODAL_MODELS")  # vLLM's tables
ANY_LIBRARY = "ForCausalLM"  # vLLM runs these through transformers if they are not in its tables
ANSWER_S = 120
ASK_THE_CLASS = """
import json, sys
from transformers import AutoConfig
config = AutoConfig.from_pretrained(sys.argv[1], local_files_only=True, trust_remote_code=False)
print(json.dumps(config.get_text_config().to_dict()))
"""


@dataclass(frozen=True, slots=True)
class Architecture:
    """names: of the classes that can run it. longest: the largest number of tokens for its positions, rope
    scaling included; None: no such limit. vocab_size: rows of the logits, larger than every token id."""

    names: tuple[str, ...]
    longest: int | None
    vocab_size: int
    is_encoder_decoder: bool = False


def read_architecture(directory: Path) -> Architecture:
    """The architecture from config.json, and from the configuration's class for values
    that config.json omits.

    Raises ConfigurationError if there is no config.json, or it lacks something.
    """
    config = read_config(directory)
    part = text_part(config)
    longest, vocab_size = _longest(part), positive(part.get("vocab_size"))
    if longest is None or vocab_size is None:
        filled = filled_in(directory) if config.get("model_type") else {}  # without one, there is no class
        longest = _longest(filled) if longest is None else longest
        vocab_size = positive(filled.get("vocab_size")) if vocab_size is None else vocab_size
    if vocab_size is None:
        raise ConfigurationError(f"{directory / 'config.json'} has no vocab_size as a positive integer.")
    names = config.get("architectures")
    return Architecture(
        names=tuple(str(name) for name in names) if isinstance(names, list) else (),
        longest=longest,
        vocab_size=vocab_size,
        is_encoder_decoder=config.get("is_encoder_decoder") is True,
    )


def context_size(architecture: Architecture, chosen: int | None, *, extended: bool) -> int:
    """The largest number of tokens of prompt and completion: the chosen one, else the model's own.

    extended: the engine is configured to extend the context. Raises ConfigurationError for more than the
    model supports.
    """
    if chosen is None and architecture.longest is None:
        raise ConfigurationError(
            "config.json names no context length; set max_model_len, the largest number of tokens of prompt"
            " and completion."
        )
    if chosen and architecture.longest and chosen > architecture.longest and not extended:
        raise ConfigurationError(
            f"max_model_len is {chosen}, but the model was made for {architecture.longest} tokens; set at"
            " most that, or say in engine_args how the context is extended (hf_overrides)."
        )
    return chosen or architecture.longest or 0


def check_generates(architecture: Architecture) -> None:
    """Raise ConfigurationError for a model that does not continue text, or that the installed vLLM
    does not know."""
    if not architecture.names:
        raise ConfigurationError(
            "config.json names no architecture, so the server cannot know how to run the model."
        )
    name = architecture.names[0]
    if architecture.is_encoder_decoder:
        raise ConfigurationError(
            f"{name} has an encoder; this server only serves decoder-only models that continue a text."
        )
    known = generating_architectures()
    if known and not known.intersection(architecture.names) and not name.endswith(ANY_LIBRARY):
        raise ConfigurationError(
            f"{name} does not continue a text (it may classify or embed), or the installed vLLM does not"
            " know it; this server only runs models that vLLM runs as generating ones."
        )


@lru_cache(maxsize=1)
def generating_architectures() -> frozenset[str]:
    """The architectures with which vLLM generates text, read from its source, because its import takes 8 s.
    Empty without vLLM."""
    found = find_spec("vllm")
    if found is None or found.origin is None:
        return frozenset()
    source = Path(found.origin).parent / "model_executor/models/registry.py"
    tables = {
        node.targets[0].id: node.value
        for node in ast.parse(source.read_text("utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    keys = [key for name in GENERATE for key in getattr(tables.get(name), "keys", [])]
    return frozenset(str(key.value) for key in keys if isinstance(key, ast.Constant))


def read_config(directory: Path) -> dict[str, Any]:
    return read_json(directory / "config.json")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ConfigurationError if there is no file, or no object in it."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path.parent} has no {path.name}; is it a model in Hugging Face's layout?"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not valid JSON: {error}.") from error
    if not isinstance(data, dict):
        raise ConfigurationError(f"{path} is not a JSON object.")
    return data


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The part of the configuration for text: multimodal models keep it separate."""
    inner = config.get("text_config")
    return {**config, **inner} if isinstance(inner, dict) else config


def _longest(config: dict[str, Any]) -> int | None:
    lengths = [length for key in LENGTH_KEYS if (length := positive(config.get(key)))]
    longest = positive(config.get("model_max_length")) or min(lengths, default=None)
    return None if longest is None else int(longest * _scaling(config))


def _scaling(config: dict[str, Any]) -> float:
    """The factor by which rope scaling extends the context."""
    if "gemma3" in str(config.get("model_type")):  # vLLM: its length includes the scaling
        return 1.0
    factor = 1.0
    for key in ("rope_scaling", "rope_parameters"):
        outer = config.get(key)
        if not isinstance(outer, dict):
            continue
        by_layer = [part for part in outer.values() if isinstance(part, dict)]
        for rope in by_layer or [outer]:
            given = rope.get("factor")
            is_scaled = rope.get("rope_type", rope.get("type")) in LENGTH_IS_SCALED
            if not is_scaled and isinstance(given, int | float) and given > 0:
                factor = float(given)
    return factor


def positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def filled_in(directory: Path) -> dict[str, Any]:
    """The text part completed by the configuration's class; empty if transformers is missing or does not know
    the model. It runs in a process of its own: the import takes seconds and memory, and few
    models need it."""
    if find_spec("transformers") is None:
        return {}
    command = [sys.executable, "-P", "-c", ASK_THE_CLASS, str(directory)]
    try:
        ran = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=ANSWER_S,
        )
        filled = json.loads(ran.stdout.splitlines()[-1]) if ran.returncode == 0 else {}
    except (ValueError, IndexError, subprocess.TimeoutExpired):
        return {}
    return filled if isinstance(filled, dict) else {}
