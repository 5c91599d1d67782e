"""Serves the documentation at /docs/: the files that `make docs` put into server/page/documents."""

from __future__ import annotations

import asyncio
import mimetypes
from functools import partial
from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

from server.errors import NotFound
from server.http.page import answer, headers_of

FOLDER = Path(str(files("server.page"))) / "documents"
# The policy of the pages, plus icons in style sheets and the search's worker. No trusted types, because the
# theme builds markup from strings; none of these is a model's text.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_documents(app: FastAPI, folder: Path = FOLDER) -> None:
    """Add the site in this folder to the application, if it exists. It needs no key."""
    if folder.is_dir():
        there = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
        app.add_route("/docs/{name:path}", partial(_file, there), methods=["GET"], include_in_schema=False)


async def _file(there: dict[str, Path], request: Request) -> Response:
    """A file of the site. Names are looked up in a table, so none can lead out of the folder."""
    name = request.path_params["name"] or "index.html"
    if name not in there:
        raise NotFound(f"there is no document {name}")
    content = await asyncio.to_thread(there[name].read_bytes)
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    text = "; charset=utf-8" if kind.startswith("text/") else ""
    return answer(content, headers_of(content, kind + text, POLICY), request)
