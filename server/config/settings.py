"""The shape of the configuration: every key of the server, its type, range and default. model.py
has a model's.

The text of a key's `description` is its entry in docs/configuration.md. loading.py fills the values in.
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
    """Everything the server was told."""

    host: Host = Field(
        default="127.0.0.1",
        description="Address to listen on, or a Unix socket, `unix:/run/verbatim/verbatim.sock`; any address"
        " but loopback needs an API key.",
    )
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    socket_mode: FileMode = Field(
        default="600", description="Mode of the Unix socket, octal; whoever may write to it may connect."
    )
    tls: TLS | None = Field(default=None, description="Speak TLS on the port; null: plain HTTP.")
    admin: AdminPort | None = Field(
        default=None,
        description="A separate port for `/metrics`, `/status` and the routes of admins, which the main port"
        " then no longer has; null: the main port has them.",
    )
    api_keys_file: Path | None = Field(
        default=None,
        strict=False,
        description="File of keys, by name and SHA-256; read again when it changes.",
    )
    cors_origins: tuple[Origin, ...] = Field(
        default=(),
        strict=False,
        description="Origins whose web pages may call this server; `*` is every origin.",
    )
    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Processes that answer requests, all using the same engines.",
    )
    cluster: ClusterAddress = Field(
        default="",
        description="Serve as a front end of a Ray cluster, whose nodes run the engines: `auto` for the"
        " cluster that this machine is a node of, or HOST:PORT of its head; empty: engines run here.",
    )
    max_body_bytes: int = Field(
        default=8 * 1024 * 1024, ge=1024, description="Largest request body; more is a 413."
    )
    drain_timeout_s: float = Field(
        default=30.0, ge=0, description="How long running requests may finish after SIGTERM, s."
    )
    request_timeout_s: float = Field(default=0.0, ge=0, description="Deadline of one request, s; 0 is none.")
    receive_timeout_s: float = Field(
        default=60.0, ge=0, description="How long a client may take to send a request, s; 0 is no limit."
    )
    slow_reader_timeout_s: float = Field(
        default=60.0, ge=0, description="How long a client may read nothing of its reply, s; 0 is no limit."
    )
    stream_interval: int = Field(
        default=1,
        ge=1,
        description="Least tokens of a choice in each chunk of a stream; a request may ask for more.",
    )
    stream_interval_ms: float = Field(
        default=0.0, ge=0, description="Least time between two chunks of a stream, ms; 0: as they come."
    )
    max_pending: int = Field(
        default=4096, ge=1, description="Candidates waiting or running per model; more is a 503."
    )
    max_wait_s: float = Field(
        default=600.0,
        ge=0,
        description="A request that would wait longer in the queue is a 503, s; 0: it waits. The wait is"
        " estimated from how fast others end.",
    )
    resume: bool = Field(
        default=True,
        description="Requests continue where they were after their engine has died or hung; off: they fail.",
    )
    resume_timeout_s: float = Field(
        default=120.0, gt=0, description="How long a request that has lost its engine waits for the next, s."
    )
    hang_timeout_s: float = Field(
        default=20.0,
        ge=0,
        description="An engine that does not respond for so long is killed and started again, s; 0: never."
        " A step of a large model on a CPU may need more.",
    )
    keep_trying: bool = Field(
        default=False,
        description="Do not end when the only model's engine fails three times in the same way to start.",
    )
    error_format: Literal["nested", "flat"] = Field(
        default="nested", description="`flat` leaves the `error` object out."
    )
    rate_limits: RateLimits = Field(
        default=RateLimits(),
        description="Limits of each API key, unless its line or its group says otherwise.",
    )
    key_groups: dict[GroupName, KeyGroup] = Field(
        default={}, description="Limits and shares of several keys, by the group's name."
    )
    groups: dict[GroupName, MemoryGroup] = Field(
        default={}, description="Models that share memory, by the group's name; as many are loaded as fit."
    )
    journal: Journal | None = Field(
        default=None, description="Keep a record of each completion request (docs/journal.md); null: none."
    )
    attest: bool = Field(
        default=False, description="Verify every weight file at start; show digests on `GET /attestation`."
    )
    tracing: Tracing | None = Field(
        default=None, description="Traces of requests, for an OpenTelemetry collector; null: none."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Lowest level that is logged."
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="`json`: each line is an object, whose `event` docs/events.md lists."
    )
    models: tuple[ModelSettings, ...] = Field(
        min_length=1, strict=False, description="The models, at least one."
    )
    # From the environment alone: a secret has no place in a file that is checked in, nor in a log.
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
                f"host is {self.host} but there is no API key, so anyone could use this server; make one with"
                " `verbatim keys new NAME --file api-keys.txt`, then start with"
                " `--api-keys-file api-keys.txt` (or set VERBATIM_API_KEYS), or listen on 127.0.0.1",
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
                "cors_origins is *, but there is no API key, so any web page that is opened on this machine"
                " could use this server; name the origins, or make a key with `verbatim keys new`",
                "cors_origins",
            )
        group_of: dict[str, str] = {}
        for group, terms in self.key_groups.items():
            if "anonymous" in terms.keys and "admin" in (terms.roles or ()):
                problem = "anonymous is whoever asks, and cannot be an admin; make a key with"
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
        """These settings with these models. Raises ConfigurationError where two would have one id."""
        new = self.model_copy(update={"models": models})
        try:
            new._check_ids()
        except MisplacedError as error:
            raise ConfigurationError(f"{error}.") from None
        return new

    def _check_ids(self) -> None:
        """A model or adapter, as clients name it, is one."""
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
