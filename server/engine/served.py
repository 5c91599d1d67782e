"""The models that are served: what is known of each from its files, and the engine that runs it."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from server.config.settings import ModelSettings, Settings
from server.engine.base import Engine
from server.engine.simulated.engine import SimulatedEngine
from server.engine.supervisor import Supervisor
from server.errors import ConfigurationError
from server.text.tokenizer import Tokenizer, load_tokenizer
from server.weights.checkpoint import check_checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model. context_size: most tokens of prompt and completion. vocab_size: rows of the embedding."""

    settings: ModelSettings
    tokenizer: Tokenizer
    context_size: int
    vocab_size: int
    engine: Supervisor
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def id(self) -> str:
        return self.settings.id

    def entry(self) -> dict[str, Any]:
        """As GET …/models shows it, the hosted service's fields and OpenAI's together."""
        return {
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


def load_models(
    settings: Settings, make_vllm: Callable[[int, ModelSettings, int], Engine]
) -> list[ServedModel]:
    """All models of this process, which takes its share of max_pending.

    make_vllm: (number of the model, its settings, context size) -> a real engine. Raises as load_model.
    """

    def one(number: int, model: ModelSettings) -> ServedModel:
        def make(model: ModelSettings, context_size: int, vocab_size: int) -> Engine:
            if model.engine == "simulated":
                return SimulatedEngine(vocab_size, step_s=0.01)
            return make_vllm(number, model, context_size)

        return load_model(model, make, max_pending=math.ceil(settings.max_pending / settings.workers))

    return [one(number, model) for number, model in enumerate(settings.models)]


def load_model(
    settings: ModelSettings, make_engine: Callable[[ModelSettings, int, int], Engine], *, max_pending: int
) -> ServedModel:
    """A model from its directory, its engine not yet started.

    make_engine: (settings, context size, vocabulary size) -> engine.
    Raises ConfigurationError for a directory that cannot be served.
    """
    checkpoint = check_checkpoint(settings.directory, weights=settings.needs_weights)
    if settings.engine != "simulated" and not settings.needs_weights:
        log.warning("model %s: load_format is dummy, so its weights are random: noise", settings.id)
    context_size = settings.max_model_len or checkpoint.context_length
    if context_size > checkpoint.context_length and not settings.engine_args:  # which may scale the positions
        raise ConfigurationError(
            f"model {settings.id}: max_model_len is {context_size}, but {settings.directory} was trained for "
            f"{checkpoint.context_length} tokens; use at most that"
        )
    tokenizer = load_tokenizer(settings.directory, checkpoint.vocab_size)
    return ServedModel(
        settings=settings,
        tokenizer=tokenizer,
        context_size=context_size,
        vocab_size=checkpoint.vocab_size,
        engine=Supervisor(
            settings.id,
            lambda: make_engine(settings, context_size, checkpoint.vocab_size),
            max_pending=max_pending,
        ),
    )
