"""Settings of traces: where they are sent, and which requests are traced."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator, model_validator

from server.config.sections import Section, from_base
from server.config.yamlfile import MisplacedError

TRACES_PATH = "/v1/traces"  # the collector's path, if the endpoint has none
NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # a header's name, RFC 9110
OURS = ("host", "content-length", "content-type", "content-encoding")  # headers that the exporter sets itself


class Tracing(Section):
    where = "in tracing"

    endpoint: str = Field(
        description="URL of the OpenTelemetry collector, http:// or https://. For `http/protobuf`: port"
        " 4318, with the path `/v1/traces` if none is given; for `grpc`: port 4317, without a path."
    )
    protocol: Literal["http/protobuf", "grpc"] = Field(
        default="http/protobuf", description="Protocol to send spans with."
    )
    sample_ratio: float = Field(
        default=1.0, ge=0, le=1, description="Share of requests that are traced; 0.01 is one in a hundred."
    )
    follow_parent: bool = Field(
        default=True,
        description="Trace a request as its client's `traceparent` says; false: as `sample_ratio` says, but"
        " still in the client's trace.",
    )
    # Mostly secrets: neither shown nor logged.
    headers: dict[str, str] = Field(
        default={},
        repr=False,
        description="Headers for the collector, such as a token; those of OTEL_EXPORTER_OTLP_HEADERS are"
        " sent too.",
    )
    ca: Path | None = Field(
        default=None,
        strict=False,
        description="CA certificates, PEM, for the collector's certificate; null: the system's.",
    )
    resource: dict[str, str | bool | int | float] = Field(
        default={},
        description="Attributes of this server, in addition to `service.name`, which is `verbatim`.",
    )
    record_text: bool = Field(
        default=False, description="Put prompts and texts into spans; false: no text leaves the server."
    )

    @property
    def url(self) -> str:
        """The endpoint with its path."""
        has_path = self.protocol == "grpc" or urlsplit(self.endpoint).path.strip("/")
        return self.endpoint if has_path else self.endpoint.rstrip("/") + TRACES_PATH

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, endpoint: str) -> str:
        """Check the endpoint. The message does not quote it, because it may contain a password."""
        words = "tracing.endpoint should be the collector's URL, such as http://127.0.0.1:4318"
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
            raise ValueError(f"{words}, without user name and password; put those into tracing.headers")
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
                raise ValueError(
                    "a name in tracing.headers is not a header name: use letters, digits and - only"
                )
            if name.lower() in OURS:
                raise ValueError(f"tracing.headers has {name}, which the exporter sets itself; remove it")
            if not isinstance(value, str) or not re.fullmatch(
                r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?", value
            ):
                raise ValueError(f"tracing.headers: the value of {name} should be printable ASCII text")
        return headers

    @field_validator("resource")
    @classmethod
    def _check_resource(cls, resource: dict[str, Any]) -> dict[str, Any]:
        for name in resource:
            if not re.fullmatch(r"[!-~]{1,255}", name):
                raise ValueError(
                    "a name in tracing.resource should be like deployment.environment.name: printable ASCII"
                    " without spaces"
                )
        return resource

    @field_validator("ca")
    @classmethod
    def _resolve(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        return from_base(path, info)

    @model_validator(mode="after")
    def _check(self) -> Tracing:
        parts = urlsplit(self.endpoint)
        if self.protocol == "grpc" and parts.path.strip("/"):
            raise MisplacedError(
                "tracing.endpoint has a path, but with protocol grpc it may not have one", "endpoint"
            )
        if self.ca is not None and parts.scheme != "https":
            raise MisplacedError("tracing.ca needs an endpoint with https://", "ca")
        return self
