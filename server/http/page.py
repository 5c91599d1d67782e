"""Serves the pages at / and /status: the files of server/page, under a policy that allows nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from pathlib import PurePath

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

FILES = "/page/"  # the pages' other files are below this path
PAGES = {"index.html": "/", "status.html": "/status"}
TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# No inline script or style, nothing from other servers, no frame around the page. With trusted types, text
# never becomes markup, whatever a model says.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
    " require-trusted-types-for 'script'; trusted-types 'none'"
)


def add_pages(app: FastAPI) -> None:
    """Add the pages to the application. They need no key: they ask for data with the reader's key."""
    for name, content in _files():
        headers = headers_of(content, TYPES[PurePath(name).suffix], POLICY)
        path = PAGES.get(name, FILES + name)
        app.add_route(path, partial(_page, content, headers), methods=["GET"], include_in_schema=False)


def _files() -> Iterator[tuple[str, bytes]]:
    for file in files("server.page").iterdir():
        if PurePath(file.name).suffix in TYPES:
            yield file.name, file.read_bytes()


def headers_of(content: bytes, kind: str, policy: str) -> dict[str, str]:
    """The headers of a file for a browser. kind: its media type. policy: the Content-Security-Policy."""
    return {
        "content-type": kind,
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",  # the browser asks each time whether the file has changed
        "etag": f'"{hashlib.sha256(content).hexdigest()[:32]}"',
    }


def answer(content: bytes, headers: dict[str, str], request: Request) -> Response:
    """The file, or a 304 if the browser has it."""
    known = request.headers.get("if-none-match", "")
    if headers["etag"] in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers)


async def _page(content: bytes, headers: dict[str, str], request: Request) -> Response:
    return answer(content, headers, request)
