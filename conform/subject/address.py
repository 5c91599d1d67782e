"""Finds where the server answers: a URL with or without the path prefix of the completions endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx

from conform.subject.budget import Cost
from conform.subject.client import Client
from conform.subject.ends import ConformError, shown
from conform.subject.frames import Json

HOSTED = "/v3/openai"
PREFIXES = (HOSTED, "/v3/openai/v1", "/openai/v1", "/openai", "/v1")
COST = Cost(1 + len(PREFIXES), 0)


def parse(url: str) -> httpx.URL:
    """The meant URL: http if it has no scheme, and without a path below a base."""
    try:
        parsed = httpx.URL(url if "://" in url else f"http://{url}")
    except httpx.InvalidURL as error:
        raise ConformError(f"{url} is not a URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConformError(f"{url} is not an http or https URL")
    path = parsed.path.rstrip("/")
    for end in ("/completions", "/models"):
        path = path.removesuffix(end)
    return parsed.copy_with(path=path, query=None, fragment=None)


def candidates(url: str, profile: str) -> Iterator[str]:
    """The bases to try: the given one, then with a prefix, the profile's own first."""
    given = str(parse(url)).rstrip("/")
    prefixes = PREFIXES if profile == "hosted" else ("/v1", *PREFIXES[:-1])
    if parse(given).path.strip("/"):
        yield given
    yield from (given + prefix for prefix in prefixes)
    if not parse(given).path.strip("/"):
        yield given


def root_of(base: str) -> str:
    """The server's own address: a base without its prefix."""
    for prefix in sorted(PREFIXES, key=len, reverse=True):
        if base.endswith(prefix):
            return base.removesuffix(prefix)
    return base


def find(url: str, profile: str, connect: Callable[[str], Client]) -> tuple[Client, list[Json]]:
    """(a client of the first base that lists models, the list)."""
    seen = ""
    for base in candidates(url, profile):
        client = connect(base)
        client.budget.open(Cost(1, 0))
        try:
            response = client.get("/models")
            listed = response.json().get("data")
        except httpx.TransportError as error:
            client.close()
            raise ConformError(f"no server answers at {base}: {error or type(error).__name__}") from None
        except (AttributeError, ValueError):
            listed = None
        if response.status_code == 200 and isinstance(listed, list):
            return client, [entry for entry in listed if isinstance(entry, dict) and "id" in entry]
        seen = f"GET {base}/models is {response.status_code}: {shown(response.text)}"
        client.close()
        if response.status_code in (401, 403):
            raise ConformError(f"the server refuses the key: give another one with --key. {seen}")
    raise ConformError(f"no list of models was found under {url}. {seen}")
