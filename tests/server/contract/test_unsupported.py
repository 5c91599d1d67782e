from __future__ import annotations

import json
import re
from typing import Any

import pytest

from server.config.model import ModelSettings
from server.contract.params import resolve
from server.contract.request import CompletionRequest, parse_request
from server.contract.unsupported import INSTEAD, NEUTRAL
from server.errors import InvalidRequest

MODEL = ModelSettings(id="m", builtin="smollm2-135m-instruct")
STRICT = MODEL.model_copy(update={"strict_fields": True})


def ask(model: ModelSettings = MODEL, **fields: Any) -> None:
    resolve(parse_request(json.dumps({"model": "m", "prompt": "a"} | fields).encode()), model, 300)


@pytest.mark.parametrize("name", NEUTRAL)
def test_what_would_change_the_reply_is_refused(name: str) -> None:
    """A value other than the neutral one is a 400 that names the field and its value."""
    with pytest.raises(
        InvalidRequest, match=rf'^{name} \(current value: "other"\) is not supported'
    ) as caught:
        ask(**{name: "other"})
    assert caught.value.metadata == {"field": name}


@pytest.mark.parametrize("name", NEUTRAL)
def test_what_changes_nothing_is_taken(name: str) -> None:
    """The neutral value and null pass, with strict_fields too: many clients send every field they know."""
    for model in (MODEL, STRICT):
        ask(model, **{name: NEUTRAL[name]})
        ask(model, **{name: None})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_beams": 2}, "or send 1"),
        ({"use_beam_search": True}, "or send false"),
        ({"do_sample": False}, "or send true"),
        ({"guided_regex": "a+"}, "leave it out; here it is structured_outputs.regex$"),
        ({"prompt_embeds": "a"}, "leave it out$"),
        ({"max_new_tokens": 5}, "here it is max_tokens"),
    ],
)
def test_the_message_says_what_to_do(fields: dict[str, Any], said: str) -> None:
    """The neutral value, and what the same thing is called here."""
    with pytest.raises(InvalidRequest, match=said.replace("{", r"\{")):
        ask(**fields)


def test_unknown_fields_stay_ignored() -> None:
    """What is on no list changes nothing, unless the model is strict."""
    ask(some_future_field=1)
    with pytest.raises(InvalidRequest, match="some_future_field is not a field"):
        ask(STRICT, some_future_field=1)


def test_the_list_names_no_field_of_ours() -> None:
    """A field is either the contract's or on the list; what to use instead is the contract's."""
    assert not NEUTRAL.keys() & CompletionRequest.model_fields.keys()
    assert INSTEAD.keys() <= NEUTRAL.keys()
    assert {
        re.split("[:. ]", words)[0] for words in INSTEAD.values()
    } <= CompletionRequest.model_fields.keys()
