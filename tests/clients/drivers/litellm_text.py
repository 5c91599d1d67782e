"""LiteLLM's text_completion, as a library."""

import litellm
from common import drive


def create(ask, **fields):
    return litellm.text_completion(
        model=f"text-completion-openai/{ask.model}",
        api_base=ask.base_url,
        api_key=ask.key,
        prompt=ask.prompt,
        max_tokens=ask.max_tokens,
        temperature=0,
        timeout=ask.timeout_s,
        **fields,
    )


def whole(ask):
    return create(ask).choices[0].text


def pieces(ask):
    for chunk in create(ask, stream=True):
        yield from (choice.text for choice in chunk.choices)


drive(whole, pieces)
