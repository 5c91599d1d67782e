"""Reads a LoRA adapter's directory, as PEFT writes it, and checks it against its model
without loading either.

What vLLM's loader would refuse, or silently ignore, is refused here, with a message.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from server.errors import ConfigurationError
from server.weights.architecture import read_json
from server.weights.checkpoint import check_safetensors, digest_of, expected_checksums

log = logging.getLogger(__name__)

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLES = ("adapter_model.bin", "adapter_model.pt")
MOST_RANK = 512  # vLLM's limit
PREFIX = "base_model.model."  # of the names of PEFT's tensors
PART = re.compile(r"(.+)\.lora_([AB])\.weight")
NEEDED: Mapping[str, tuple[type, ...]] = {  # needed for the scale, and by vLLM
    "r": (int,),
    "lora_alpha": (int, float),
    "target_modules": (list, str),
}
# PEFT's features whose result is not W + scale·B·A, by their key in the configuration: the values that turn
# them off, and a name for messages.
FEATURES: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "use_dora": ((None, False), "DoRA"),
    "lora_bias": ((None, False), "a bias"),
    "bias": ((None, "none"), "biases of the model's own"),
    "modules_to_save": ((None, []), "whole modules of its own (modules_to_save)"),
    "trainable_token_indices": ((None, [], {}), "embeddings of single tokens"),
    "alora_invocation_tokens": ((None, []), "an activation by tokens (aLoRA)"),
    "layer_replication": ((None, []), "replicated layers"),
    "use_bdlora": ((None, False, {}), "BD-LoRA"),
    "use_qalora": ((None, False), "QALoRA"),
    "kasa_config": ((None, {}), "KaSA"),
    "arrow_config": ((None, {}), "Arrow's routing"),
    "monteclora_config": ((None, {}), "MonteCLoRA"),
}
# These ways of initializing have no effect after training; every other one has changed the model itself.
PLAIN_BEGINNINGS = (None, True, False, "gaussian", "eva", "orthogonal", "mica", "lora_ga")
# Names of a module's weights whose shape is unknown, because they are packed.
PACKED = (".qweight", ".weight_packed")


@dataclass(frozen=True, slots=True)
class Adapter:
    """id: for clients. name: the id with the digest of its files, for engines, so that changed files are
    another adapter. number: a number from the name, for vLLM. rank: the largest of its parts."""

    id: str
    directory: Path
    name: str
    number: int
    rank: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Base:
    """The base model of adapters. names: by which adapters may name it. shapes: of its tensors; empty if its
    weights are not read."""

    directory: Path
    names: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]


def base_of(directory: Path, names: tuple[str, ...], weights: tuple[Path, ...]) -> Base:
    """The base from a model's directory and its weight files, whose headers are read."""
    shapes = {name: tensor.shape for file in weights for name, tensor in check_safetensors(file).items()}
    return Base(directory, names, shapes)


def check_adapter(
    name: str, directory: Path, base: Base, sha256: Mapping[str, str], *, warns: bool = True
) -> Adapter:
    """Raise ConfigurationError, with what to do, if the adapter cannot be served with that model.

    warns: log what fits but is unusual.
    """
    try:
        adapter = _checked(name, directory, base, sha256)
    except ConfigurationError as error:
        raise ConfigurationError(f"adapter {name}: {error.message}") from error
    if warns:
        _warn(name, directory, read_json(directory / CONFIG), base)
    return adapter


def _checked(name: str, directory: Path, base: Base, sha256: Mapping[str, str]) -> Adapter:
    if not directory.is_dir():
        raise ConfigurationError(f"the directory {directory} does not exist.")
    config = read_json(directory / CONFIG)
    weights = weights_of(directory)
    _check_features(config)
    shapes = {name: tensor.shape for name, tensor in check_safetensors(weights).items()}
    ranks = _check_parts(config, shapes, base)
    digests = _check_digests(directory, sha256)
    digest = hashlib.sha256("".join(digests).encode()).digest()
    number = int.from_bytes(hashlib.sha256(name.encode() + digest).digest()[:4]) % (2**31 - 1) + 1
    return Adapter(name, directory, f"{name}@{digest.hex()}", number, max(ranks), weights.stat().st_size)


def weights_of(directory: Path) -> Path:
    """The adapter's weight file. Raises ConfigurationError if there is none that is safe to read."""
    weights = directory / WEIGHTS
    if weights.is_file():
        return weights
    for pickle in PICKLES:
        if (directory / pickle).is_file():
            raise ConfigurationError(
                f"{directory} has pickle weights only ({pickle}). Loading a pickle can run any code, so this"
                " server only reads safetensors. Convert it with PEFT on a machine that you trust: load the"
                " adapter, then save_pretrained(NEW_DIRECTORY)."
            )
    raise ConfigurationError(f"{directory} has no {WEIGHTS}; is it a LoRA adapter as PEFT saves it?")


def _check_features(config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind not in (None, "LORA"):
        raise ConfigurationError(f"it has PEFT's type {kind}, and only LoRA adapters are served.")
    task = config.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise ConfigurationError(
            f"it was trained for {task}, and this server needs a model that continues a text (CAUSAL_LM)."
        )
    for key, kinds in NEEDED.items():
        if not isinstance(config.get(key), kinds):
            raise ConfigurationError(f"{CONFIG} has no {key}; is it as PEFT saved it?")
    for key, (off, words) in FEATURES.items():
        if config.get(key) not in off:
            raise ConfigurationError(
                f"it has {words} ({key} in {CONFIG}), which vLLM's LoRA does not support. Merge it into the"
                " model with PEFT's merge_and_unload, and serve the result as a model."
            )
    beginning = config.get("init_lora_weights")
    if beginning not in PLAIN_BEGINNINGS:
        raise ConfigurationError(
            f"init_lora_weights is {beginning}, which changed the weights of the base model itself. Save it"
            " as a plain LoRA adapter with PEFT's path_initial_model_for_weight_conversion."
        )


def _check_parts(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], base: Base) -> list[int]:
    """Check the A and B of each module. Returns their ranks."""
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for name, shape in shapes.items():
        if (found := PART.fullmatch(name)) is None or len(shape) != 2:
            raise ConfigurationError(
                f"{WEIGHTS} has the tensor {name}, which is not the A or B of a linear module; such adapters"
                " are not supported. Merge it into the model with PEFT's merge_and_unload."
            )
        modules.setdefault(found[1].removeprefix(PREFIX), {})[found[2]] = shape
    if not modules:
        raise ConfigurationError(f"{WEIGHTS} has no tensors.")
    return [_check_module(config, name, parts, base) for name, parts in modules.items()]


def _check_module(
    config: Mapping[str, Any], name: str, parts: Mapping[str, tuple[int, ...]], base: Base
) -> int:
    """Check one module. Returns its rank."""
    if missing := {"A", "B"} - parts.keys():
        raise ConfigurationError(f"{WEIGHTS} has no lora_{missing.pop()} for {name}: the file is incomplete.")
    (rank, num_in), (num_out, other_rank) = parts["A"], parts["B"]
    told = _rank_of(config, name)
    if not rank == other_rank == told:
        raise ConfigurationError(
            f"{name} has rank {rank} in its A and {other_rank} in its B, and {CONFIG} says {told}: the two"
            " files do not belong to the same adapter."
        )
    if rank > MOST_RANK:
        raise ConfigurationError(f"{name} has rank {rank}, and vLLM's LoRA supports at most {MOST_RANK}.")
    _check_shape(name, (num_out, num_in), base)
    return rank


def _rank_of(config: Mapping[str, Any], module: str) -> object:
    """A module's rank, by PEFT's rule: the first pattern that matches the end of its name, from a dot on."""
    patterns = config.get("rank_pattern")
    for pattern, rank in (patterns if isinstance(patterns, dict) else {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return rank
    return config.get("r")


def _check_shape(name: str, shape: tuple[int, int], base: Base) -> None:
    if not base.shapes:
        return
    own = base.shapes.get(f"{name}.weight")
    if own is None:
        if any(f"{name}{ending}" in base.shapes for ending in PACKED):
            return  # quantized: vLLM checks it when it loads the adapter
        raise ConfigurationError(
            f"it changes {name}, but the model has no such module. Was it trained on another model?"
        )
    if own not in (shape, shape[::-1]):  # GPT-2's matrices are transposed
        raise ConfigurationError(
            f"{name} is {shape[0]} × {shape[1]} in the adapter and {' × '.join(map(str, own))} in the model."
            " Was it trained on another model?"
        )


def _check_digests(directory: Path, sha256: Mapping[str, str]) -> list[str]:
    """The digests of the two files that decide about the text. Raises ConfigurationError if a file differs
    from its digest in the configuration or in a checksums.json beside it."""
    expected = expected_checksums(directory, sha256)
    for name in (CONFIG, WEIGHTS, *expected):
        path = directory / name
        if name in expected and (actual := file_digest(path)) != expected[name].lower():
            raise ConfigurationError(
                f"{path} is not the expected file: its SHA-256 is {actual}, not {expected[name].lower()}."
                " Copy or download it again, or correct the digest if the change was meant."
            )
    return [file_digest(directory / name) for name in (CONFIG, WEIGHTS)]


def file_digest(path: Path) -> str:
    """The file's SHA-256, computed once as long as the file is the same."""
    try:
        stat = path.stat()
    except OSError:
        return digest_of(path)  # this raises the error
    return _digest(path, (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino))


@lru_cache(maxsize=4096)
def _digest(path: Path, mark: tuple[int, ...]) -> str:
    return digest_of(path)


def trained_on(directory: Path) -> str:
    """The base model that the adapter's configuration names; empty: none."""
    name = read_json(directory / CONFIG).get("base_model_name_or_path")
    return name if isinstance(name, str) else ""


def names_it(name: str, base: Base) -> bool:
    """Whether a name, with or without organization or path, is one of the base's."""
    return _short(name) in map(_short, base.names)


def _warn(name: str, directory: Path, config: Mapping[str, Any], base: Base) -> None:
    told = config.get("base_model_name_or_path")
    if isinstance(told, str) and not names_it(told, base):
        log.warning(
            "adapter %s: it was trained on %s, according to its %s, but is served on %s, whose shapes fit",
            name,
            told,
            CONFIG,
            base.names[0],
        )
    own, of_base = directory / "tokenizer.json", base.directory / "tokenizer.json"
    if own.is_file() and own.read_bytes() != of_base.read_bytes():
        log.warning("adapter %s: its tokenizer.json differs from the model's; the model's is used", name)


def _short(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].casefold()
