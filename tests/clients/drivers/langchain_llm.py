"""LangChain's OpenAI, of langchain-openai: the model for completions."""

from common import drive
from langchain_openai import OpenAI


def model(ask):
    return OpenAI(
        base_url=ask.base_url,
        api_key=ask.key,
        model=ask.model,
        max_tokens=ask.max_tokens,
        temperature=0,
        timeout=ask.timeout_s,
    )


def whole(ask):
    return model(ask).invoke(ask.prompt)


def pieces(ask):
    yield from model(ask).stream(ask.prompt)


drive(whole, pieces)
