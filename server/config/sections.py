"""The base class of the sections of the configuration, and the sections about API keys and the port."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from server.config.patterns import Redacted
from server.config.values import UNIX, Host, Name, socket_path

# infer: completions and related routes. admin: changes of the running server.
Role = Literal["infer", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
Limit = Annotated[int, Field(ge=0)]
Priority = Annotated[int, Field(ge=-1000, le=1000)]
# Bounds on the weights, so that no key has to wait for thousands of turns of the others.
Weight = Annotated[float, Field(ge=0.01, le=100)]


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )
    where: ClassVar[str] = "at the top level"


class RateLimits(Section):
    where = "in rate_limits"

    requests_per_minute: Limit = Field(default=0, description="Requests per minute of each key; 0: no limit.")
    tokens_per_minute: Limit = Field(
        default=0, description="Prompt and completion tokens per minute of each key; 0: no limit."
    )
    concurrent_requests: Limit = Field(
        default=0, description="Requests of each key at the same time; 0: no limit."
    )


class KeyTerms(Section):
    """What a key may do. None: the group's value, else the default: role infer, every model, rate_limits,
    weight 1, priority 0."""

    where = "in a key's line"

    roles: tuple[Role, ...] | None = Field(
        default=None,
        min_length=1,
        strict=False,
        description="What its keys may do: `infer` sends completions, `admin` changes the running server;"
        " null: `[infer]`.",
    )
    models: tuple[Name, ...] | None = Field(
        default=None,
        strict=False,
        description="Ids of the models and adapters that its keys may use, if `allowed_keys` permits; null:"
        " all.",
    )
    requests_per_minute: Limit | None = Field(
        default=None, description="As in `rate_limits`, for each of its keys; null: the value there."
    )
    tokens_per_minute: Limit | None = Field(default=None, description="As in `rate_limits`.")
    concurrent_requests: Limit | None = Field(default=None, description="As in `rate_limits`.")
    weight: Weight | None = Field(
        default=None, description="Share of the work of each of its keys when keys compete; null: 1."
    )
    priority: Priority | None = Field(
        default=None,
        description="Smallest `priority`, which is the most urgent, that its requests may ask for; null: 0.",
    )


class KeyGroup(KeyTerms):
    where = "in a group of key_groups"

    keys: tuple[Name, ...] = Field(
        default=(),
        strict=False,
        description="Further keys in the group, besides those whose line says `group=`: for example"
        " `key-1` of VERBATIM_API_KEYS, or `anonymous`, the only key of a server without keys.",
    )


class TLS(Section):
    where = "in tls"

    cert: Path = Field(
        strict=False,
        description="The server's certificate with its chain, PEM; read again when it changes.",
    )
    key: Path | None = Field(
        default=None, strict=False, description="Its private key, PEM, not encrypted; null: in the same file."
    )
    client_ca: Path | None = Field(
        default=None,
        strict=False,
        description="CA certificates, PEM, one of which must have signed each client's certificate; null:"
        " clients need none.",
    )

    @field_validator("cert", "key", "client_ca")
    @classmethod
    def _resolve(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return from_base(path, info)


class AdminPort(Section):
    where = "in admin"

    host: Host = Field(
        default="127.0.0.1",
        description="Address to listen on, or a Unix socket, in the form of the server's `host`.",
    )
    port: int = Field(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    tls: bool = Field(
        default=True,
        description="Use the server's `tls` on this port too; false: plain HTTP, for probes on this machine.",
    )

    @field_validator("host")
    @classmethod
    def _resolve(cls, host: str, info: ValidationInfo) -> str:
        return host_from_base(host, info)


def host_from_base(host: str, info: ValidationInfo) -> str:
    """Resolve the path of a Unix socket relative to the file, as other paths."""
    path = socket_path(host)
    return host if path is None else f"{UNIX}{from_base(path, info)}"


class Journal(Section):
    """A record of each completion request."""

    where = "in journal"

    path: Path = Field(
        strict=False, description="Folder of the journal, relative to this file; created if missing."
    )
    max_file_mib: int = Field(default=64, ge=1, description="Largest size of a file, MiB.")
    max_files: int = Field(
        default=16,
        ge=1,
        description="Number of files that are kept, including the current one; the oldest is removed.",
    )
    prompts: bool = Field(
        default=False,
        description="Record each request as the client wrote it, with its prompt; `verbatim journal replay`"
        " needs this.",
    )
    texts: bool = Field(default=False, description="Record the text of each choice.")
    redact: tuple[Redacted, ...] = Field(
        default=(),
        strict=False,
        description="Python regular expressions: matches in prompts, texts and other strings of a client"
        " become `[redacted]` in the journal. Token ids are then not recorded, because no pattern can match"
        " them.",
    )
    client_address: bool = Field(default=False, description="Record the address of the client.")

    @field_validator("path")
    @classmethod
    def _resolve(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return from_base(path, info)


class MemoryGroup(Section):
    """Models that share memory."""

    where = "in a group of groups"

    models: tuple[Name, ...] = Field(
        min_length=1, strict=False, description="Ids of the models in the group."
    )
    memory_gib: float | None = Field(
        default=None,
        gt=0,
        description="Memory that they share, GiB; null: that of their GPUs, or without GPUs what is free"
        " when the server starts.",
    )
    min_loaded_s: float = Field(
        default=60.0,
        ge=0,
        description="Seconds that a loaded model stays at least, even if another model is requested.",
    )


def from_base(path: Path | None, info: ValidationInfo) -> Path | None:
    """Resolve a path relative to the file; a path from a flag or the environment is relative to
    the working directory."""
    context = info.context or {}
    here = info.field_name in context.get("from_here", ())
    base = Path() if here else context.get("base", Path())
    return None if path is None else (base / path.expanduser()).absolute()
