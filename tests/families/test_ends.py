"""Where completions of every family end: each of several EOS ids, and special tokens that a request names."""

from __future__ import annotations

from typing import Any

import pytest

from tests.families.conftest import Model
from tests.families.table import FAMILIES, by_length

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

WITH_STOP = by_length(name for name, family in FAMILIES.items() if family.stop is not None)


def forced(model: Model, token: str, **fields: Any) -> dict[str, Any]:
    """The reply of a model that can say nothing but this token."""
    bias = {str(model.id(token)): 100}
    return model.client.complete(model=model.name, logit_bias=bias, temperature=0, max_tokens=3, **fields)


def test_every_end_ends(model: Model) -> None:
    """Each id that the model's files call an end of sequence; of the text it is no part."""
    for end in model.family.eos:
        if isinstance(end, str):
            reply = forced(model, end)
            assert reply["choices"][0]["finish_reason"] == "stop"
            assert reply["choices"][0]["text"] == ""
            assert reply["usage"]["completion_tokens"] == 1


def test_end_can_be_ignored(model: Model) -> None:
    """With ignore_eos no end ends."""
    for end in model.family.eos:
        if isinstance(end, str):
            assert forced(model, end, ignore_eos=True)["choices"][0]["finish_reason"] == "length"


def test_ends_wait_for_min_tokens(model: Model) -> None:
    """No end is sampled before min_tokens; one that the vocabulary does not have harms nobody."""
    reply = forced(model, str(model.family.eos[0]), min_tokens=2)
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("model", WITH_STOP, indirect=True)
def test_other_special_tokens_end_nothing(model: Model) -> None:
    """A special token that is no end is generated to the last."""
    assert forced(model, str(model.family.stop))["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("model", WITH_STOP, indirect=True)
def test_stop_may_name_a_special_token(model: Model) -> None:
    """A stop sequence that is a special token's name stops at its id."""
    reply = forced(model, str(model.family.stop), stop=[model.family.stop])
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens"] == 1
