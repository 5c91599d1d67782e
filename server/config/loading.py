"""models.yaml, environment and flags become one frozen `Settings`.

Precedence: flag > environment > file > default. A request's value goes before a model's `defaults`, and those
before the contract's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from server.config.model import BestOf, Defaults, Limits, ModelSettings
from server.config.sections import KeyGroup, RateLimits
from server.config.settings import Settings
from server.config.yamlfile import YamlFile, explain, location_of, read_yaml
from server.errors import ConfigurationError

__all__ = [
    "BestOf",
    "Defaults",
    "KeyGroup",
    "Limits",
    "ModelSettings",
    "RateLimits",
    "Settings",
    "load_settings",
    "settings_of",
]

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_FILE = "models.yaml"
CONFIG_HELP = (
    "Configuration file. Default: VERBATIM_CONFIG, else ./models.yaml, else the built-in model alone."
)
HERE = Path()

# Every top-level key with a single value has an environment variable.
ENVIRONMENT = {
    f"VERBATIM_{name.upper()}": name
    for name, field in Settings.model_fields.items()
    if name
    not in (
        *(
            "admin",
            "api_keys",
            "cors_origins",
            "groups",
            "journal",
            "key_groups",
            "models",
            "rate_limits",
            "tls",
        ),
        "tracing",
    )
}


def load_settings(
    config_path: Path | None, overrides: Mapping[str, object], environ: Mapping[str, str]
) -> Settings:
    """The settings from a file (or ./models.yaml, or the built-in model alone), the environment and flags."""
    path = config_file(config_path, environ)
    if path is None:
        models = [{"id": DEFAULT_MODEL, "builtin": DEFAULT_MODEL}]
        return settings_of({"models": models}, overrides, environ)
    file = read_yaml(path)
    return settings_of(file.data, overrides, environ, file, path.parent)


def settings_of(
    keys: Mapping[str, Any],
    overrides: Mapping[str, object],
    environ: Mapping[str, str],
    file: YamlFile | None = None,
    base: Path = HERE,
) -> Settings:
    """The settings from these keys, the environment and flags. file: the file of the keys. base: folder to
    which paths in it are relative. Raises ConfigurationError."""
    data = dict(keys)
    if file and "api_keys" in data:
        place = file.place(["api_keys"])
        raise ConfigurationError(
            f"{place}: API keys are not allowed in this file; use api_keys_file or VERBATIM_API_KEYS."
        )
    sources: dict[str, str] = {}
    for variable, name in ENVIRONMENT.items():
        if environ.get(variable):
            data[name], sources[name] = _from_text(name, environ[variable]), variable
    for name, value in overrides.items():
        if value is not None:
            data[name], sources[name] = value, "--" + name.removesuffix("_s").replace("_", "-")
    data["api_keys"] = tuple(
        key.strip() for key in environ.get("VERBATIM_API_KEYS", "").split(",") if key.strip()
    )
    context = {"base": base, "from_here": set(sources)}
    try:
        return Settings.model_validate(data, context=context)
    except ValidationError as error:
        raise ConfigurationError(_first(error, file, sources)) from None


def config_file(config_path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """The configuration file in use; None: the built-in default."""
    if config_path or environ.get("VERBATIM_CONFIG"):
        return config_path or Path(environ["VERBATIM_CONFIG"])
    return Path(DEFAULT_FILE) if Path(DEFAULT_FILE).is_file() else None


def _first(error: ValidationError, file: YamlFile | None, sources: Mapping[str, str]) -> str:
    def place(location: tuple[int | str, ...]) -> str:
        if location and location[0] in sources:
            return sources[str(location[0])]
        return file.place(location) if file and location else file.name if file else "the configuration"

    # A misspelt key often causes a missing one as well: the first error explains the second.
    details = sorted(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    # pydantic also reports a list with wrong entries as too short.
    details = [one for one in details if one["type"] != "too_short" or not one["input"]]
    more = len(details) - 1
    tail = (
        ""
        if not more
        else " There is one more problem."
        if more == 1
        else f" There are {more} more problems."
    )
    return explain(details[0], Settings, place(location_of(details[0]))) + tail


def _from_text(name: str, text: str) -> object:
    """The value of an environment variable in its key's type. Text that does not fit stays text, and
    validation refuses it."""
    kind = Settings.model_fields[name].annotation
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return int(text) if kind is int else float(text) if kind is float else text
    except (KeyError, ValueError):
        return text
