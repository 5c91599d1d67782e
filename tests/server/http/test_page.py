"""The pages' files, as the server gives them."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from importlib.resources import files
from pathlib import Path

import httpx
import pytest

from server.http.page import FILES, POLICY
from tests.helpers import Engine, app_of, running, served

NAMES = sorted(
    file.name for file in files("server.page").iterdir() if file.is_file() and file.name[:2] != "__"
)
MAX_BYTES = 80_000  # of all of it: no build makes it smaller


@pytest.fixture(scope="module")
async def client(directory: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with running(app_of(served(directory, Engine()), api_keys=("k",))) as client:
        client.headers.pop("authorization")
        yield client


@pytest.mark.parametrize("path", ["/", "/status", "/page/page.css", "/page/playground.js"])
async def test_no_key_is_needed(client: httpx.AsyncClient, path: str) -> None:
    """To load it; and nothing inline, nothing from elsewhere, can run in it."""
    reply = await client.get(path)
    assert reply.status_code == 200
    assert reply.headers["content-security-policy"] == POLICY
    assert "unsafe" not in POLICY
    assert reply.headers["x-content-type-options"] == "nosniff"


async def test_what_is_there_already_is_not_sent_again(client: httpx.AsyncClient) -> None:
    """A browser asks each time, and gets a 304 as long as the content is the same."""
    first = await client.get("/")
    assert first.headers["cache-control"] == "no-cache"
    tag = first.headers["etag"]
    for known in (tag, f'"x", W/{tag}'):
        again = await client.get("/", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert (await client.get("/", headers={"if-none-match": '"x"'})).status_code == 200
    assert (await client.get("/status")).headers["etag"] != tag


@pytest.mark.parametrize("name", NAMES)
async def test_what_a_file_names_is_there(client: httpx.AsyncClient, name: str) -> None:
    """Links, scripts and modules of each file lead to the server's own."""
    text = (files("server.page") / name).read_text("utf-8")
    links = [*re.findall(r'(?:src|href)="([^"]+)"', text)]
    links += [FILES + module for module in re.findall(r'from "\./(.+)"', text)]
    for link in links:
        assert (await client.get(link)).status_code == 200, link


@pytest.mark.parametrize("page", ["index.html", "status.html"])
def test_every_module_is_asked_for_at_once(page: str) -> None:
    """A page names all modules that it needs, so that none is waited for before the next is known of."""
    text = (files("server.page") / page).read_text("utf-8")
    named = set(re.findall(r'"/page/(\w+\.js)"', text))
    needed = {
        module
        for name in named
        for module in re.findall(r'from "\./(.+)"', (files("server.page") / name).read_text("utf-8"))
    }
    assert needed <= named


def test_its_weight() -> None:
    """The whole of it is smaller than a picture."""
    assert sum(len((files("server.page") / name).read_bytes()) for name in NAMES) < MAX_BYTES


async def test_other_methods_and_other_files(client: httpx.AsyncClient) -> None:
    """Refused as everywhere; no path leads out of the folder."""
    assert (await client.post("/")).status_code == 405
    assert (await client.head("/")).status_code == 200
    for path in ("/page/", "/page/__init__.py", "/page/../app.py", "/page/%2e%2e/app.py"):
        assert (await client.get(path)).json()["reason"] == "NOT_FOUND"


async def test_a_page_is_one_line_of_the_log(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Not one for each of its files."""
    with caplog.at_level(logging.INFO):
        for path in ("/", "/page/page.css", "/page/playground.js"):
            await client.get(path)
    assert len([record for record in caplog.records if "path=" in record.getMessage()]) == 1


async def test_the_description_has_each_fields_rule(client: httpx.AsyncClient) -> None:
    """The words that a 400 uses, for the page and whoever else reads /openapi.json."""
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]
    fields = schemas["CompletionRequest"]["properties"]
    assert fields["best_of"]["x-rule"] == "an integer, between n and 128"
    assert [name for name, field in fields.items() if "x-rule" not in field] == []
