"""The served models: what is known of each from its files, and the engine that runs it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from server.config.model import ModelSettings
from server.config.settings import Settings
from server.engine.adapters import engine_arguments, rank_of, read_adapters
from server.engine.base import Engine
from server.engine.replicas import Replicas
from server.engine.simulated.engine import SimulatedEngine
from server.errors import ConfigurationError
from server.text.tokenizer import Tokenizer, load_tokenizer
from server.weights.adapters import Adapter
from server.weights.architecture import check_generates, context_size
from server.weights.builtin import is_prepared
from server.weights.checkpoint import Checkpoint, check_checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model. context_size: the largest number of tokens of prompt and completion. vocab_size: rows
    of the embedding.

    An adapter is a served model too, on the engine of its parent. adapters: of this one, by id. lora_rank:
    the largest rank for which the engine has room.
    """

    settings: ModelSettings
    tokenizer: Tokenizer
    context_size: int
    vocab_size: int
    engine: Replicas
    created: int = field(default_factory=lambda: int(time.time()))
    parent: str = ""
    adapter: Adapter | None = None
    adapters: Mapping[str, ServedModel] = field(default_factory=dict)
    lora_rank: int = 0

    @property
    def id(self) -> str:
        return self.settings.id

    def entry(self) -> dict[str, Any]:
        """The entry in GET …/models: the fields of the hosted service and of OpenAI."""
        entry = {
            "id": self.id,
            "object": "model",
            "created": self.created,
            "owned_by": self.settings.owned_by,
            "title": self.settings.title,
            "description": self.settings.description,
            "context_size": self.context_size,
            "input_token_price_per_m": 0,
            "output_token_price_per_m": 0,
        }
        return entry | {"parent": self.parent} if self.parent else entry

    def details(self) -> dict[str, Any]:
        """The entry in GET …/models/{id}: it also has what a client needs to count and name tokens."""
        tokenizer = self.tokenizer
        return {
            **self.entry(),
            "vocab_size": self.vocab_size,
            "bos_token_id": tokenizer.bos_id,
            "eos_token_ids": list(tokenizer.eos_ids),
            "special_tokens": dict(tokenizer.special_ids),
            "adapters": list(self.adapters),
        }

    def with_settings(self, settings: ModelSettings, adapters: Mapping[str, Adapter]) -> ServedModel:
        """The same model and engine, with these settings and adapters."""
        model = replace(self, settings=settings, adapters={})
        served = {
            one.id: replace(
                model,
                settings=settings.of_adapter(one),
                parent=self.id,
                adapter=adapters.get(one.id),
                created=self.adapters[one.id].created if one.id in self.adapters else int(time.time()),
            )
            for one in settings.adapters
        }
        return replace(model, adapters=served)

    def on(self, other: ServedModel) -> ServedModel:
        """This model on the engine of the other one, which is the same model."""
        model = replace(self, engine=other.engine, created=other.created)
        found = {name: one.adapter for name, one in self.adapters.items() if one.adapter is not None}
        return model.with_settings(self.settings, found)


def load_models(
    settings: Settings, make_vllm: Callable[[int, ModelSettings, int, int], Engine]
) -> list[ServedModel]:
    """All models of this process, which takes its share of max_pending.

    make_vllm: (number of the model, its settings, context size, number of the replica) -> a real engine.
    Raises as load_model.
    """

    def one(number: int, model: ModelSettings) -> ServedModel:
        def make(model: ModelSettings, context_size: int, vocab_size: int, replica: int) -> Engine:
            if model.engine == "simulated":
                return SimulatedEngine(vocab_size, step_s=0.01)
            return make_vllm(number, model, context_size, replica)

        served = load_model(model, make)
        tune(served.engine, settings, model)
        return served

    return [one(number, model) for number, model in enumerate(settings.models)]


def tune(engine: Replicas, settings: Settings, model: ModelSettings) -> None:
    """Set how a model's jobs are treated, in one process of several."""
    engine.max_pending = math.ceil(settings.max_pending / settings.workers)
    engine.max_wait_s = settings.max_wait_s
    keeps_trying = settings.keep_trying or len(settings.models) > 1
    engine.patience.keep_trying = keeps_trying and model.load == "at_start"
    engine.work.resume = settings.resume
    engine.work.waits.resume_timeout_s = settings.resume_timeout_s
    engine.work.waits.load_timeout_s = settings.max_wait_s or math.inf
    engine.work.num_senders = settings.workers
    engine.work.set_places(math.ceil(model.max_num_seqs / settings.workers))
    engine.min_ready = model.min_ready


def inspect(settings: ModelSettings) -> tuple[Checkpoint, int]:
    """(what a model's directory contains, the context size), without loading it.

    Raises ConfigurationError for a model that cannot be served, with what to do.
    """
    if settings.builtin is not None and not is_prepared(settings.builtin):
        raise ConfigurationError(
            f"the built-in model {settings.builtin} is not prepared yet; run `make setup`."
        )
    checkpoint = check_checkpoint(settings.directory, weights=settings.needs_weights)
    if settings.engine != "simulated":
        check_generates(checkpoint.architecture)
    extended = "hf_overrides" in settings.engine_args  # perhaps of the positions: vLLM checks it again
    return checkpoint, context_size(checkpoint.architecture, settings.max_model_len, extended=extended)


def problem_of(directory: Path) -> str:
    """Why the model in a directory cannot be served; empty: it can."""
    try:
        inspect(ModelSettings(id="checked", path=directory))
    except ConfigurationError as error:
        return error.message
    return ""


def load_model(
    settings: ModelSettings, make_engine: Callable[[ModelSettings, int, int, int], Engine]
) -> ServedModel:
    """A model from its directory, with an engine that has not started.

    make_engine: (settings, context size, vocabulary size, number of the replica) -> engine. Raises
    ConfigurationError for a directory that cannot be served.
    """
    try:
        checkpoint, size = inspect(settings)
        adapters = read_adapters(settings, checkpoint)
        arguments = engine_arguments(adapters.values(), settings.engine_args)
    except ConfigurationError as error:
        raise ConfigurationError(f"model {settings.id}: {error.message}") from error
    if settings.engine != "simulated" and not settings.needs_weights:
        log.warning(
            "model %s: load_format is dummy, so its weights are random and its text is noise", settings.id
        )
    vocab_size = checkpoint.architecture.vocab_size
    of_engine = settings.model_copy(update={"engine_args": arguments, "adapters": ()})
    model = ServedModel(
        settings=settings,
        tokenizer=load_tokenizer(settings.directory, vocab_size),
        context_size=size,
        vocab_size=vocab_size,
        engine=Replicas(
            settings.id,
            lambda number: make_engine(of_engine, size, vocab_size, number),
            settings.replicas.min,
        ),
        lora_rank=rank_of(arguments),
    )
    return model.with_settings(settings, adapters)


def adapters_of(settings: ModelSettings) -> dict[str, Adapter]:
    """The adapters as they are on disk now. Raises ConfigurationError for one that cannot be served."""
    if not settings.adapters:
        return {}
    checkpoint, _ = inspect(settings)
    return read_adapters(settings, checkpoint)
