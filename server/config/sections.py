"""What every section of the configuration is, and the sections about API keys and the port."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from server.config.patterns import Redacted
from server.config.values import UNIX, Host, Name, socket_path

# infer: completions and what belongs to them. admin: what changes a running server.
Role = Literal["infer", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
Limit = Annotated[int, Field(ge=0)]
Priority = Annotated[int, Field(ge=-1000, le=1000)]
# Bounds, so that no key has to wait for thousands of the others' turns.
Weight = Annotated[float, Field(ge=0.01, le=100)]


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=()
    )
    where: ClassVar[str] = "at the top level"


class RateLimits(Section):
    where = "in rate_limits"

    requests_per_minute: Limit = Field(default=0, description="Requests per minute and key; 0 is no limit.")
    tokens_per_minute: Limit = Field(
        default=0, description="Prompt and completion tokens per minute and key; 0: no limit."
    )
    concurrent_requests: Limit = Field(
        default=0, description="Requests of a key at the same time; 0 is no limit."
    )


class KeyTerms(Section):
    """What a key may. None: what its group says, else the role infer, every model, rate_limits, a weight of 1
    and a priority of 0."""

    where = "in a key's line"

    roles: tuple[Role, ...] | None = Field(
        default=None,
        min_length=1,
        strict=False,
        description="What each of its keys is for: `infer` asks for completions, `admin` changes the running"
        " server; null is `[infer]`.",
    )
    models: tuple[Name, ...] | None = Field(
        default=None,
        strict=False,
        description="Ids of the models and adapters that its keys may use, if the models' `allowed_keys`"
        " allow it too; null is every one.",
    )
    requests_per_minute: Limit | None = Field(
        default=None, description="As in `rate_limits`, for each of its keys; null is the value there."
    )
    tokens_per_minute: Limit | None = Field(default=None, description="As in `rate_limits`.")
    concurrent_requests: Limit | None = Field(default=None, description="As in `rate_limits`.")
    weight: Weight | None = Field(
        default=None, description="Relative share of each of its keys when keys compete; null is 1."
    )
    priority: Priority | None = Field(
        default=None,
        description="Lowest (most urgent) `priority` that a request may ask for; null is 0.",
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
        description="The server's certificate, PEM, with its chain; read again when it changes.",
    )
    key: Path | None = Field(
        default=None, strict=False, description="Its key, PEM, not encrypted; null: in the same file."
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
        default="127.0.0.1", description="Address to listen on, or a Unix socket, as the server's own `host`."
    )
    port: int = Field(ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    tls: bool = Field(
        default=True,
        description="Use the server's `tls` on this port too; off: plain HTTP, for probes on this machine.",
    )

    @field_validator("host")
    @classmethod
    def _resolve(cls, host: str, info: ValidationInfo) -> str:
        return host_from_base(host, info)


def host_from_base(host: str, info: ValidationInfo) -> str:
    """The path of a Unix socket starts where others do."""
    path = socket_path(host)
    return host if path is None else f"{UNIX}{from_base(path, info)}"


class Journal(Section):
    """A record of each completion request."""

    where = "in journal"

    path: Path = Field(
        strict=False, description="Folder of its files, created if missing; relative to this file."
    )
    max_file_mib: int = Field(default=64, ge=1, description="Largest size of a file, MiB.")
    max_files: int = Field(
        default=16,
        ge=1,
        description="Files that are kept, including the current one; the oldest is deleted.",
    )
    prompts: bool = Field(
        default=False,
        description="Keep each request as the client wrote it, with its prompt, which"
        " `verbatim journal replay` needs.",
    )
    texts: bool = Field(default=False, description="Keep the text of each choice.")
    redact: tuple[Redacted, ...] = Field(
        default=(),
        strict=False,
        description="Regular expressions, Python's: what they match in prompts, texts and other strings of a"
        " client becomes `[redacted]`. Token ids are not kept then, because no pattern sees them.",
    )
    client_address: bool = Field(default=False, description="Keep the address that a request came from.")

    @field_validator("path")
    @classmethod
    def _resolve(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return from_base(path, info)


class MemoryGroup(Section):
    """Models that share memory."""

    where = "in a group of groups"

    models: tuple[Name, ...] = Field(
        min_length=1, strict=False, description="Ids of the models that share the memory."
    )
    memory_gib: float | None = Field(
        default=None,
        gt=0,
        description="Memory that they share, GiB; null is that of their GPUs, or without GPUs what is free"
        " when the server starts.",
    )
    min_loaded_s: float = Field(
        default=60.0,
        ge=0,
        description="How long a loaded model stays at least, s, even if another one is requested.",
    )


def from_base(path: Path | None, info: ValidationInfo) -> Path | None:
    """A path in the file starts at the file; one from a flag or the environment starts here."""
    context = info.context or {}
    here = info.field_name in context.get("from_here", ())
    base = Path() if here else context.get("base", Path())
    return None if path is None else (base / path.expanduser()).absolute()
