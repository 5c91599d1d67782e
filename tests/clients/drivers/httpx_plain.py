"""httpx alone, as whoever writes a client without a library does."""

import json

import httpx
from common import drive


def request(ask, **fields):
    body = {
        "model": ask.model,
        "prompt": ask.prompt,
        "max_tokens": ask.max_tokens,
        "temperature": 0,
        **fields,
    }
    return {
        "url": f"{ask.base_url}/completions",
        "json": body,
        "headers": {"authorization": f"Bearer {ask.key}"},
        "timeout": ask.timeout_s,
    }


def whole(ask):
    response = httpx.post(**request(ask))
    response.raise_for_status()
    return response.json()["choices"][0]["text"]


def pieces(ask):
    with httpx.stream("POST", **request(ask, stream=True)) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield from (choice["text"] for choice in json.loads(line[6:])["choices"])


drive(whole, pieces)
