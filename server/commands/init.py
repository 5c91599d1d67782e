"""`verbatim init`: a models.yaml for the model directories that are there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import psutil
import typer

from server.commands.check import GPU_MEMORY_HELP, gpu_memory_of, stated
from server.commands.matching import adapters_of, models_named, placed
from server.config.directories import found_below, is_adapter, is_model, models_of
from server.config.loading import DEFAULT_FILE, ModelSettings, settings_of
from server.engine.fit import Fit, fit, in_words
from server.engine.served import inspect, problem_of
from server.errors import ConfigurationError
from server.weights.adapters import Adapter, Base, base_of
from server.weights.sizes import GIB

HEAD = """\
# Written by `verbatim init`. docs/configuration.md lists all keys. `verbatim check` says whether the models
# fit, `verbatim serve` serves them.
host: 127.0.0.1  # any address but loopback needs an API key: `verbatim keys new`
port: 8000
models:
"""
SHARE = 0.9  # of a GPU's memory, for all models on it together
CPU_SHARE = 0.25  # of the machine's memory, for the KV caches
STEP = 1024  # tokens; a context that had to be cut is a multiple of this
USUAL_TOKENS, MOST_SEQUENCES = 2048, 256


def init(
    directories: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIRECTORY...", help="Model directories, LoRA adapters of theirs, or folders of both."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path(DEFAULT_FILE),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file if it exists.")] = False,
    gpu_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help=GPU_MEMORY_HELP),
    ] = None,
) -> None:
    """Write a models.yaml for model directories, with sizes that fit this machine.

    Each adapter is listed under its base model: the one that the adapter names, else the one whose shapes
    fit. Exit code 2: a model or an adapter cannot be served, or the file exists already."""
    said = stated(gpu_memory)
    if out.exists() and not force:
        raise ConfigurationError(
            f"{out} exists already; name another file with --out, or overwrite it with --force."
        )
    adapted = [path for path in directories if is_adapter(path)]
    parents = [path for path in directories if path.is_dir() and not is_model(path) and path not in adapted]
    alone = [path for path in directories if path not in parents and path not in adapted]
    adapters = adapters_of(adapted, parents)
    if adapters and not alone and not any(pair for parent in parents for pair in found_below(parent)):
        alone, parents = models_named(adapters.values()), []
    models = settings_of(models_of(alone, parents, problem_of), {}, {}).models
    places = placed(adapters, {model.id: _base(model) for model in models} if adapters else {})
    text = HEAD + "".join(
        line + "\n"
        for model in models
        for line in (
            *_entry(model, len(models), gpu_memory_of(model, said), out.resolve().parent),
            *_adapters(places.get(model.id, []), out.resolve().parent),
        )
    )
    try:
        out.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write {out}: {error.strerror or error}.") from error
    print(f"{out}: {', '.join([*(model.id for model in models), *adapters])}")


def _entry(model: ModelSettings, count: int, memory: float | None, base: Path) -> Iterator[str]:
    """The lines of one model of `count`. memory: bytes of its GPU; None: it runs on the CPU."""
    checkpoint, longest = inspect(model)
    if memory is None:
        most = psutil.virtual_memory().total * CPU_SHARE / count
        found = fit(model, checkpoint, longest, None)
        wanted = found.cache.sequence(longest) if found.cache else GIB
        cache_gib = max(1, round(min(wanted, most) / GIB))
        sized = model.model_copy(update={"kv_cache_gib": float(cache_gib)})
        share = f"kv_cache_gib: {cache_gib}"
    else:
        utilization = int(SHARE / count * 100) / 100
        sized = model.model_copy(update={"gpu_memory_utilization": utilization})
        share = f"gpu_memory_utilization: {utilization:g}"
    found = fit(sized, checkpoint, longest, memory)
    found = _cut(found)
    path = os.path.relpath(model.directory, base)
    yield f"  - id: {json.dumps(model.id, ensure_ascii=False)}"
    yield f"    path: {json.dumps(path, ensure_ascii=False)}"
    yield f"    # {found.sentence()}"
    if problem := found.problem():
        yield f"    # It does not fit: {problem}"
    own = "its own" if found.context_size == longest else f"its own is {longest}"
    yield f"    max_model_len: {found.context_size}  # tokens of prompt and completion; {own}"
    yield f"    max_num_seqs: {_sequences(found)}  # candidates that run at the same time"
    yield f"    {share}" + (f"  # of {in_words(memory)}" if memory else "  # memory for the KV cache")


def _base(model: ModelSettings) -> Base:
    checkpoint, _ = inspect(model)
    return base_of(checkpoint.directory, (model.id, model.directory.name), checkpoint.weights)


def _adapters(adapters: list[Adapter], base: Path) -> Iterator[str]:
    """The lines of one model's adapters. Paths are relative to base."""
    if adapters:
        yield "    adapters:"
    for one in adapters:
        name, path = (
            json.dumps(text, ensure_ascii=False) for text in (one.id, os.path.relpath(one.directory, base))
        )
        yield f"      - {{id: {name}, path: {path}}}  # rank {one.rank}, {one.num_bytes / 1e6:.1f} MB"


def _cut(found: Fit) -> Fit:
    """The same with the longest context that fits."""
    if found.cache is None or found.room is None or not found.problem():
        return found
    longest = found.cache.longest(found.room) // STEP * STEP
    return found.with_context(longest) if longest else found


def _sequences(found: Fit) -> int:
    if found.cache is None or found.room is None:
        return MOST_SEQUENCES
    return max(1, min(MOST_SEQUENCES, int(found.room / found.cache.sequence(USUAL_TOKENS))))
