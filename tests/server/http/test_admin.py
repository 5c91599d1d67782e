"""Routes for admins, and what keys of either role see."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from server.access.keys import digest
from server.http.admin import Guarded
from server.http.state import exchange_of
from tests.helpers import ASK, URL, Engine, app_of, running, served
from tests.server.http.test_app_errors import error_of


async def turn(request: Request) -> Response:
    """Something that an admin does."""
    return JSONResponse(exchange_of(request.scope).key.name)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """alice asks for completions, ops is an admin, and boss is both, with another model."""
    file = tmp_path / "keys"
    words = {"alice": "", "ops": "roles=admin", "boss": "roles=infer,admin models=other"}
    file.write_text("".join(f"{name} {digest(name)} {rest}\n" for name, rest in words.items()))
    return file


async def ask(
    directory: Path, keys: Path | None, key: str, method: str, path: str, **how: object
) -> httpx.Response:
    app = app_of(served(directory, Engine()), api_keys_file=keys)
    app.router.routes.append(Guarded("/turn", turn, methods=["PUT"]))
    async with running(app) as client:
        headers = {"authorization": f"Bearer {key}"}
        return await client.request(method, path, headers=headers, **how)  # type: ignore[arg-type]


async def test_admins_alone(directory: Path, keys: Path) -> None:
    """A route for admins takes the role, and knows whose key it is."""
    assert (await ask(directory, keys, "ops", "PUT", "/turn")).json() == "ops"
    assert (await ask(directory, keys, "boss", "PUT", "/turn")).json() == "boss"
    assert error_of(await ask(directory, keys, "nobody", "PUT", "/turn")) == (401, "FAILED_TO_AUTH")
    refusal = await ask(directory, keys, "alice", "PUT", "/turn")
    assert error_of(refusal) == (403, "ACCESS_DENY")
    assert "verbatim keys new NAME --role admin" in refusal.json()["message"]


async def test_no_admin_without_keys(directory: Path) -> None:
    """Where any key is accepted, none is an admin's."""
    assert error_of(await ask(directory, None, "any", "PUT", "/turn")) == (403, "ACCESS_DENY")


@pytest.mark.parametrize("path", [URL, "/v1/tokenize", "/v1/detokenize"])
async def test_an_admin_asks_for_nothing(directory: Path, keys: Path, path: str) -> None:
    """Unless it has the role infer too."""
    reply = await ask(directory, keys, "ops", "POST", path, json=ASK)
    assert error_of(reply) == (403, "ACCESS_DENY")
    assert "the role infer" in reply.json()["message"]


async def test_models_of_a_key(directory: Path, keys: Path) -> None:
    """A key that has models sees those alone, and may use no other."""
    assert [one["id"] for one in (await ask(directory, keys, "ops", "GET", "/v1/models")).json()["data"]] == [
        "m"
    ]
    assert (await ask(directory, keys, "boss", "GET", "/v1/models")).json()["data"] == []
    assert error_of(await ask(directory, keys, "boss", "GET", "/v1/models/m")) == (403, "ACCESS_DENY")
    assert error_of(await ask(directory, keys, "boss", "POST", URL, json=ASK)) == (403, "ACCESS_DENY")


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"workers": 2}, "set workers: 1"), ({"cluster": "ray://x"}, "restart the front ends")],
)
async def test_engines_of_several_processes(
    directory: Path, keys: Path, settings: dict[str, object], word: str
) -> None:
    """None of which can unload them: it is said what can be done instead."""
    app = app_of(served(directory, Engine()), api_keys_file=keys)
    app.state.server.settings = app.state.server.settings.model_copy(update=settings)
    async with running(app) as client:
        headers = {"authorization": "Bearer ops"}
        reply = await client.put("/v1/models/m/state", json={"state": "unloaded"}, headers=headers)
        assert error_of(reply)[0] == 400
        assert word in reply.json()["message"]
