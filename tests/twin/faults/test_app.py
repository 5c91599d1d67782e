"""The header, the route /simulator/faults, and what rules see of a request, over a served application."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from starlette.types import Message

from server.errors import RequestTooSlow
from tests.helpers import URL, talking
from tests.server.http.sockets import connected, reply
from tests.twin.faults.faulty import ASK, CLOSE, STREAM, Faulty, asking, faulty, received
from twin.faults.app import Replayed


async def call(server: Faulty, method: str, content: Any = None, path: str = "/simulator/faults") -> Any:
    """Status, headers and JSON."""
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}") as client:
        response = await client.request(method, path, content=body, headers={"authorization": "Bearer k"})
    return response.status_code, response.headers, response.json()


async def put(server: Faulty, *rules: dict[str, Any], **keys: Any) -> None:
    status, _, told = await call(server, "PUT", {"rules": rules} | keys)
    assert status == 200, told


async def status_of(server: Faulty, body: Any, **headers: str) -> int:
    async with connected(server.port, asking(body, **headers)) as (reader, _):
        return (await reply(reader))[0]


async def test_put_get_delete(server: Faulty) -> None:
    """Rules are set, shown with how often each has come, and gone again; all faults are described."""
    rule = {"fault": "status=503", "first": 1}
    await put(server, rule, seed=3)
    assert [await status_of(server, ASK) for _ in range(2)] == [503, 200]
    status, headers, shown = await call(server, "GET")
    assert (status, shown["seed"], shown["rules"]) == (200, 3, [rule | {"seen": 2, "fired": 1}])
    assert "x-request-id" in headers
    assert {"name", "description", "arguments", "example"} == set(shown["faults"][0])
    status, _, shown = await call(server, "DELETE")
    assert (status, shown["seed"], shown["rules"]) == (200, None, [])


async def test_a_put_with_a_mistake_changes_nothing(server: Faulty) -> None:
    """It is a 400 that says what is wrong, and the rules are those from before."""
    await put(server, {"fault": "status=503"})
    status, _, told = await call(server, "PUT", {"rules": [{"fault": "stal"}]})
    assert (status, told["reason"]) == (400, "INVALID_REQUEST_BODY")
    assert told["message"] == 'rules.0.fault: there is no fault "stal"; did you mean "stall"?'
    assert (await call(server, "PUT", b"{"))[2]["message"].startswith("the body is not valid JSON: ")
    assert await status_of(server, ASK) == 503


async def test_other_methods(server: Faulty) -> None:
    """Are a 405 that names those that there are."""
    status, headers, told = await call(server, "POST")
    assert (status, told["reason"]) == (405, "METHOD_NOT_ALLOWED")
    assert headers["allow"] == "DELETE, GET, HEAD, PUT"


async def test_the_header_goes_before_rules(server: Faulty) -> None:
    """And a rule does not count the request."""
    await put(server, {"fault": "status=503"})
    assert await status_of(server, ASK, **{"x-verbatim-fault": "status=429"}) == 429
    assert (await call(server, "GET"))[2]["rules"][0]["seen"] == 0


async def test_a_header_with_a_mistake(server: Faulty) -> None:
    """It is a 400 that names the header and what is near."""
    async with connected(server.port, asking(ASK, "stal=2s")) as (reader, _):
        status, headers, told = await reply(reader)
    assert (status, headers["x-request-id"]) == (400, "r")
    assert told["message"] == 'X-Verbatim-Fault: there is no fault "stal"; did you mean "stall"?'
    assert told["metadata"] == {"field": "X-Verbatim-Fault"}


@pytest.mark.parametrize(
    ("match", "other"),
    [
        ({"prompt": "hello"}, {"prompt": "hell"}),
        ({"prompt_prefix": "he"}, {"prompt": [[5, 6]]}),
        ({"prompt_regex": "^h"}, {"prompt": ["x", "y"]}),
        ({"stream": False}, {"stream": True}),
        ({"model": "m"}, {"model": "n"}),
    ],
)
async def test_rules_about_the_body(server: Faulty, match: dict[str, Any], other: dict[str, Any]) -> None:
    """Those whose body fits get the fault, the others the model's reply to their body."""
    await put(server, {"fault": "status=503", "match": match})
    assert await status_of(server, ASK) == 503
    told = await received(server.port, asking(ASK | other, **CLOSE))
    await call(server, "DELETE")
    assert told == await received(server.port, asking(ASK | other, **CLOSE))


async def test_a_compressed_body(server: Faulty) -> None:
    """Rules see what is in it, and the application too."""
    body, encoded = gzip.compress(orjson.dumps(ASK)), {"content-encoding": "gzip"}
    await put(server, {"fault": "status=503", "match": {"prompt": "hello"}, "nth": 1})
    assert [await status_of(server, body, **encoded) for _ in range(2)] == [503, 200]


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b""])
async def test_a_body_that_is_none(server: Faulty, body: bytes) -> None:
    """What is wrong with it is what the application says."""
    await put(server, {"fault": "reset", "match": {"prompt_prefix": ""}})
    assert await status_of(server, body) == 400


async def test_rules_about_keys(directory: Path) -> None:
    """A key is named by itself or by its name; who has a wrong one gets the application's 401."""
    async with faulty(talking(directory, "he"), api_keys=("one", "two")) as server:
        for key in ("one", "key-1"):
            await put(server, {"fault": "status=503", "match": {"key": key}})
            got = [await status_of(server, ASK, authorization=f"Bearer {k}") for k in ("one", "two", "three")]
            assert got == [503, 200, 401]


async def test_rules_about_paths(server: Faulty) -> None:
    """Other routes have faults where they are named, but not those under /simulator/."""
    await put(server, {"fault": "status=503", "match": {"path": "*"}})
    assert (await call(server, "GET", path="/v1/models"))[0] == 503
    assert (await call(server, "GET"))[0] == 200
    assert (await call(server, "GET", path="/simulator/other"))[0] == 404
    await put(server, {"fault": "status=503", "match": {"path": URL}})
    assert (await call(server, "GET", path="/v1/models"))[0] == 200
    assert await status_of(server, ASK) == 503


async def test_a_rule_at_the_level_of_bytes(server: Faulty) -> None:
    """Faults of rules are those of the header."""
    await put(server, {"fault": "cut_after_tokens=2", "nth": 2})
    first = await received(server.port, asking(STREAM, **CLOSE))
    assert first.endswith(b"0\r\n\r\n")
    assert (await received(server.port, asking(STREAM))).count(b"data: ") == 2


async def test_a_body_over_the_limit(directory: Path) -> None:
    """It is refused as without rules."""
    async with faulty(talking(directory, "he"), max_body_bytes=2000) as server:
        await put(server, {"fault": "reset", "match": {"prompt_prefix": ""}})
        assert await status_of(server, ASK | {"prompt": "x" * 3000}) == 413


async def test_a_body_that_does_not_come(server: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused as without rules, once its time is up."""
    monkeypatch.setattr(server.connections.body, "limit_s", 0.1)
    await put(server, {"fault": "reset", "match": {"prompt_prefix": ""}})
    assert await status_of(server, b"{", **{"content-length": "10"}) == 408


async def test_a_fault_is_in_the_log(server: Faulty, caplog: pytest.LogCaptureFixture) -> None:
    """With the id of its request, so that nobody looks for the reason elsewhere."""
    caplog.set_level("INFO", "verbatim.faults")
    await status_of(server, ASK, **{"x-verbatim-fault": "status=429"})
    assert "request r gets the fault status code=429 retry_after=None reason=None" in caplog.text


async def test_a_body_is_heard_twice() -> None:
    """The application hears what the rules have heard, then the server: also that the body was too slow."""
    heard: list[Message | RequestTooSlow] = [{"type": "http.request", "body": b"x"}, RequestTooSlow("late")]

    async def receive() -> Message:
        one = heard.pop(0)
        if isinstance(one, RequestTooSlow):
            raise one
        return one

    body = Replayed(receive)
    for hear in (body.first, body.again):
        assert (await hear())["body"] == b"x"
        with pytest.raises(RequestTooSlow):
            await hear()
    heard.append({"type": "http.disconnect"})
    assert (await body.again())["type"] == "http.disconnect"
