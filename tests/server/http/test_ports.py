"""What each of two ports has, and the one where there is no admin port."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from server.access.keys import digest
from server.http.admin import Guarded
from server.http.state import ADMIN_PORT
from tests.helpers import ASK, URL, app_of, running, talking
from tests.server.http.test_admin import turn

BOTH = ["/health", "/ready", "/v1/models", "/page/page.css"]
OPERATORS = ["/metrics", "/status", "/status/details"]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys"
    file.write_text(f"ops {digest('key')} roles=infer,admin\n")
    return file


async def status(directory: Path, file: Path, on: str, method: str, path: str) -> int:
    """Of the answer. on: port, admin (its own port) or one (there is none)."""
    settings = {} if on == "one" else {"admin": {"port": 0}}
    app = app_of(talking(directory, "he"), api_keys_file=file, **settings)
    app.router.routes.append(Guarded("/turn", turn, methods=["PUT"]))

    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope | ({ADMIN_PORT: True} if on == "admin" else {}), receive, send)

    headers = {"authorization": "Bearer key"}
    async with running(app), httpx.AsyncClient(transport=httpx.ASGITransport(marked)) as client:
        body = ASK if method == "POST" else None
        return (await client.request(method, f"http://server{path}", headers=headers, json=body)).status_code


@pytest.mark.parametrize("on", ["one", "port", "admin"])
@pytest.mark.parametrize("path", [*BOTH, *OPERATORS])
async def test_what_is_read(directory: Path, keys: Path, on: str, path: str) -> None:
    """Metrics and the status page are on the admin port, where there is one; probes are on both."""
    hidden = on == "port" and path in OPERATORS
    assert await status(directory, keys, on, "GET", path) == (404 if hidden else 200)


@pytest.mark.parametrize(("on", "code"), [("one", 200), ("port", 404), ("admin", 200)])
async def test_what_changes_the_server(directory: Path, keys: Path, on: str, code: int) -> None:
    """Is on the admin port, where there is one."""
    assert await status(directory, keys, on, "PUT", "/turn") == code


@pytest.mark.parametrize(("on", "code"), [("one", 200), ("port", 200), ("admin", 404)])
@pytest.mark.parametrize("path", [URL, "/v1/completions", "/tokenize"])
async def test_work(directory: Path, keys: Path, on: str, code: int, path: str) -> None:
    """Is not on the admin port, which may have no TLS."""
    assert await status(directory, keys, on, "POST", path) in (
        code,
        400 if code == 200 else code,
    )
