"""The documents at /docs/: served where they were made, without a key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

from server.http.documents import add_documents
from server.http.page import POLICY as OF_PAGES
from tests.helpers import Engine, app_of, served


@pytest.fixture
def app(directory: Path, tmp_path: Path) -> FastAPI:
    (tmp_path / "site/calling").mkdir(parents=True)
    (tmp_path / "site/index.html").write_text("<h1>Documents</h1>")
    (tmp_path / "site/calling/curl.html").write_text("<h1>curl</h1>")
    (tmp_path / "site/logo.svg").write_text("<svg/>")
    (tmp_path / "secret").write_text("a key")
    app = app_of(served(directory, Engine()))
    app.router.routes = [route for route in app.router.routes if getattr(route, "path", "")[:6] != "/docs/"]
    add_documents(app, tmp_path / "site")
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


async def test_a_page(client: httpx.AsyncClient) -> None:
    """The folder's own address is its index; a page below it is under its name."""
    for path, text in {"/docs/": "Documents", "/docs/calling/curl.html": "curl"}.items():
        reply = await client.get(path)
        assert (reply.status_code, reply.text) == (200, f"<h1>{text}</h1>")
        assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert (await client.get("/docs/logo.svg")).headers["content-type"] == "image/svg+xml"


async def test_headers_are_the_pages(client: httpx.AsyncClient) -> None:
    """Nothing inline, nothing from elsewhere, no frame; a browser that has the page gets a 304."""
    reply = await client.get("/docs/")
    policy = reply.headers["content-security-policy"]
    assert [rule for rule in OF_PAGES.split("; ") if rule.split()[0] in ("default-src", "script-src")] == [
        "default-src 'none'",
        "script-src 'self'",
    ]
    assert "default-src 'none'; script-src 'self'; style-src 'self';" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["referrer-policy"] == "no-referrer"
    again = await client.get("/docs/", headers={"if-none-match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["nothing.html", "../secret", "%2e%2e/secret", "calling", "/etc/passwd"])
async def test_what_is_not_there(client: httpx.AsyncClient, name: str) -> None:
    """A 404 with the body of every failure, also for a file outside of the folder."""
    reply = await client.get(httpx.URL(f"http://server/docs/{name}", raw_path=f"/docs/{name}".encode()))
    assert (reply.status_code, reply.json()["reason"]) == (404, "NOT_FOUND")


async def test_the_reference_of_the_api_stays(client: httpx.AsyncClient) -> None:
    """/docs, without the slash, is made from /openapi.json."""
    assert "swagger" in (await client.get("/docs")).text
