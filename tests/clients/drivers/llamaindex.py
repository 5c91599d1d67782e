"""LlamaIndex's OpenAILike, for a server that has completions and no chat."""

from common import drive
from llama_index.llms.openai_like import OpenAILike


def model(ask):
    return OpenAILike(
        model=ask.model,
        api_base=ask.base_url,
        api_key=ask.key,
        is_chat_model=False,
        context_window=256,
        max_tokens=ask.max_tokens,
        temperature=0,
        timeout=ask.timeout_s,
    )


def whole(ask):
    return model(ask).complete(ask.prompt).text


def pieces(ask):
    for part in model(ask).stream_complete(ask.prompt):
        yield part.delta


drive(whole, pieces)
