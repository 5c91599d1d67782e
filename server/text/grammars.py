"""Grammars that a text has to follow: from a request's fields to llguidance's notation, checked.

The front end, vLLM's engine and the twin all make grammars here, from the same tokenizer: a grammar that one
accepts is valid for the others.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import llguidance

Kind = Literal["json", "regex", "choice", "grammar", "structural_tag"]

TAG = ("begin", "end", "schema")


def source_of(kind: Kind, text: str, *, compact: bool = False, space: str = "") -> str:
    """The grammar in llguidance's notation, not checked yet. text: a JSON schema, a regular expression, a
    JSON array of strings, a grammar in Lark's or llama.cpp's notation, or structural tags. compact: JSON
    without white space. space: a regular expression for what may stand between the parts of JSON; empty: any
    white space.

    Raises ValueError if it cannot be expressed.
    """
    options: Any = {"whitespace_flexible": not compact} | ({"whitespace_pattern": space} if space else {})
    if kind == "json":
        return llguidance.LLMatcher.grammar_from_json_schema(text, defaults=options)
    if kind == "structural_tag":
        return _of_tags(json.loads(text), options)
    try:
        return llguidance.grammar_from(kind, text)
    except (ValueError, RecursionError, IndexError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def _of_tags(asked: Any, options: Any) -> str:
    """Free text in which a trigger begins a tag, whose content is JSON of a schema, as in vLLM's backend.

    A trigger in angle brackets is the special token of that name. Raises ValueError for another form.
    """
    structures, triggers = asked.get("structures"), asked.get("triggers")
    if not isinstance(structures, list) or not structures or not isinstance(triggers, list):
        raise ValueError(
            "structural tags need structures and triggers, each an array; structures may not be empty"
        )
    tags = []
    for one in structures:
        begin, end, schema = (one.get(name) if isinstance(one, dict) else None for name in TAG)
        if not isinstance(begin, str) or not isinstance(end, str) or not isinstance(schema, dict):
            raise ValueError(
                "each entry of structures needs begin and end, which are strings, and schema, a JSON schema"
            )
        trigger = next(
            (one for one in triggers if isinstance(one, str) and one and begin.startswith(one)), None
        )
        if trigger is None:
            raise ValueError(f"{json.dumps(begin, ensure_ascii=False)} begins with none of the triggers")
        content = schema | {"x-guidance": options}
        tags.append(llguidance.StructTag(trigger=trigger, begin=begin, grammar=content, end=end))
    return llguidance.StructTag.to_grammar(tags)


class Grammars:
    """The grammars of a model. Their tokenizer is made when it is first needed, in a tenth of a second or
    more, by the first thread that needs it."""

    def __init__(
        self,
        table: Sequence[bytes],
        special: Collection[int],
        bos_id: int | None,
        eos_ids: Sequence[int],
        ids_of: Callable[[str], list[int]],
    ) -> None:
        self._table, self._special, self._bos_id, self._eos_ids = table, special, bos_id, eos_ids
        self._ids_of = ids_of
        self._lock = threading.Lock()
        self._made: llguidance.LLTokenizer | None = None

    @property
    def tokenizer(self) -> llguidance.LLTokenizer:
        with self._lock:
            if self._made is None:
                known = llguidance.TokenizerWrapper(_Known(self))
                self._made = llguidance.LLTokenizer(known, eos_token=list(self._eos_ids) or None)
            return self._made

    def problem(self, source: str) -> str:
        """What is wrong with a grammar; empty: nothing."""
        if not self._eos_ids:
            return "this model has no token that ends a text"
        is_wrong, messages = llguidance.LLMatcher.validate_grammar_with_warnings(source, self.tokenizer)
        return " ".join(messages[0].split()) if is_wrong else ""

    def begun(self, source: str, said: Sequence[int] = ()) -> llguidance.LLMatcher:
        """A matcher of the grammar after these tokens. Raises ValueError if it cannot be made."""
        matcher = llguidance.LLMatcher(self.tokenizer, source, log_level=0)
        if said:
            matcher.consume_tokens([*said])
        if problem := matcher.get_error():
            raise ValueError(problem)
        return matcher


class _Known:
    """A tokenizer in llguidance's form."""

    def __init__(self, grammars: Grammars) -> None:
        # Requests to a model without an end token are refused before; this value is for the engine's warm-up.
        self.eos_token_id, self.bos_token_id = next(iter(grammars._eos_ids), 0), grammars._bos_id
        self.tokens = [*grammars._table]
        self.special_token_ids = [i for i in grammars._special if i < len(self.tokens)]
        self._ids_of = grammars._ids_of

    def __call__(self, text: str | bytes) -> list[int]:
        return self._ids_of(text if isinstance(text, str) else text.decode("utf-8", "replace"))
