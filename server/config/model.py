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
    """Defaults for fields that a request leaves out. The ranges are the contract's."""

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
    """Limits of one request; a request beyond them is a 400."""

    where = "in limits"

    n: int = Field(default=128, ge=1, le=128, description="Largest `n`.")
    best_of: int = Field(default=128, ge=1, le=128, description="Largest `best_of`.")
    stop: int = Field(default=4, ge=0, description="Largest number of stop sequences.")
    prompts: int = Field(default=1024, ge=1, description="Largest number of prompts in one request.")
    candidates: int = Field(
        default=4096, ge=1, description="Largest product of prompts and `best_of` in one request."
    )


class BestOf(Section):
    where = "in best_of"

    give_up: bool = Field(
        default=True, description="End candidates early that can no longer be among the `n` best."
    )
    pause: bool = Field(
        default=False,
        description="Let the worse half wait while the better one runs ahead; then more can be ended early.",
    )


class ModelSettings(Section):
    """One served model."""

    where = "in a model"

    id: Name = Field(description="The `model` that clients ask for; may contain `/`.")
    title: str = Field(default="", description="Title in the list of models; empty: the id.")
    description: str = Field(default="", description="Description in the list of models.")
    owned_by: str = Field(default="verbatim", description="Owner in the list of models.")
    path: Path | None = Field(
        default=None, strict=False, description="Directory of the model, relative to this file."
    )
    builtin: str | None = Field(default=None, description="A built-in model, instead of `path`.")
    sha256: dict[str, Sha256] = Field(
        default={}, description="SHA-256 by file name, verified before the engine starts."
    )
    engine: Literal["auto", "vllm", "simulated"] = Field(
        default="auto", description="`simulated` is an engine without a model, for tests."
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto",
        description="Type in which the weights are used; `auto`: that of config.json, but bfloat16 for"
        " float32.",
    )
    max_model_len: Count | None = Field(
        default=None, description="Largest number of tokens of prompt and completion; null: the model's own."
    )
    max_num_seqs: Count = Field(default=256, description="Candidates that run at the same time; others wait.")
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="Share of each GPU's memory that the engine takes."
    )
    tensor_parallel_size: Count = Field(
        default=1, description="GPUs that share every layer (tensor parallelism)."
    )
    pipeline_parallel_size: Count = Field(
        default=1, description="Groups of GPUs that take a part of the layers each (pipeline parallelism)."
    )
    quantization: str | None = Field(
        default=None, description="vLLM's name of the quantization; null: what config.json says."
    )
    replicas: Replication = Field(
        default=Replication(),
        description="Engines of the model, each with its own GPUs: a number or a range.",
    )
    min_ready: Count = Field(
        default=1, description="Replicas that must be ready before the model takes requests."
    )
    devices: Devices = Field(
        default=(),
        strict=False,
        description="GPU numbers as nvidia-smi shows them: a list for each replica, or one list that is"
        " split in order; empty: all GPUs in order.",
    )
    load: Literal["at_start", "on_demand"] = Field(
        default="at_start",
        description="`on_demand`: load the model at its first request, and unload it when another model"
        " needs the memory.",
    )
    unload_after_s: float = Field(
        default=0.0,
        ge=0,
        description="Seconds without work after which a model that is loaded on demand is unloaded; 0:"
        " never.",
    )
    size_gib: float | None = Field(
        default=None,
        gt=0,
        description="Memory of its group that the model takes, GiB; null: what it took last time, or an"
        " estimate from its files and KV cache.",
    )
    sleep_level: Literal[0, 1, 2] = Field(
        default=0,
        description="GPUs only: let the engines sleep (vLLM's sleep mode) to make room. 1: the weights move"
        " to the machine's memory; 2: they are dropped and read from disk again. 0: the engines end instead.",
    )
    asleep_gib: float | None = Field(
        default=None,
        ge=0,
        description="Memory of its group that it keeps while it sleeps, GiB; null: 1 for each GPU.",
    )
    standby: bool = Field(
        default=False,
        description="Keep a standby process ready, so that a lost engine is replaced sooner.",
    )
    kv_cache_gib: float = Field(default=1.0, gt=0, description="CPU only: memory for the KV cache, GiB.")
    defaults: Defaults = Field(default=Defaults(), description="Values for fields that a request leaves out.")
    limits: Limits = Field(default=Limits(), description="Limits of one request.")
    best_of: BestOf = Field(default=BestOf(), description="How `best_of` works.")
    include_stop_text: bool = Field(
        default=True, description="Include the matched stop sequence in the returned text."
    )
    strict_fields: bool = Field(
        default=False, description="Refuse unknown request fields with a 400 instead of ignoring them."
    )
    allowed_keys: tuple[Name, ...] = Field(
        default=(),
        strict=False,
        description="Names of the API keys that may use the model; empty: every key.",
    )
    adapters: tuple[AdapterSettings, ...] = Field(
        default=(), strict=False, description="LoRA adapters, each served with an id of its own."
    )
    suffix_template: str | None = Field(
        default=None,
        description="Fill-in-the-middle text with {prefix} and {suffix}; null: use the tokenizer's own"
        " fill-in-the-middle tokens; empty: none.",
    )
    single_bos: bool = Field(
        default=True, description="Do not add a second BOS token to a text prompt that begins with one."
    )
    engine_args: dict[str, Any] = Field(
        default={},
        description="Further vLLM engine arguments, passed on unchanged; `load_format: dummy` needs no"
        " weights, and generates noise.",
    )

    @property
    def directory(self) -> Path:
        """The directory of the weights."""
        return self.path if self.path is not None else builtin_path(str(self.builtin))

    @property
    def num_gpus(self) -> int:
        """GPUs of each replica."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    def of_replica(self, number: int) -> ModelSettings:
        """The settings as the engine of one replica gets them, with the GPUs of this replica."""
        return self.model_copy(update={"devices": group_of(self.devices, number, self.num_gpus)})

    def of_adapter(self, adapter: AdapterSettings) -> ModelSettings:
        """The settings as requests for that adapter see them."""
        keys = self.allowed_keys if adapter.allowed_keys is None else adapter.allowed_keys
        names = {"id": adapter.id, "title": adapter.title or adapter.id, "description": adapter.description}
        return self.model_copy(update={**names, "allowed_keys": keys, "adapters": ()})

    @property
    def needs_weights(self) -> bool:
        """Whether the engine reads weights. vLLM's load format `dummy` uses random numbers instead."""
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
                f'model "{self.id}" has unload_after_s, but is loaded at the start; unload_after_s needs'
                " load: on_demand",
                "unload_after_s",
            )
        if self.load == "on_demand" and not self.replicas.is_fixed:
            raise MisplacedError(
                f'model "{self.id}" is loaded on demand, and needs a fixed number of replicas: set replicas'
                " to one number, or load: at_start",
                "replicas",
            )
        if self.asleep_gib is not None and not self.sleep_level:
            raise MisplacedError(
                f'model "{self.id}" has asleep_gib, but does not sleep; set sleep_level: 1, or remove'
                " asleep_gib",
                "asleep_gib",
            )
        if self.min_ready > self.replicas.min:
            raise MisplacedError(
                f'model "{self.id}" has a min_ready of {self.min_ready}, but may run as few as'
                f" {self.replicas.min} replicas; set min_ready to at most that",
                "min_ready",
            )
        return self
