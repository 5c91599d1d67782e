"""Fixed replies to prompts, from a file or with `--echo`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from server.config.yamlfile import nearest
from server.errors import ConfigurationError

# The text of a prompt -> its reply; None: the language model answers.
Script = Callable[[str], str | None]

MATCHES = ("exact", "prefix", "regex")
KEYS = (*MATCHES, "reply")
FORM = '`- exact: "PROMPT"` (or `prefix`, or `regex`) and beside it `reply: "TEXT"`'


@dataclass(frozen=True, slots=True)
class Line:
    """How a prompt has to look, and its reply; of a regular expression, with its groups (\\1, \\g<name>)."""

    match: str
    pattern: str
    reply: str

    def answer(self, prompt: str) -> str | None:
        if self.match == "exact":
            return self.reply if prompt == self.pattern else None
        if self.match == "prefix":
            return self.reply if prompt.startswith(self.pattern) else None
        found = re.search(self.pattern, prompt)
        return found.expand(self.reply) if found else None


def echo(prompt: str) -> str:
    return prompt


def read_script(file: Path) -> Script:
    """The replies of a YAML file, a list of FORM; the first that matches answers. Raises ConfigurationError,
    which says what is wrong and where."""
    try:
        entries = yaml.safe_load(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{file}: {error.strerror}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{file} is not valid YAML: {error}") from None
    if not isinstance(entries, list):
        raise ConfigurationError(f"{file} must be a list of replies: {FORM}.")
    lines = [_line(entry, f"{file}, reply {number}") for number, entry in enumerate(entries, 1)]

    def script(prompt: str) -> str | None:
        answers = (line.answer(prompt) for line in lines)
        return next((answer for answer in answers if answer is not None), None)

    return script


def _line(entry: Any, where: str) -> Line:
    if not isinstance(entry, dict):
        raise ConfigurationError(f"{where} must be {FORM}.")
    for name in entry:
        if name not in KEYS:
            raise ConfigurationError(f'{where}: unknown key "{name}"{nearest(str(name), KEYS)}')
    matches = [name for name in MATCHES if name in entry]
    if len(matches) != 1 or "reply" not in entry:
        raise ConfigurationError(f"{where} must be {FORM}.")
    pattern, reply = entry[matches[0]], entry["reply"]
    if not isinstance(pattern, str) or not isinstance(reply, str):
        raise ConfigurationError(f"{where}: {matches[0]} and reply must be text; put it in quotes.")
    if matches[0] == "regex":
        try:
            re.compile(pattern)
            re.sub(pattern, reply, "")
        except (re.error, IndexError) as error:
            raise ConfigurationError(f"{where}: regex or reply: {error}.") from None
    return Line(matches[0], pattern, reply)
