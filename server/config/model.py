"""The shape of one model's configuration: every key, its type, range and default.

The text of a key's `description` is its entry in docs/configuration.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from server.config.adapters import AdapterSettings
from server.config.engine_args import refusal
from server.config.replication import Devices, Replication, check_devices, group_of
from server.config.sections import Section, from_base
from server.config.values import Name, Sha256
from server.config.yamlfile import MisplacedError, nearest
from server.weights.builtin import BUILTIN_MODELS, builtin_path

Count = Annotated[int, Field(ge=1)]


class Defaults(Section):
    """What a request gets that does not say; the ranges are the contract's."""

    where = "in defaults"

    max_tokens: int = Field(default=16, ge=0, description="Tokens to generate.")
    temperature: float = Field(default=1.0, ge=0, le=2, description="0 is greedy.")
    top_p: float = Field(default=1.0, gt=0, le=1, description="1 is off.")
    top_k: int = Field(default=0, ge=-1, le=128, description="0 and -1 are off.")
    min_p: float = Field(default=0.0, ge=0, le=1, description="0 is off.")
    frequency_penalty: float = Field(default=0.0, ge=-2, le=2, description="0 is off.")
    presence_penalty: float = Field(default=0.0, ge=-2, le=2, description="0 is off.")
    repetition_penalty: float = Field(default=1.0, gt=0, le=2, description="1 is off.")


class Limits(Section):
    """What one request may ask for; more is a 400."""

    where = "in limits"

    n: int = Field(default=128, ge=1, le=128, description="Largest n.")
    best_of: int = Field(default=128, ge=1, le=128, description="Largest best_of.")
    stop: int = Field(default=4, ge=0, description="Most stop sequences.")
    prompts: int = Field(default=1024, ge=1, description="Most prompts in one request.")
    candidates: int = Field(default=4096, ge=1, description="Most prompts × best_of in one request.")


class BestOf(Section):
    where = "in best_of"

    give_up: bool = Field(
        default=True, description="End candidates that can no longer be among the `n` best."
    )


class ModelSettings(Section):
    """One served model."""

    where = "in a model"

    id: Name = Field(description="The name clients ask for; may contain `/`.")
    title: str = Field(default="", description="Shown in the models list; empty is the id.")
    description: str = Field(default="", description="Shown in the models list.")
    owned_by: str = Field(default="verbatim", description="Shown in the models list.")
    path: Path | None = Field(
        default=None, strict=False, description="Directory of the model, relative to this file."
    )
    builtin: str | None = Field(
        default=None, description="A model that comes with the server, instead of `path`."
    )
    sha256: dict[str, Sha256] = Field(
        default={}, description="Digest by file name, verified before the engine starts."
    )
    engine: Literal["auto", "vllm", "simulated"] = Field(
        default="auto", description="`simulated` computes nothing, for tests; the others are vLLM."
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto",
        description="Type of the weights in memory; `auto`: config.json's, but bfloat16 instead of float32.",
    )
    max_model_len: Count | None = Field(
        default=None, description="Longest prompt and completion together, tokens; null is the model's own."
    )
    max_num_seqs: Count = Field(default=256, description="Candidates computed at the same time; others wait.")
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="Share of each GPU's memory to take."
    )
    tensor_parallel_size: Count = Field(default=1, description="GPUs over which every layer is split.")
    pipeline_parallel_size: Count = Field(
        default=1, description="Groups of GPUs, each with a part of the layers."
    )
    quantization: str | None = Field(
        default=None, description="vLLM's name of the quantization method; null is what config.json says."
    )
    replicas: Replication = Field(
        default=Replication(),
        description="Engines of the model, each with GPUs of its own: a number, or a range.",
    )
    min_ready: Count = Field(
        default=1, description="Replicas that have to be ready for the model to take requests."
    )
    devices: Devices = Field(
        default=(),
        strict=False,
        description="GPU numbers as nvidia-smi shows them: a list for each replica, or one list that is"
        " assigned in order; empty is all GPUs in order.",
    )
    load: Literal["at_start", "on_demand"] = Field(
        default="at_start",
        description="`on_demand`: loaded when a request asks for it, until another one needs its memory.",
    )
    unload_after_s: float = Field(
        default=0.0,
        ge=0,
        description="How long a model that is loaded on demand may be idle, s; 0: it stays.",
    )
    size_gib: float | None = Field(
        default=None,
        gt=0,
        description="How much of its group's memory it takes, GiB; null is what it took last time, and"
        " before that the sum of its files and its KV cache.",
    )
    sleep_level: Literal[0, 1, 2] = Field(
        default=0,
        description="GPUs only: instead of ending to make room, its engines sleep (vLLM's term). 1: the"
        " weights move to the machine's memory; 2: they are read from the disk again. 0: its engines end.",
    )
    asleep_gib: float | None = Field(
        default=None,
        ge=0,
        description="How much of its group's memory it keeps while it sleeps, GiB; null is 1 for each GPU.",
    )
    standby: bool = Field(
        default=False,
        description="Keep a second process ready, so that a lost engine is replaced sooner.",
    )
    kv_cache_gib: float = Field(default=1.0, gt=0, description="CPU only: memory for the KV cache, GiB.")
    defaults: Defaults = Field(default=Defaults(), description="Values of fields that a request leaves out.")
    limits: Limits = Field(default=Limits(), description="What one request may ask for.")
    best_of: BestOf = Field(
        default=BestOf(), description="How the `n` best candidates of `best_of` are found."
    )
    include_stop_text: bool = Field(
        default=True, description="The returned text ends with the stop sequence."
    )
    strict_fields: bool = Field(
        default=False, description="Unknown request fields are a 400 instead of ignored."
    )
    allowed_keys: tuple[Name, ...] = Field(
        default=(), strict=False, description="Names of the keys that may use it; empty is every key."
    )
    adapters: tuple[AdapterSettings, ...] = Field(
        default=(), strict=False, description="LoRA adapters, each served under an id of its own."
    )
    suffix_template: str | None = Field(
        default=None,
        description="Fill-in-the-middle text with {prefix} and {suffix}; null: use the tokenizer's own"
        " fill-in-the-middle tokens; empty: none.",
    )
    single_bos: bool = Field(
        default=True, description="A text prompt that begins with the BOS token gets no second one."
    )
    engine_args: dict[str, Any] = Field(
        default={},
        description="Further vLLM engine arguments, passed on as they are;"
        " `load_format: dummy` needs no weights, and serves noise.",
    )

    @property
    def directory(self) -> Path:
        """Where the weights are."""
        return self.path if self.path is not None else builtin_path(str(self.builtin))

    @property
    def num_gpus(self) -> int:
        """Of each replica."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    def of_replica(self, number: int) -> ModelSettings:
        """As the engine of one replica is told: with the GPUs that are named for it."""
        return self.model_copy(update={"devices": group_of(self.devices, number, self.num_gpus)})

    def of_adapter(self, adapter: AdapterSettings) -> ModelSettings:
        """As requests for that adapter have it."""
        keys = self.allowed_keys if adapter.allowed_keys is None else adapter.allowed_keys
        names = {"id": adapter.id, "title": adapter.title or adapter.id, "description": adapter.description}
        return self.model_copy(update={**names, "allowed_keys": keys, "adapters": ()})

    @property
    def needs_weights(self) -> bool:
        """Whether the engine reads them: vLLM's load format `dummy` takes random numbers instead."""
        return self.engine != "simulated" and self.engine_args.get("load_format") != "dummy"

    @model_validator(mode="before")
    @classmethod
    def _title_is_id(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("id"), str):
            return {"title": data["id"], **data}
        return data

    @field_validator("path")
    @classmethod
    def _resolve(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return from_base(path, info)

    @field_validator("builtin")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in BUILTIN_MODELS:
            raise ValueError(f'no model "{name}" comes with the server{nearest(name, BUILTIN_MODELS)}')
        return name

    @field_validator("suffix_template")
    @classmethod
    def _both_places(cls, template: str | None) -> str | None:
        if template and any(template.count(mark) != 1 for mark in ("{prefix}", "{suffix}")):
            raise ValueError("suffix_template must contain {prefix} and {suffix} once each")
        return template

    @field_validator("engine_args")
    @classmethod
    def _not_ours(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        for name, value in arguments.items():
            if (problem := refusal(name, value)) is not None:
                raise MisplacedError(problem, name)
        return arguments

    @model_validator(mode="after")
    def _check(self) -> ModelSettings:
        if (self.path is None) == (self.builtin is None):
            raise ValueError(
                f'model "{self.id}" needs either path or builtin' + (", not both" if self.path else "")
            )
        check_devices(self.id, self.devices, self.replicas.max, self.num_gpus)
        if self.unload_after_s and self.load == "at_start":
            raise MisplacedError(
                f'model "{self.id}" is loaded at the start, and unload_after_s is for models that are'
                " loaded again when they are asked for; set load: on_demand",
                "unload_after_s",
            )
        if self.load == "on_demand" and not self.replicas.is_fixed:
            raise MisplacedError(
                f'model "{self.id}" is loaded on demand, and then has a fixed number of replicas: set one'
                " number, or load: at_start",
                "replicas",
            )
        if self.asleep_gib is not None and not self.sleep_level:
            raise MisplacedError(
                f'model "{self.id}" does not sleep; set sleep_level: 1, or leave asleep_gib out', "asleep_gib"
            )
        if self.min_ready > self.replicas.min:
            raise MisplacedError(
                f'model "{self.id}" has {self.replicas.min} replicas at least, of which min_ready'
                f" ({self.min_ready}) could not be ready",
                "min_ready",
            )
        return self
