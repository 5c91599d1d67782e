"""openai for Python since 1.0."""

import openai
from common import drive


def create(ask, **fields):
    client = openai.OpenAI(base_url=ask.base_url, api_key=ask.key, timeout=ask.timeout_s)
    return client.completions.create(
        model=ask.model, prompt=ask.prompt, max_tokens=ask.max_tokens, temperature=0, **fields
    )


def whole(ask):
    return create(ask).choices[0].text


def pieces(ask):
    with create(ask, stream=True) as stream:
        for chunk in stream:
            yield from (choice.text for choice in chunk.choices)


drive(whole, pieces)
