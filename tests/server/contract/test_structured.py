"""What form a text is to have, as requests say it; whether it is a grammar is the tokenizer's to say."""

from __future__ import annotations

from typing import Any

import pytest

from server.contract.request import CompletionRequest
from server.contract.structured import MAX_NESTING, grammar_of
from server.errors import InvalidRequest


def grammar(**fields: Any) -> str | None:
    return grammar_of(CompletionRequest(model="m", prompt="a", **fields))


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels - 1):
        schema = {"not": schema}
    return schema


def test_a_schema_is_the_same_however_it_is_sent() -> None:
    """As an object, as a string, or as OpenAI has it."""
    schema = {"type": "integer"}
    sent = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}
    wanted = grammar(response_format=sent)
    assert wanted is not None
    assert grammar(structured_outputs={"json": schema}) == wanted
    assert grammar(structured_outputs={"json": '{"type": "integer"}', "regex": None}) == wanted
    assert grammar(structured_outputs={"json": schema, "disable_any_whitespace": True}) != wanted


def test_any_object() -> None:
    """json_object is a schema too; text is none."""
    assert grammar(response_format={"type": "json_object"}) == grammar(
        structured_outputs={"json_object": True}
    )
    assert grammar(response_format={"type": "text"}) is None
    assert grammar() is None


def test_text_beside_outputs_says_nothing() -> None:
    """Many clients send every field that they know."""
    assert grammar(response_format={"type": "text"}, structured_outputs={"regex": "a"}) is not None


@pytest.mark.parametrize("field", ["response_format", "structured_outputs"])
def test_schemas_are_not_nested_without_end(field: str) -> None:
    """As deep as in vLLM, and no deeper: it is a 400 that says so."""
    for levels in (MAX_NESTING, MAX_NESTING + 1):
        schema = nested(levels)
        of_format = {"type": "json_schema", "json_schema": {"schema": schema}}
        asked: Any = {field: of_format if field == "response_format" else {"json": schema}}
        if levels == MAX_NESTING:
            assert grammar(**asked) is not None
            continue
        with pytest.raises(InvalidRequest, match=f"nested more than {MAX_NESTING} levels") as caught:
            grammar(**asked)
        assert caught.value.metadata == {"field": field}


def test_what_cannot_be_translated_is_said() -> None:
    """A grammar in llama.cpp's notation is translated before it is checked."""
    with pytest.raises(InvalidRequest, match="'nothing' not found"):
        grammar(structured_outputs={"grammar": "root ::= nothing"})
