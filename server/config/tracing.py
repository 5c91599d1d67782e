"""Where traces go, and which."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator

from server.config.sections import Section, from_base
from server.config.yamlfile import MisplacedError

TRACES_PATH = "/v1/traces"  # of a collector, where the endpoint names none
NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # of a header, RFC 9110
OURS = ("host", "content-length", "content-type", "content-encoding")  # headers that the exporter writes


class Tracing(Section):
    where = "in tracing"

    endpoint: str = Field(
        description="The OpenTelemetry collector, http:// or https://: for `http/protobuf` port 4318, and the"
        " path `/v1/traces` if none is given; for `grpc` port 4317, without a path."
    )
    protocol: Literal["http/protobuf", "grpc"] = Field(
        default="http/protobuf", description="How spans travel to it."
    )
    sample_ratio: float = Field(
        default=1.0, ge=0, le=1, description="Share of requests that are traced; 0.01 is one of a hundred."
    )
    follow_parent: bool = Field(
        default=True,
        description="If a client sends a `traceparent`, it decides whether its request is traced; off:"
        " `sample_ratio` decides, and the spans are in the client's trace all the same.",
    )
    # Secrets, mostly: neither shown nor logged.
    headers: dict[str, str] = Field(
        default={},
        repr=False,
        description="Headers for the collector, such as a token; OTEL_EXPORTER_OTLP_HEADERS adds to them.",
    )
    ca: Path | None = Field(
        default=None,
        strict=False,
        description="CA certificates, PEM, to verify the collector with; null: the system's.",
    )
    resource: dict[str, str | bool | int | float] = Field(
        default={}, description="Attributes of this server, besides `service.name`, which is `verbatim`."
    )
    record_text: bool = Field(
        default=False, description="Put prompts and texts into spans; off: neither leaves the server."
    )

    @property
    def url(self) -> str:
        """The endpoint with its path."""
        has_path = self.protocol == "grpc" or urlsplit(self.endpoint).path.strip("/")
        return self.endpoint if has_path else self.endpoint.rstrip("/") + TRACES_PATH

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, endpoint: str) -> str:
        """The sentence shows no more of it than has to be: it may hold a password."""
        words = "tracing.endpoint should be the collector's URL, http://127.0.0.1:4318 say"
        try:
            parts = urlsplit(endpoint)
            has_port = parts.port is None or parts.port > 0
        except ValueError:
            raise ValueError(words) from None
        if parts.scheme not in ("http", "https") or not parts.hostname or not has_port:
            raise ValueError(words)
        if re.search(r"[\s\x00-\x1f\x7f]", endpoint) or not endpoint.isascii():
            raise ValueError(f"{words}, without spaces")
        if parts.username is not None or parts.password is not None:
            raise ValueError(f"{words}, without a name and a password; give those as a header")
        if parts.query or parts.fragment:
            raise ValueError(f"{words}, without ? and #")
        return endpoint

    @field_validator("headers", mode="before")
    @classmethod
    def _check_headers(cls, headers: Any) -> Any:
        if not isinstance(headers, dict):
            raise ValueError("tracing.headers should be a mapping of names and values")
        for name, value in headers.items():
            if not isinstance(name, str) or not NAME.fullmatch(name):
                raise ValueError("a name in tracing.headers is no header's: letters, digits and - are")
            if name.lower() in OURS:
                raise ValueError(f"tracing.headers has {name}, which the exporter writes itself")
            if not isinstance(value, str) or not re.fullmatch(
                r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", value
            ):
                raise ValueError(f"tracing.headers: the value of {name} should be text of printable ASCII")
        return headers

    @field_validator("resource")
    @classmethod
    def _check_resource(cls, resource: dict[str, Any]) -> dict[str, Any]:
        for name in resource:
            if not re.fullmatch(r"[!-~]{1,255}", name):
                raise ValueError("a name in tracing.resource should be as deployment.environment.name is")
        return resource

    @field_validator("ca")
    @classmethod
    def _resolve(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return from_base(path, info)

    @model_validator(mode="after")
    def _check(self) -> Tracing:
        parts = urlsplit(self.endpoint)
        if self.protocol == "grpc" and parts.path.strip("/"):
            raise MisplacedError("tracing.endpoint has a path, which grpc has not", "endpoint")
        if self.ca is not None and parts.scheme != "https":
            raise MisplacedError("tracing.ca is for an endpoint with https://", "ca")
        return self
