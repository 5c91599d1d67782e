"""Structured output: the text has the requested form, whatever the model would have written."""

from __future__ import annotations

import json
import re
from typing import Any

from conform.rules import table
from conform.subject.ends import Unmet, require, shown
from conform.subject.frames import fold
from conform.subject.refusal import refuses
from conform.subject.rule import rule
from conform.subject.server import Subject

NOT_OPENAIS = {"openai": "there is no such field"}
DRAWN: dict[str, Any] = {"temperature": 1, "seed": 5, "max_tokens": 60}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"enum": [7, 8]}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@rule("structured.choice", requests=1, tokens=350, differs=NOT_OPENAIS)
def choice(subject: Subject) -> None:
    """Each text is exactly one of the choices, and ends by itself."""
    choices = subject.choices(**DRAWN, n=4, structured_outputs={"choice": ["yes", "no", "not sure"]})
    for one in choices:
        seen = (one["text"], one["finish_reason"])
        require(seen[0] in ("yes", "no", "not sure") and seen[1] == "stop", shown(seen))


@rule("structured.regex", requests=2, tokens=180, differs=NOT_OPENAIS)
def regex(subject: Subject) -> None:
    """The text matches the regular expression, in a stream and in a reply."""
    asked = DRAWN | {"structured_outputs": {"regex": "[a-f]{3} [0-9]{3}"}}
    whole = subject.choice(**asked)
    require(re.fullmatch("[a-f]{3} [0-9]{3}", whole["text"]), f"text is {shown(whole['text'])}")
    (streamed,) = fold(subject.chunks(**asked))
    require(streamed["text"] == whole["text"], f"{shown(streamed['text'])} is not {shown(whole['text'])}")


@rule("structured.json-schema", requests=1, tokens=90, differs={"openai": "not for completions"})
def json_schema(subject: Subject) -> None:
    """The text is JSON that follows the schema in `response_format`, with penalties and a bias too."""
    schema = {"type": "json_schema", "json_schema": {"name": "colour", "schema": {"enum": ["red", "blue"]}}}
    asked = DRAWN | {"repetition_penalty": 1.5, "logit_bias": {"300": 5}, "response_format": schema}
    text = subject.choice(**asked)["text"]
    require(text in ('"red"', '"blue"'), f"text is {shown(text)}")


@rule("structured.json-object", requests=2, tokens=180, differs={"openai": "not for completions"})
def json_object(subject: Subject) -> None:
    """With `response_format` json_object the text is a JSON object, or with `length` the beginning of one."""
    asked = DRAWN | {"response_format": {"type": "json_object"}}
    for seed in (5, 6):
        seen = subject.choice(**asked | {"seed": seed})
        text = seen["text"].lstrip()
        require(not text or text.startswith("{"), f"text is {shown(seen['text'])}")
        if seen["finish_reason"] == "stop":
            require(isinstance(_read(text), dict), f"text is {shown(text)}")


@rule("structured.json", requests=1, tokens=90, differs=NOT_OPENAIS)
def of_json(subject: Subject) -> None:
    """The text is JSON that follows the schema in `structured_outputs`, without white space if requested."""
    outputs = {"json": SCHEMA, "disable_any_whitespace": True}
    text = subject.choice(**DRAWN, structured_outputs=outputs)["text"]
    found = _read(text)
    require(set(found) == {"name", "age"} and found["age"] in (7, 8), f"text is {shown(text)}")
    require(len(found["name"]) <= 5 and text.startswith('{"name":"'), f"text is {shown(text)}")


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Unmet(f"{shown(text)} is no JSON: {error}") from None


@rule("structured.grammar", requests=1, tokens=90, differs=NOT_OPENAIS)
def grammar(subject: Subject) -> None:
    """The text follows a grammar in Lark's notation."""
    lark = 'start: "(" (start | "x") ")"'
    seen = subject.choice(**DRAWN, structured_outputs={"grammar": lark})
    text, depth = seen["text"], seen["text"].count("(")
    whole = f"{'(' * depth}x{')' * depth}"
    is_one = text == whole if seen["finish_reason"] == "stop" else text and whole.startswith(text.strip())
    require(is_one, f"text is {shown(text)}")


@rule("structured.structural-tag", requests=2, tokens=120, differs=NOT_OPENAIS)
def structural_tag(subject: Subject) -> None:
    """After a trigger the text follows its schema; before it any text is allowed."""
    told = subject.choice(prompt="(", max_tokens=1, add_special_tokens=False, return_token_ids=True)
    tag = {"begin": "(", "schema": {"enum": ["red"]}, "end": ")"}
    asked = DRAWN | {
        "logit_bias": {str(told["prompt_token_ids"][-1]): 100},
        "structured_outputs": {"structural_tag": json.dumps({"structures": [tag], "triggers": ["("]})},
    }
    text = subject.choice(**asked)["text"]
    require(text.lstrip().startswith('("red")'), f"text is {shown(text)}")


@rule("structured.bad-schemas", requests=4, tokens=120, differs=NOT_OPENAIS)
def bad_schemas(subject: Subject) -> None:
    """An invalid schema, expression or grammar is a 400 that says why, and the next request is answered."""
    for wrong in ({"json": {"type": "no such"}}, {"regex": "(["}, {"grammar": "start: nothing"}):
        refuses(subject, table.BASE | {"structured_outputs": wrong}, "structured_outputs")
    subject.choice(**table.BASE)
