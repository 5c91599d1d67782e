"""What a user does with a server: python client.py URL prints as JSON what came back.

Runs beside the server, in its namespace, with the standard library only.
"""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.error
import urllib.request
from typing import Any

START_S = 480
ANSWER_S = 120
ASK = {
    "model": "smollm2-135m-instruct",
    "prompt": "The capital of France is",
    "max_tokens": 8,
    "temperature": 0,
}


def fetch(url: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Authorization": "Bearer key"})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_S) as reply:
            return reply.status, reply.read().decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8", "replace")


def wait_until_ready(url: str) -> None:
    end = time.monotonic() + START_S
    while fetch(url + "/ready")[0] != 200:
        assert time.monotonic() < end, f"not ready within {START_S} s"
        time.sleep(0.3)


def open_docs(url: str) -> dict[str, int]:
    """The page and all that it refers to: status by address."""
    status, page = fetch(url + "/docs")
    found = {"/docs": status}
    for address in re.findall(r"""(?:src|href|url)\s*[=:]\s*["']([^"']+)["']""", page):
        found[address] = fetch(url + address if address.startswith("/") else address)[0]
    return found


def main() -> None:
    url = sys.argv[1]
    wait_until_ready(url)
    completions = url + "/v3/openai/completions"
    whole = json.loads(fetch(completions, ASK)[1])
    stream = fetch(completions, {**ASK, "stream": True})[1]
    chunks = [frame.removeprefix("data: ") for frame in stream.split("\n\n") if frame.startswith("data: {")]
    print(
        json.dumps(
            {
                "whole": whole["choices"][0]["text"],
                "streamed": "".join(json.loads(chunk)["choices"][0]["text"] for chunk in chunks),
                "docs": open_docs(url),
                "attestation": json.loads(fetch(url + "/attestation")[1]),
            }
        )
    )


if __name__ == "__main__":
    main()
