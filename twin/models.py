"""The twin's models: with the names of production, and its token ids where a tokenizer exists."""

from __future__ import annotations

import logging

from server.config.model import ModelSettings
from server.config.settings import Settings
from server.engine.replicas import Replicas
from server.engine.served import ServedModel, tune
from server.text.tokenizer import Tokenizer, load_tokenizer
from server.weights.architecture import context_size
from server.weights.checkpoint import check_checkpoint
from twin.engine import Reply, TwinEngine
from twin.language.model import Language
from twin.language.store import DATA, language_of, own_language
from twin.latency import Latency
from twin.sampler import Sampler
from twin.scripted import Script

log = logging.getLogger(__name__)


def load_models(
    settings: Settings, latency: Latency, script: Script | None, load_s: float = 0.0
) -> list[ServedModel]:
    """The models of these settings, with their limits and defaults, and their own tokens if their directory
    has a tokenizer.json.

    latency: shared by the engines in turn, so each is as fast as it says. load_s: seconds to load a model on
    demand. Raises ConfigurationError for a directory that cannot be served.
    """
    return [_load(model, settings, latency, script, load_s) for model in settings.models]


def _load(
    model: ModelSettings, settings: Settings, latency: Latency, script: Script | None, load_s: float
) -> ServedModel:
    directory, chosen = model.directory, model.max_model_len
    is_own = directory == DATA or not (directory / "tokenizer.json").is_file()
    if is_own and directory != DATA:  # a model of production whose files are not here
        directory = DATA
        log.info(
            "model %s: its directory has no tokenizer.json, so the twin's own token ids are used", model.id
        )
    architecture = check_checkpoint(directory, weights=False).architecture
    tokenizer = load_tokenizer(directory, architecture.vocab_size)
    language = own_language() if is_own else _language(tokenizer, architecture.vocab_size)
    sampler, reply = Sampler(language), _reply(script, tokenizer)
    seconds = load_s if model.load == "on_demand" else 0.0

    def make(number: int) -> TwinEngine:
        return TwinEngine(sampler, latency, reply, tokenizer.grammars, seconds)

    served = ServedModel(
        settings=model,
        tokenizer=tokenizer,
        # The language model has no positions, so no longest context.
        context_size=chosen or context_size(architecture, None, extended=True),
        vocab_size=architecture.vocab_size,
        engine=Replicas(model.id, make),
    )
    tune(served.engine, settings, model)
    return served.with_settings(model, {})  # includes its adapters, with the same tokens


def _language(tokenizer: Tokenizer, vocab_size: int) -> Language:
    return language_of(tokenizer.encoder, vocab_size, next(iter(tokenizer.eos_ids), None))


def _reply(script: Script | None, tokenizer: Tokenizer) -> Reply | None:
    if script is None:
        return None

    def reply(prompt_ids: list[int]) -> list[int] | None:
        prompt = b"".join(tokenizer.prompt_bytes(prompt_ids, skip_special=True)).decode(errors="replace")
        answer = script(prompt)
        return None if answer is None else tokenizer.ids_of(answer)

    return reply
