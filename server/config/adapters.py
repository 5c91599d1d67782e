"""The shape of one adapter's configuration.

The text of a key's `description` is its entry in docs/configuration.md.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationInfo, field_validator

from server.config.sections import Section, from_base
from server.config.values import Name, Sha256


class AdapterSettings(Section):
    """A LoRA adapter of a model, which is served beside it under an id of its own."""

    where = "in an adapter"

    id: Name = Field(description="The name clients ask for as `model`; may contain `/`.")
    title: str = Field(default="", description="Shown in the models list; empty is the id.")
    description: str = Field(default="", description="Shown in the models list.")
    path: Path = Field(
        strict=False,
        description="Directory with adapter_config.json and adapter_model.safetensors, relative to this"
        " file.",
    )
    sha256: dict[str, Sha256] = Field(
        default={}, description="Digest by file name, verified before the adapter is served."
    )
    allowed_keys: tuple[Name, ...] | None = Field(
        default=None,
        strict=False,
        description="Names of keys that may use it; null is the model's `allowed_keys`, empty is every key.",
    )

    @field_validator("path")
    @classmethod
    def _resolve(cls, path: Path, info: ValidationInfo) -> Path | None:
        return from_base(path, info)
