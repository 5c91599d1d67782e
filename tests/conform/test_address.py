"""A server is found with or without the prefix of its endpoint."""

from __future__ import annotations

import httpx
import pytest

from conform.subject.address import COST, candidates, find, parse, root_of
from conform.subject.client import Client
from conform.subject.ends import ConformError
from tests.conform.canned import ENTRY


def _connecting(*bases: str, status: int = 404):  # type: ignore[no-untyped-def]
    """Servers that list models under these bases alone."""

    def handler(request: httpx.Request) -> httpx.Response:
        listed = str(request.url).removesuffix("/models") in bases
        return httpx.Response(200, json={"data": [ENTRY]}) if listed else httpx.Response(status, text="no")

    return lambda base: Client(base, "key", transport=httpx.MockTransport(handler))


@pytest.mark.parametrize(
    ("url", "there", "profile"),
    [
        ("http://x", "http://x/v3/openai", "hosted"),
        ("x:8000", "http://x:8000/v1", "vllm"),
        ("http://x/v1/", "http://x/v1", "hosted"),
        ("http://x/v1/completions", "http://x/v1", "openai"),
        ("https://x/v3/openai/models", "https://x/v3/openai", "openai"),
        ("http://x/gateway", "http://x/gateway/v1", "hosted"),
        ("http://x", "http://x", "hosted"),
    ],
)
def test_a_base_is_found(url: str, there: str, profile: str) -> None:
    """As it was given, or with a prefix."""
    client, listed = find(url, profile, _connecting(there))
    assert (client.base, listed) == (there, [ENTRY])


def test_the_profiles_own_prefix_is_first() -> None:
    """Where several answer."""
    bases = ("http://x/v1", "http://x/v3/openai")
    assert find("http://x", "hosted", _connecting(*bases))[0].base == "http://x/v3/openai"
    assert find("http://x", "vllm", _connecting(*bases))[0].base == "http://x/v1"


@pytest.mark.parametrize("url", ["http://x", "http://x/y", "http://x/v1"])
def test_the_search_keeps_its_budget(url: str) -> None:
    """However it ends."""
    assert len(list(candidates(url, "hosted"))) <= COST.requests


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "another one with --key"), (404, "no list of models was found under http://x")],
)
def test_what_is_not_found_is_said(status: int, words: str) -> None:
    """With what the server has said."""
    with pytest.raises(ConformError, match=words):
        find("http://x", "hosted", _connecting(status=status))


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://x:y"])
def test_what_is_no_url(url: str) -> None:
    """Is said to be none."""
    with pytest.raises(ConformError, match="is not a"):
        parse(url)


def test_root() -> None:
    """A base without the prefix."""
    assert root_of("http://x/v3/openai/v1") == root_of("http://x/openai") == root_of("http://x") == "http://x"
