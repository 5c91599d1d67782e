"""The shape of the configuration: every key, its type, range and default.

The text of a key's `description` is its entry in docs/configuration.md. loading.py fills the values in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from server.config.engine_args import refusal
from server.config.sections import KeyGroup, RateLimits, Section
from server.config.values import GroupName, Host, Name, Origin, Sha256, is_loopback
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
        default=True, description="End candidates that cannot be among the `n` best any more."
    )


class ModelSettings(Section):
    """One served model."""

    where = "in a model"

    id: Name = Field(description="The name clients ask for; may contain `/`.")
    title: str = Field(default="", description="Shown in the models list; empty is the id.")
    description: str = Field(default="", description="Shown in the models list.")
    owned_by: str = Field(default="verbatim", description="Shown in the models list.")
    path: Path | None = Field(
        default=None, strict=False, description="Directory of the model, from this file's directory."
    )
    builtin: str | None = Field(
        default=None, description="A model that comes with the server, instead of `path`."
    )
    sha256: dict[str, Sha256] = Field(
        default={}, description="Digest by file name, verified before the engine starts."
    )
    engine: Literal["auto", "vllm", "simulated"] = Field(
        default="auto", description="`simulated` needs no engine: for tests."
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto",
        description="Type of the weights in use; `auto` is config.json's, but bfloat16 for float32.",
    )
    max_model_len: Count | None = Field(
        default=None, description="Tokens of prompt and completion; null is the model's own."
    )
    max_num_seqs: Count = Field(default=256, description="Candidates computed at the same time; more wait.")
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="Share of each GPU's memory to take."
    )
    tensor_parallel_size: Count = Field(default=1, description="GPUs that share every layer.")
    pipeline_parallel_size: Count = Field(
        default=1, description="Groups of GPUs that share the layers in turn."
    )
    quantization: str | None = Field(
        default=None, description="vLLM's name of the method; null is what config.json says."
    )
    devices: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), strict=False, description="GPU numbers as nvidia-smi shows them; empty is all of them."
    )
    standby: bool = Field(
        default=False,
        description="Keep a further process ready, so that an engine that was lost is back at once.",
    )
    kv_cache_gib: float = Field(default=1.0, gt=0, description="CPU only: memory for the KV cache, GiB.")
    defaults: Defaults = Field(default=Defaults(), description="What a request gets that does not say.")
    limits: Limits = Field(default=Limits(), description="What one request may ask for.")
    best_of: BestOf = Field(default=BestOf(), description="How the `n` best of `best_of` are found.")
    include_stop_text: bool = Field(
        default=True, description="Returned text ends with the stop sequence that was met."
    )
    strict_fields: bool = Field(
        default=False, description="Unknown request fields are a 400 instead of ignored."
    )
    allowed_keys: tuple[Name, ...] = Field(
        default=(), strict=False, description="Names of keys; empty is every key."
    )
    suffix_template: str | None = Field(
        default=None, description="Fill-in-the-middle text with {prefix} and {suffix}."
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
        return _from_base(path, info)

    @field_validator("builtin")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None and name not in BUILTIN_MODELS:
            raise ValueError(f'no model "{name}" comes with the server{nearest(name, BUILTIN_MODELS)}')
        return name

    @field_validator("suffix_template")
    @classmethod
    def _both_places(cls, template: str | None) -> str | None:
        if template is not None and any(template.count(mark) != 1 for mark in ("{prefix}", "{suffix}")):
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
        gpus = self.tensor_parallel_size * self.pipeline_parallel_size
        if self.devices and len(self.devices) != gpus:
            raise ValueError(
                f'model "{self.id}" names {len(self.devices)} devices, but'
                f" tensor_parallel_size × pipeline_parallel_size is {gpus}"
            )
        if len(set(self.devices)) != len(self.devices):
            raise ValueError(f'model "{self.id}" names a device twice')
        return self


class Settings(Section):
    """Everything the server was told."""

    host: Host = Field(
        default="127.0.0.1", description="Address to listen on; other than loopback needs a key."
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_keys_file: Path | None = Field(
        default=None, strict=False, description="Keys by name and SHA-256, read anew on change."
    )
    cors_origins: tuple[Origin, ...] = Field(
        default=(), strict=False, description="Origins whose pages may ask this server; `*` is all of them."
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that answer requests, all of them on the same engines.",
    )
    max_body_bytes: int = Field(
        default=8 * 1024 * 1024, ge=1024, description="Largest request body; more is a 413."
    )
    drain_timeout_s: float = Field(
        default=30.0, ge=0, description="How long running requests may finish after SIGTERM, s."
    )
    request_timeout_s: float = Field(default=0.0, ge=0, description="Deadline of one request, s; 0 is none.")
    receive_timeout_s: float = Field(
        default=60.0, ge=0, description="How long a client may take to send a request, s; 0 is for ever."
    )
    slow_reader_timeout_s: float = Field(
        default=60.0, ge=0, description="How long a client may take nothing of its reply, s; 0 is for ever."
    )
    max_pending: int = Field(
        default=4096, ge=1, description="Candidates waiting or running per model; more is a 503."
    )
    max_wait_s: float = Field(
        default=600.0,
        ge=0,
        description="A request that would wait longer for its turn is a 503, s; 0: it waits. As far as the"
        " wait can be told, from how fast others end.",
    )
    resume: bool = Field(
        default=True,
        description="Requests go on where they were when their engine has died or hung; off: they fail.",
    )
    resume_timeout_s: float = Field(
        default=120.0, gt=0, description="How long a request that has lost its engine waits for the next, s."
    )
    hang_timeout_s: float = Field(
        default=20.0,
        ge=0,
        description="An engine without a sign of life for so long is killed and started again, s; 0: never."
        " A step of a large model on a CPU may need more.",
    )
    keep_trying: bool = Field(
        default=False,
        description="Go on when the only model's engine has failed to start in the same way three times.",
    )
    error_format: Literal["nested", "flat"] = Field(
        default="nested", description="`flat` leaves the `error` object out."
    )
    rate_limits: RateLimits = Field(
        default=RateLimits(), description="Per API key, unless its line or its group says otherwise."
    )
    key_groups: dict[GroupName, KeyGroup] = Field(
        default={}, description="Limits and shares of several keys, by the group's name."
    )
    attest: bool = Field(
        default=False, description="Verify every weight file at start; show digests on `GET /attestation`."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least level that is logged."
    )
    models: tuple[ModelSettings, ...] = Field(
        min_length=1, strict=False, description="The models, at least one."
    )
    # From the environment alone: a secret has no place in a file that is checked in, nor in a log.
    api_keys: tuple[str, ...] = Field(default=(), strict=False, repr=False, exclude=True)

    @field_validator("api_keys_file")
    @classmethod
    def _resolve(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return _from_base(path, info)

    @model_validator(mode="after")
    def _check(self) -> Settings:
        ids = [model.id for model in self.models]
        for index, name in enumerate(ids):
            if name in ids[:index]:
                problem = f'two models have the id "{name}"; clients could not tell them apart'
                raise MisplacedError(problem, "models", index, "id")
        if not (self.api_keys or self.api_keys_file or is_loopback(self.host)):
            raise MisplacedError(
                f"host is {self.host} but there is no API key, so anyone could use this server; make one with"
                " `verbatim keys new NAME --file api-keys.txt`, then start with"
                " `--api-keys-file api-keys.txt` (or set VERBATIM_API_KEYS), or listen on 127.0.0.1",
                "host",
            )
        if "*" in self.cors_origins and not (self.api_keys or self.api_keys_file):
            raise MisplacedError(
                "cors_origins is *, but there is no API key, so any web page that is opened on this machine"
                " could use this server; name the origins, or make a key with `verbatim keys new`",
                "cors_origins",
            )
        group_of: dict[str, str] = {}
        for group, terms in self.key_groups.items():
            for name in terms.keys:
                if group_of.setdefault(name, group) != group:
                    problem = f'the key "{name}" is in two groups, {group_of[name]} and {group}'
                    raise MisplacedError(problem, "key_groups", group, "keys")
        return self


def _from_base(path: Path | None, info: ValidationInfo) -> Path | None:
    """A path in the file starts at the file; one from a flag or the environment starts here."""
    context = info.context or {}
    here = info.field_name in context.get("from_here", ())
    base = Path() if here else context.get("base", Path())
    return None if path is None else (base / path.expanduser()).absolute()
