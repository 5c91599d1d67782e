"""Stop sequences that are the names of special tokens, which may have no text in which to find them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers

from server.engine.served import ServedModel
from tests.helpers import (
    EOS,
    URL,
    Engine,
    app_of,
    byte_level,
    events,
    folded,
    model_directory,
    running,
    says,
    sentencepiece,
    served,
)

END = "<|end|>"


@pytest.fixture(params=[byte_level, sentencepiece])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> ServedModel:
    """Says "o", a special token that is not its EOS, and that again and again."""
    style: Callable[[], tokenizers.Tokenizer] = request.param
    tokenizer = style()
    tokenizer.add_special_tokens([END])
    model = served(model_directory(tmp_path, tokenizer), engine := Engine())
    engine._script = says(model, "o", then=END)
    return model


async def choice(model: ServedModel, **fields: Any) -> dict[str, Any]:
    asked = {"model": "m", "prompt": "o", "max_tokens": 9, "seed": 1, **fields}
    async with running(app_of(model)) as client:
        reply = await client.post(URL, json=asked)
        stream = await client.post(URL, json={**asked, "stream": True})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()["choices"][0]
    if "best_of" not in fields:
        assert folded(events(stream.content)) == [found]
    return found


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({}, ""),
        ({"skip_special_tokens": False}, END),
        ({"skip_special_tokens": False, "include_stop_str_in_output": False}, ""),
        ({"include_stop_str_in_output": False}, ""),
        ({"best_of": 2, "skip_special_tokens": False}, END),
        ({"stop": [EOS, "zz", END]}, ""),
    ],
)
async def test_it_stops_at_the_token(model: ServedModel, fields: dict[str, Any], end: str) -> None:
    """With a text where special tokens have one and stop sequences are in the text."""
    found = await choice(model, **{"stop": [END], **fields})
    assert (found["text"].lstrip(), found["finish_reason"]) == ("o" + end, "stop")


async def test_it_stops_not_before_min_tokens(model: ServedModel) -> None:
    """As any end does."""
    found = await choice(model, stop=END, min_tokens=4, logprobs=0)
    assert (len(found["logprobs"]["tokens"]), found["finish_reason"]) == (5, "stop")


async def test_a_part_of_the_name_is_text(model: ServedModel) -> None:
    """A sequence that is not the whole name is looked for in the text, where special tokens have none."""
    assert (await choice(model, stop="<|end"))["finish_reason"] == "length"


async def test_the_name_as_text_stops_too(directory: Path) -> None:
    """A model may also write the name letter by letter."""
    letters = served(directory, Engine()).tokenizer.encode(END)
    model = served(directory, Engine(lambda job, position: letters[position]))
    found = await choice(model, stop=END)
    assert (found["text"], found["finish_reason"]) == (END, "stop")


async def test_a_name_beyond_the_model(tmp_path: Path) -> None:
    """A special token that the model does not have stops nothing, and does not reach the engine."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens([f"<{k}>" for k in range(100)])
    model = served(model_directory(tmp_path, tokenizer), engine := Engine())
    await choice(model, stop="<99>")
    assert {job.params.stop_token_ids for job in engine.jobs} == {()}
