"""Fields as vLLM names them, where a rule of conform/ cannot show what they do."""

from __future__ import annotations

import pytest

from tests.serving import TINY, Client

pytestmark = pytest.mark.engine

END = "<|im_end|>"


def test_a_users_text_is_not_control(client: Client) -> None:
    """With parse_special false the name of a special token is several tokens, which are its letters."""
    asked = {"model": TINY, "prompt": END, "echo": True, "max_tokens": 0, "logprobs": 0}
    assert client.choice(**asked)["logprobs"]["tokens"] == [END]
    letters = client.choice(**asked, parse_special=False)["logprobs"]["tokens"]
    assert len(letters) > 1
    assert "".join(letters) == END
