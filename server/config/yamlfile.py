"""YAML with line numbers: reads a file into plain data, and gives the place of each error in it.

This module knows pydantic models in general and none of ours. An error is one sentence that starts with file
and line, because the reader has the file open in an editor.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic_core import ErrorDetails

from server.errors import ConfigurationError

Location = Sequence[int | str]


@dataclass(frozen=True, slots=True)
class YamlFile:
    """The data of a file, and its node tree, which has the line numbers."""

    name: str
    root: yaml.Node
    data: dict[str, Any]

    def place(self, location: Location) -> str:
        """`models.yaml, line 14`, for the key that a pydantic location names, or the nearest one above it."""
        node, line = self.root, self.root.start_mark.line
        for part in location:
            pair = _descend(node, part)
            if pair is None:
                break
            line, node = pair
        return f"{self.name}, line {line + 1}"


def _descend(node: yaml.Node, part: int | str) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == part:
                return key.start_mark.line, value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark.line, node.value[part]
    return None


def read_yaml(path: Path) -> YamlFile:
    """Read a file that must be a mapping. Raises ConfigurationError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{path.name} is not UTF-8 text (byte {error.start}); save it as UTF-8."
        ) from error
    try:
        return _parse(path.name, text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path.name}, line {mark.line + 1}" if mark else path.name
        problem = error.problem or error.context or "not valid"
        raise ConfigurationError(f"{where}: this is not valid YAML: {problem}.") from error
    except yaml.reader.ReaderError as error:
        where = f"{path.name}, character {error.position}"
        raise ConfigurationError(f"{where}: this is not valid YAML: {error.reason}.") from error
    except (ValueError, RecursionError) as error:  # a scalar such as 2026-99-99, or nesting without end
        raise ConfigurationError(f"{path.name}: this is not valid YAML: {error}.") from error


def _parse(name: str, text: str) -> YamlFile:
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            raise ConfigurationError(f"{name} is empty; it must have keys with values.")
        if not isinstance(root, yaml.MappingNode):
            raise ConfigurationError(
                f"{name}, line {root.start_mark.line + 1}: the file must consist of keys with values."
            )
        _refuse_duplicates(name, root, set())
        data = loader.construct_document(root)
    finally:
        loader.dispose()
    return YamlFile(name, root, data)


def _refuse_duplicates(name: str, node: yaml.Node, seen: set[int]) -> None:
    """Refuse a key that is set twice: YAML itself would silently use the second value."""
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_duplicates(name, item, seen)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode):
                if key.value in lines:
                    first = lines[key.value]
                    raise ConfigurationError(
                        f'{name}, line {line}: "{key.value}" is already set in line {first}.'
                    )
                lines[key.value] = line
            _refuse_duplicates(name, value, seen)


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean "x"?`, or a list of the known words if none is similar."""
    candidates = list(known)
    near = difflib.get_close_matches(word, candidates, n=1, cutoff=0.6)
    return f'; did you mean "{near[0]}"?' if near else f"; known are {', '.join(candidates)}."


class MisplacedError(ValueError):
    """A validator's error about a place below the one that it validates."""

    def __init__(self, message: str, *below: int | str) -> None:
        super().__init__(message)
        self.below = below


def location_of(error: ErrorDetails) -> tuple[int | str, ...]:
    cause = error.get("ctx", {}).get("error")
    return error["loc"] + (cause.below if isinstance(cause, MisplacedError) else ())


def explain(error: ErrorDetails, model: type[BaseModel], place: str) -> str:
    """One pydantic error as one sentence with its place."""
    location = error["loc"]
    key = ".".join(str(part) for part in location if not isinstance(part, int)) or "this"
    if error["type"] == "extra_forbidden":
        owner = owner_of(model, location[:-1])
        known = [name for name, field in owner.model_fields.items() if not field.exclude]
        where = getattr(owner, "where", "here")
        return f'{place}: unknown key "{location[-1]}" {where}{nearest(str(location[-1]), known)}'
    if error["type"] == "missing":
        where = getattr(owner_of(model, location[:-1]), "where", "here")
        return f'{place}: the key "{location[-1]}" is missing {where}.'
    if error["type"] == "value_error":
        sentence = str(error["ctx"]["error"]).rstrip(".")
        return f"{place}: {sentence}" + ("" if sentence.endswith("?") else ".")
    expected = error["msg"].replace("Input should be", "it should be").rstrip(".")
    if error["type"] == "too_short":
        expected = "it should have at least one entry"
    return f"{place}: {key} is {shown(error['input'])}; {expected}."


def owner_of(model: type[BaseModel], location: Location) -> type[BaseModel]:
    """The model class that holds the keys at a location."""
    for part in location:
        field = model.model_fields.get(part) if isinstance(part, str) else None
        model = _nested(field.annotation) or model if field else model
    return model


def _nested(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _nested(part))), None)


def shown(value: object) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else text[:59] + "…"
