"""A route is found by its path at once, and answers as the router would let it."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.http.paths import ByPath
from server.http.routes import Plain
from tests.helpers import app_of, running, talking

KNOWN = [("GET", "/health"), ("GET", "/v1/models"), ("POST", "/v1/completions")]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/completions", "/v1/models/m", "/nothing"])
async def test_as_the_router_answers(
    directory: Path, method: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status, allowed methods, and as long a body."""
    app = app_of(talking(directory, "he"))
    async with running(app) as client:
        found = await client.request(method, path, json={"model": "m", "prompt": "", "max_tokens": 0})
        monkeypatch.setattr(ByPath, "__call__", lambda self, *arguments: self._router(*arguments))
        routed = await client.request(method, path, json={"model": "m", "prompt": "", "max_tokens": 0})
    assert found.status_code == routed.status_code
    assert found.headers.get("allow") == routed.headers.get("allow")
    assert len(found.content) == len(routed.content)


def test_routes_without_parameters_are_known(directory: Path) -> None:
    """Those of the API and of operators; a path with a parameter is the router's."""
    app = app_of(talking(directory, "he"))
    known = ByPath(app.router, Plain)._known
    assert {(method, path.replace("/v1/", "/v3/openai/")) for method, path in KNOWN} <= set(known)
    assert not [path for _, path in known if "{" in path]
