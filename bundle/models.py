"""The models of a configuration, and the configuration as the site will read it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sealed.manifest import MODELS, is_safe
from server.config.directories import ADAPTER_MARK, is_adapter
from server.config.loading import DEFAULT_MODEL, config_file, load_settings
from server.config.model import ModelSettings
from server.config.yamlfile import read_yaml
from server.engine.adapters import read_adapters
from server.engine.served import inspect
from server.errors import ConfigurationError
from server.weights.adapters import WEIGHTS as ADAPTER_WEIGHTS
from server.weights.architecture import read_config
from server.weights.checkpoint import PICKLES, expected_checksums

CHECKSUMS = "checksums.json"
MULTIMODAL = ("vision_config", "audio_config")  # keys of multimodal models
KEYS_FILE = "../.."  # from versions/ID: where the API keys are, which stay when the version changes
ANYTHING = {"VERBATIM_API_KEYS": "given-at-the-site"}  # a host other than loopback is only valid with a key

Hash = Callable[[Path], str]  # a file's SHA-256


@dataclass(frozen=True, slots=True)
class Configuration:
    """text: models.yaml for the site. directories: place in the bundle -> directory here, of
    models and adapters.

    digests: place -> SHA-256 by file name, as far as the configuration states them.
    """

    text: str
    directories: Mapping[str, Path]
    digests: Mapping[str, Mapping[str, str]]

    @property
    def models(self) -> list[Path]:
        """The directories of models, without adapters."""
        return [directory for directory in self.directories.values() if not is_adapter(directory)]

    @property
    def model_keys(self) -> set[str]:
        """The keys in every model's config.json, including its text part."""
        configs = [read_config(directory) for directory in self.models]
        inner = [config["text_config"] for config in configs if isinstance(config.get("text_config"), dict)]
        return {key for config in (*configs, *inner) for key in config}


def read_configuration(given: Path | None, environ: Mapping[str, str]) -> Configuration:
    """The configuration that `serve` would read, with the paths at the site.

    Raises ConfigurationError for a model that cannot be served.
    """
    path = config_file(given, environ)
    text = path.read_text("utf-8-sig") if path and path.is_file() else ""
    settings = load_settings(path, {}, ANYTHING)
    adapters = [one for model in settings.models for one in model.adapters]
    places = {model.id: place_of(model) for model in settings.models}
    places |= {one.id: f"{MODELS}/{_safe(one.id)}" for one in adapters}
    if len({place.casefold() for place in places.values()}) < len(places):
        raise ConfigurationError(
            "these models or adapters would get the same directory in the bundle:"
            f" {', '.join(places.values())}. Give them ids that differ in more than letter case and signs."
        )
    for model in settings.models:
        checkpoint, _ = inspect(model)
        read_adapters(model, checkpoint)
    directories = {places[model.id]: model.directory for model in settings.models}
    directories |= {places[one.id]: one.path for one in adapters}
    digests = {places[model.id]: model.sha256 for model in settings.models}
    digests |= {places[one.id]: one.sha256 for one in adapters}
    text = (
        at_site(path, text, places)
        if path
        else f"models:\n  - id: {DEFAULT_MODEL}\n    builtin: {DEFAULT_MODEL}\n"
    )
    return Configuration(text, directories, digests)


def place_of(model: ModelSettings) -> str:
    """The model's directory in the bundle. Built-in ones keep theirs, which are
    found through VERBATIM_CACHE."""
    if model.builtin is not None:
        return f"{MODELS}/{model.directory.name}"
    return f"{MODELS}/{_safe(model.id)}"


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "--", name).strip(".") or "model"


def refuse_multimodal(configuration: Configuration) -> None:
    """Raise ConfigurationError for a model that the text profile cannot serve."""
    for directory in configuration.models:
        found = [key for key in MULTIMODAL if key in read_config(directory)]
        if found:
            raise ConfigurationError(
                f"the model in {directory} has a {found[0]}: it does more than text, and the profile text"
                " leaves out packages for that. Use --profile full."
            )


def at_site(path: Path, text: str, places: Mapping[str, str]) -> str:
    """The same file, with its comments, and with the paths at the site."""
    root = read_yaml(path).root
    changes: dict[tuple[int, int], str] = {}
    for key, node in _entries(root):
        if key == "api_keys_file" and node.value not in ("null", "~", ""):
            changes[_span(node)] = f"{KEYS_FILE}/{Path(node.value).name}"
        for model in node.value if key == "models" else []:
            fields = dict(_entries(model))
            adapters = (
                fields["adapters"].value if isinstance(fields.get("adapters"), yaml.SequenceNode) else ()
            )
            for one in (fields, *(dict(_entries(adapter)) for adapter in adapters)):
                if "path" in one and one["path"].value not in ("null", "~", ""):
                    changes[_span(one["path"])] = places[one["id"].value]
    for (start, end), value in sorted(changes.items(), reverse=True):
        text = text[:start] + json.dumps(value, ensure_ascii=False) + text[end:]
    if not _leads(text, places):
        raise ConfigurationError(
            f"{path.name}: a model's or adapter's `path` uses a YAML anchor, alias or merge, which a bundle"
            " cannot rewrite; write out each path."
        )
    return text


def _leads(text: str, places: Mapping[str, str]) -> bool:
    """Whether every path of a model or adapter leads to its place."""
    try:
        models = yaml.safe_load(text)["models"]
    except yaml.YAMLError:
        return False
    every = [one for model in models for one in (model, *(model.get("adapters") or ()))]
    return all(one.get("path") in (None, places[one["id"]]) for one in every)


def _entries(node: yaml.Node) -> Iterator[tuple[str, Any]]:
    assert isinstance(node, yaml.MappingNode)
    return ((str(key.value), value) for key, value in node.value)


def _span(node: Any) -> tuple[int, int]:
    return node.start_mark.index, node.end_mark.index


def model_files(directory: Path) -> Iterator[str]:
    """The files of a model's directory to bundle: all but hidden files and pickles, which this
    server never reads.

    Of an adapter's directory, which may contain other results of training: the served files, and those that a
    checksums.json there lists.
    """
    if is_adapter(directory):
        names = {ADAPTER_MARK, ADAPTER_WEIGHTS, *expected_checksums(directory, {})}
        listed = {CHECKSUMS} if (directory / CHECKSUMS).is_file() else set()
        yield from sorted(names | listed)
        return
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        hidden = any(part.startswith(".") for part in name.parts)
        if not hidden and path.is_file() and not any(path.match(pattern) for pattern in PICKLES):
            if not is_safe(name.as_posix()):
                raise ConfigurationError(f"{path} has a name that not every file system supports; rename it.")
            yield name.as_posix()


def checksums(directory: Path, configured: Mapping[str, str], hash_file: Hash) -> dict[str, str]:
    """SHA-256 of every file of a model. Raises ConfigurationError for a file that is not the expected one."""
    found = {name: hash_file(directory / name) for name in model_files(directory)}
    for name, digest in expected_checksums(directory, configured).items():
        if found.get(name) != digest.lower():
            raise ConfigurationError(
                f"{directory / name} is not the expected file: its SHA-256 is"
                f" {found.get(name, 'unknown, it is missing')},"
                f" not {digest.lower()}. Copy or download it again before it goes into a bundle."
            )
    return found
