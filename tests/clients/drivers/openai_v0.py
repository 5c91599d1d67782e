"""openai for Python before 1.0."""

import openai
from common import drive


def create(ask, **fields):
    openai.api_base, openai.api_key = ask.base_url, ask.key
    return openai.Completion.create(
        model=ask.model,
        prompt=ask.prompt,
        max_tokens=ask.max_tokens,
        temperature=0,
        request_timeout=ask.timeout_s,
        **fields,
    )


def whole(ask):
    return create(ask).choices[0].text


def pieces(ask):
    for chunk in create(ask, stream=True):
        yield from (choice.text for choice in chunk.choices)


drive(whole, pieces, status=lambda error: getattr(error, "http_status", None))
