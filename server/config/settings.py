"""The shape of the configuration: every key of the server with its type, range and default. The keys of a
model are in model.py.

The text of a key's `description` is its entry in docs/configuration.md. loading.py fills in the values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from server.config.groups import check_groups, check_workers
from server.config.model import ModelSettings
from server.config.sections import (
    TLS,
    AdminPort,
    Journal,
    KeyGroup,
    MemoryGroup,
    RateLimits,
    Section,
    from_base,
    host_from_base,
)
from server.config.tracing import Tracing
from server.config.values import (
    ClusterAddress,
    FileMode,
    GroupName,
    Host,
    Origin,
    is_local,
)
from server.config.yamlfile import MisplacedError
from server.errors import ConfigurationError


class Settings(Section):
    """The settings of the server."""

    host: Host = Field(
        default="127.0.0.1",
        description="Address to listen on, or a Unix socket, `unix:/run/verbatim/verbatim.sock`; other"
        " addresses than loopback need an API key.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    socket_mode: FileMode = Field(
        default="600", description="Permissions of a Unix socket, octal; who may write to it may connect."
    )
    tls: TLS | None = Field(default=None, description="Use TLS on the port; null: plain HTTP.")
    admin: AdminPort | None = Field(
        default=None,
        description="A separate port for `/metrics`, `/status` and the admin routes, which the main port"
        " then lacks; null: the main port serves them.",
    )
    api_keys_file: Path | None = Field(
        default=None,
        strict=False,
        description="File of API keys, by name and SHA-256; read again when it changes.",
    )
    cors_origins: tuple[Origin, ...] = Field(
        default=(), strict=False, description="Origins whose web pages may use this server (CORS); `*`: all."
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that answer requests; they share the engines.",
    )
    cluster: ClusterAddress = Field(
        default="",
        description="Serve as a front end of a Ray cluster, whose nodes run the engines: `auto`: the"
        " cluster of this machine's node, else HOST:PORT of its head; empty: engines run here.",
    )
    max_body_bytes: int = Field(
        default=8 * 1024 * 1024, ge=1024, description="Largest request body; a larger one is a 413."
    )
    drain_timeout_s: float = Field(
        default=30.0, ge=0, description="Seconds that running requests have to finish after SIGTERM."
    )
    request_timeout_s: float = Field(default=0.0, ge=0, description="Deadline of one request, s; 0 is none.")
    receive_timeout_s: float = Field(
        default=60.0, ge=0, description="Seconds in which a client must send a request; 0: no limit."
    )
    slow_reader_timeout_s: float = Field(
        default=60.0, ge=0, description="Seconds that a client may read nothing of its reply; 0: no limit."
    )
    stream_interval: int = Field(
        default=1,
        ge=1,
        description="Least tokens of a choice in each chunk of a stream; a request may ask for more.",
    )
    stream_interval_ms: float = Field(
        default=0.0, ge=0, description="Milliseconds between two chunks of a stream; 0: no delay."
    )
    max_pending: int = Field(
        default=4096, ge=1, description="Candidates waiting or running per model; more are a 503."
    )
    max_wait_s: float = Field(
        default=600.0,
        ge=0,
        description="Refuse a request with a 503 if it would wait longer for its turn, in seconds; 0: let"
        " it wait. The wait is predicted from how fast others end.",
    )
    resume: bool = Field(
        default=True,
        description="Continue requests on the next engine when theirs has died or hung; false: they fail.",
    )
    resume_timeout_s: float = Field(
        default=120.0,
        gt=0,
        description="Seconds that a request waits for the next engine when it has lost its own.",
    )
    hang_timeout_s: float = Field(
        default=20.0,
        ge=0,
        description="Seconds without a sign of life after which an engine is killed and restarted; 0:"
        " never. On a CPU, each layer that is computed is a sign of life (in an engine of one process).",
    )
    keep_trying: bool = Field(
        default=False,
        description="Keep trying when the only model's engine has failed to start in the same way three"
        " times.",
    )
    error_format: Literal["nested", "flat"] = Field(
        default="nested", description="`flat` leaves out the `error` object."
    )
    rate_limits: RateLimits = Field(
        default=RateLimits(),
        description="Limits of each API key, unless its line or its group says otherwise.",
    )
    key_groups: dict[GroupName, KeyGroup] = Field(
        default={}, description="Limits and shares of groups of keys, by the group's name."
    )
    groups: dict[GroupName, MemoryGroup] = Field(
        default={},
        description="Groups of models that share memory, by name; as many models are loaded as fit.",
    )
    journal: Journal | None = Field(
        default=None, description="Record each completion request (docs/journal.md); null: no journal."
    )
    attest: bool = Field(
        default=False,
        description="Verify every weight file at the start, and show digests on `GET /attestation`.",
    )
    tracing: Tracing | None = Field(
        default=None, description="Send traces to an OpenTelemetry collector; null: no traces."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level that is logged."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="`json`: each line is an object, whose `event` docs/events.md lists."
    )
    models: tuple[ModelSettings, ...] = Field(
        min_length=1, strict=False, description="The models; at least one."
    )
    # Only from the environment: a secret does not belong in a file under version control, nor in a log.
    api_keys: tuple[str, ...] = Field(default=(), strict=False, repr=False, exclude=True)

    @field_validator("host")
    @classmethod
    def _resolve_host(cls, host: str, info: ValidationInfo) -> str:
        return host_from_base(host, info)

    @field_validator("api_keys_file")
    @classmethod
    def _resolve(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return from_base(path, info)

    @model_validator(mode="after")
    def _check(self) -> Settings:
        self._check_ids()
        if not (self.api_keys or self.api_keys_file or is_local(self.host)):
            raise MisplacedError(
                f"host is {self.host} but there is no API key, so anyone could use this server; make a key"
                " with `verbatim keys new NAME --file api-keys.txt`, then start with `--api-keys-file"
                " api-keys.txt` (or set VERBATIM_API_KEYS), or listen on 127.0.0.1",
                "host",
            )
        if self.admin and not (self.api_keys or self.api_keys_file or is_local(self.admin.host)):
            raise MisplacedError(
                f"admin.host is {self.admin.host} but there is no API key; make one with `verbatim keys new"
                " NAME --role admin`, or listen on 127.0.0.1",
                *("admin", "host"),
            )
        if "*" in self.cors_origins and not (self.api_keys or self.api_keys_file):
            raise MisplacedError(
                "cors_origins is * but there is no API key, so any web page opened on this machine could"
                " use this server; list the origins, or make a key with `verbatim keys new`",
                "cors_origins",
            )
        group_of: dict[str, str] = {}
        for group, terms in self.key_groups.items():
            if "anonymous" in terms.keys and "admin" in (terms.roles or ()):
                problem = "anonymous, which is any client without a key, cannot be an admin; make a key with"
                raise MisplacedError(
                    f"{problem} `verbatim keys new NAME --role admin`", "key_groups", group, "roles"
                )
            for name in terms.keys:
                if group_of.setdefault(name, group) != group:
                    problem = f'the key "{name}" is in two groups, {group_of[name]} and {group}'
                    raise MisplacedError(problem, "key_groups", group, "keys")
        check_groups(self.groups, self.models)
        check_workers(self.models, self.workers, self.cluster)
        return self

    def with_models(self, *models: ModelSettings) -> Settings:
        """These settings with these models. Raises ConfigurationError if two of them have the same id."""
        new = self.model_copy(update={"models": models})
        try:
            new._check_ids()
        except MisplacedError as error:
            raise ConfigurationError(f"{error}.") from None
        return new

    def _check_ids(self) -> None:
        """Every id of a model or adapter must be unique."""
        taken: dict[str, str] = {}
        for index, model in enumerate(self.models):
            if model.id in taken:
                problem = f'two models have the id "{model.id}"; clients could not tell them apart'
                raise MisplacedError(problem, "models", index, "id")
            taken[model.id] = "a model"
        for index, model in enumerate(self.models):
            for number, one in enumerate(model.adapters):
                if one.id in taken:
                    problem = f'the adapter has the id "{one.id}", which {taken[one.id]} has too; clients'
                    raise MisplacedError(
                        f"{problem} could not tell them apart", "models", index, "adapters", number, "id"
                    )
                taken[one.id] = "another adapter"
