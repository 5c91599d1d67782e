"""The shape of one adapter's configuration.

The text of a key's `description` is its entry in docs/configuration.md.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from server.config.sections import Section, from_base
from server.config.values import Name, Sha256


class AdapterSettings(Section):
    """A LoRA adapter, served together with its model under an id of its own."""

    where = "in an adapter"

    id: Name = Field(description="The `model` that clients ask for; may contain `/`.")
    title: str = Field(default="", description="Title in the list of models; empty: the id.")
    description: str = Field(default="", description="Description in the list of models.")
    path: Path = Field(
        strict=False,
        description="Directory with adapter_config.json and adapter_model.safetensors, relative to this"
        " file.",
    )
    sha256: dict[str, Sha256] = Field(
        default={}, description="SHA-256 by file name, verified before the adapter is served."
    )
    allowed_keys: tuple[Name, ...] | None = Field(
        default=None,
        strict=False,
        description="Names of the API keys that may use it; null: the model's `allowed_keys`; empty: every"
        " key.",
    )

    @field_validator("path")
    @classmethod
    def _resolve(cls, path: Path, info: ValidationInfo) -> Path | None:
        return from_base(path, info)
