"""The documents at /docs/, where `make docs` has made them: the files of server/page/documents."""

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
# As the pages' own, but for icons that are written in the style sheets and for the search's worker. The theme
# makes markup of strings, so trusted types would keep it from working; none of them is a model's text.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def add_documents(app: FastAPI, folder: Path = FOLDER) -> None:
    """Give the application the site in this folder, if there is one. It needs no key."""
    if folder.is_dir():
        there = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
        app.add_route("/docs/{name:path}", partial(_file, there), methods=["GET"], include_in_schema=False)


async def _file(there: dict[str, Path], request: Request) -> Response:
    """Names are looked up, so none of them leads out of the folder."""
    name = request.path_params["name"] or "index.html"
    if name not in there:
        raise NotFound(f"no document {name}")
    content = await asyncio.to_thread(there[name].read_bytes)
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    text = "; charset=utf-8" if kind.startswith("text/") else ""
    return answer(content, headers_of(content, kind + text, POLICY), request)
