"""The form of the generated text: response_format and structured_outputs, as OpenAI and vLLM define them."""

from __future__ import annotations

from typing import Any

import orjson

from server.contract.request import CompletionRequest, shown
from server.errors import InvalidRequest
from server.text.grammars import Kind, source_of

FORMAT, OUTPUTS = "response_format", "structured_outputs"
TYPES = ("text", "json_object", "json_schema", "structural_tag")
KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
OF_JSON = ("json", "json_object", "structural_tag")  # kinds for which white space matters
MAX_NESTING = 64  # the limit of a schema, as in vLLM
ANY_OBJECT = '{"type":"object"}'


def grammar_of(request: CompletionRequest) -> str | None:
    """The grammar that a request asks for, in the notation of text/grammars.py; None: it asks for none.

    The model's tokenizer decides later whether the grammar is valid. Raises InvalidRequest if the fields have
    a wrong form.
    """
    of_format = None if request.response_format is None else _of_format(request.response_format)
    if request.structured_outputs is None:
        field, asked = FORMAT, of_format
    elif of_format is None:
        field, asked = OUTPUTS, _of_outputs(request.structured_outputs)
    else:
        raise InvalidRequest(f'{FORMAT} must be {{"type":"text"}} with {OUTPUTS}', FORMAT)
    if asked is None:
        return None
    _check_beside(request, field)
    kind, text, compact, space = asked
    try:
        return source_of(kind, text, compact=compact, space=space)
    except ValueError as error:
        raise refused(field, str(error)) from None


def refused(field: str, problem: str) -> InvalidRequest:
    return InvalidRequest(f"{field} has no valid grammar: {problem}", field)


def field_of(request: CompletionRequest) -> str:
    """The name of the field that asks for it."""
    return OUTPUTS if request.structured_outputs is not None else FORMAT


# (kind, text, whether white space is disabled, white space pattern; empty: any).
Asked = tuple[Kind, str, bool, str]


def _of_format(asked: dict[str, Any]) -> Asked | None:
    kind = asked.get("type")
    if kind not in TYPES:
        known = ", ".join(map(shown, TYPES))
        raise InvalidRequest(f"{FORMAT}.type (current value: {shown(kind)}) must be one of {known}", FORMAT)
    if kind == "text":
        return None
    if kind == "json_object":
        return "json", ANY_OBJECT, False, ""
    if kind == "structural_tag":
        return "structural_tag", _tags_text(asked, FORMAT), False, ""
    named = asked.get("json_schema")
    if not isinstance(named, dict) or not isinstance(named.get("schema"), dict):
        raise InvalidRequest(
            f"{FORMAT}.json_schema (current value: {shown(named)}) must be an object with a schema", FORMAT
        )
    return "json", _schema_text(named["schema"], FORMAT), False, ""


def _of_outputs(asked: dict[str, Any]) -> Asked:
    compact = asked.get("disable_any_whitespace", False)
    given = {name: value for name, value in asked.items() if value is not None and value is not False}
    given.pop("disable_any_whitespace", None)
    space = given.pop("whitespace_pattern", "")
    if unknown := [name for name in given if name not in KINDS]:
        raise InvalidRequest(
            f"{OUTPUTS}.{unknown[0]} is not supported: this server has one of {', '.join(KINDS)}",
            OUTPUTS,
        )
    if len(given) != 1 or not isinstance(compact, bool):
        raise InvalidRequest(
            f"{OUTPUTS} (current value: {shown(asked)}) must have exactly one of {', '.join(KINDS)}", OUTPUTS
        )
    ((kind, value),) = given.items()
    if not isinstance(space, str) or (space and (compact or kind not in OF_JSON)):
        raise InvalidRequest(
            f"{OUTPUTS}.whitespace_pattern (current value: {shown(space)}) must be a regular expression,"
            f" used with one of {', '.join(OF_JSON)} and without disable_any_whitespace",
            OUTPUTS,
        )
    text = _text_of(kind, value)
    if text is None:
        raise InvalidRequest(
            f"{OUTPUTS}.{kind} (current value: {shown(value)}) must be {WORDS[kind]}", OUTPUTS
        )
    return ("json" if kind == "json_object" else kind), text, compact, space  # type: ignore[return-value]


WORDS = {
    "json": "a JSON schema, as an object or a string",
    "json_object": "true",
    "regex": "a regular expression, not empty",
    "choice": "an array of strings, not empty",
    "grammar": "a grammar in Lark's or llama.cpp's notation",
    "structural_tag": "structures and triggers, as an object or a string of JSON",
}


def _text_of(kind: str, value: Any) -> str | None:
    """The text of a value for this kind; None: the value has a wrong type."""
    if kind == "json_object":
        return ANY_OBJECT if value is True else None
    if kind == "choice":
        is_one = isinstance(value, list) and value and all(isinstance(one, str) and one for one in value)
        return orjson.dumps(value).decode() if is_one else None
    if kind in ("json", "structural_tag") and isinstance(value, str):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise refused(OUTPUTS, f"{kind} is not valid JSON: {error}") from None
    if kind == "structural_tag":
        return _tags_text(value, OUTPUTS) if isinstance(value, dict) else None
    if kind == "json":
        return _schema_text(value, OUTPUTS) if isinstance(value, dict) else None
    return value if isinstance(value, str) and value else None


def _schema_text(schema: dict[str, Any], field: str) -> str:
    if _nesting(schema) > MAX_NESTING:
        raise refused(field, f"the schema is nested more than {MAX_NESTING} levels deep")
    return orjson.dumps(schema).decode()


def _tags_text(asked: dict[str, Any], field: str) -> str:
    """The text of structural tags. xgrammar's newer form is not supported by this backend."""
    if "format" in asked:
        raise refused(field, "structural tags must have structures and triggers; format is not supported")
    return _schema_text({name: asked.get(name) for name in ("structures", "triggers")}, field)


def _nesting(schema: Any) -> int:
    depth, level = 0, [schema]
    while level and depth <= MAX_NESTING:
        depth += 1
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    return depth


def _check_beside(request: CompletionRequest, field: str) -> None:
    """Refuse fields that would continue the text after the end of its grammar, or end it before."""
    for name, value in (
        ("min_tokens", request.min_tokens),
        ("ignore_eos", request.ignore_eos),
        ("allowed_token_ids", request.allowed_token_ids),
    ):
        if value:
            raise InvalidRequest(
                f"{name} (current value: {shown(value)}) must be left out with {field}, whose grammar"
                " decides which tokens may come and when the text may end",
                name,
            )
