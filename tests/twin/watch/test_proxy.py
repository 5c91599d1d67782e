"""A server of another make behind the eyes: what passes, both ways."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from server.errors import ConfigurationError
from tests.helpers import until
from tests.twin.watch.watching import STREAM_HEAD, chunk, client, reply, saying, upstream, watching
from twin.recordings.exchange import End
from twin.recordings.reading import read_recordings
from twin.recordings.writing import Recorder
from twin.verdict.eyes import Eyes
from twin.watch.proxy import Proxy, upstream_of

PATH = "/v1/completions"
FRAMES = [
    b'data: {"choices":[{"text":"\xc3"}]}\n\n',
    b'data: {"finish_reason": "stop"}\n\n',
    b"data: [DONE]\n\n",
]


async def test_request_passes_as_it_came() -> None:
    """With its key and its query; without what is of the connection, or for us."""
    say = saying(reply(b"{}", "201 Created", "x-request-id: theirs", "x-own: 1"))
    headers = {"x-verbatim-case": "a", "connection": "x-gone", "x-gone": "1"}
    async with upstream(say) as url, watching(Proxy(url)) as here, client(here, **headers) as asking:
        answer = await asking.post(f"{PATH}?a=%20b", content=b'{"prompt" : "\xe2\x98\x83"}')
    (asked,) = say.heard  # type: ignore[attr-defined]
    assert asked.startswith(b"POST /v1/completions?a=%20b HTTP/1.1\r\n")
    assert asked.endswith(b'\r\n\r\n{"prompt" : "\xe2\x98\x83"}')
    assert b"authorization: Bearer secret-of-mine\r\n" in asked
    assert b"x-gone" not in asked
    assert b"x-verbatim" not in asked
    assert (answer.status_code, answer.content) == (201, b"{}")
    assert (answer.headers["x-request-id"], answer.headers["x-own"]) == ("theirs", "1")
    assert len(answer.headers.get_list("date")) == 1


async def test_path_of_the_upstream_goes_before() -> None:
    """Where its API is below one."""
    say = saying(reply(b"{}"))
    async with upstream(say) as url, watching(Proxy(url.join("/api/"))) as here, client(here) as asking:
        await asking.get("/v1/models")
    assert say.heard[0].startswith(b"GET /api/v1/models HTTP/1.1\r\n")  # type: ignore[attr-defined]


async def test_stream_passes_frame_by_frame() -> None:
    """Each as soon as it has come."""
    goes_on = asyncio.Event()

    async def say(asked: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for frame in FRAMES:
            writer.write(chunk(frame))
            await goes_on.wait()
            goes_on.clear()
        writer.write(b"0\r\n\r\n")

    parts = []
    async with (
        upstream(say) as url,
        watching(Proxy(url)) as here,
        client(here) as asking,
        asking.stream("POST", PATH, json={"stream": True}) as answer,
    ):
        async for part in answer.aiter_raw():
            parts.append(part)
            goes_on.set()
    assert parts == FRAMES


async def test_client_that_leaves_ends_the_upstream_request() -> None:
    """So that it does not compute for nobody."""
    has_left = asyncio.Event()

    async def say(asked: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + chunk(FRAMES[0]))
        assert await reader.read() == b""
        has_left.set()

    eyes = Eyes()
    async with upstream(say) as url, watching(Proxy(url), eyes) as here, client(here) as asking:
        async with asking.stream("POST", PATH, json={"stream": True}) as answer:
            await anext(answer.aiter_raw())
        async with asyncio.timeout(30):
            await has_left.wait()
    assert eyes.attempts()[0].left is not None


async def test_stream_that_a_client_leaves_is_recorded_so_far(tmp_path: Path) -> None:
    """With why it ends there."""
    say = saying(STREAM_HEAD + chunk(FRAMES[0]) + chunk(FRAMES[1]))

    async def stay(asked: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(asked, reader, writer)
        await reader.read()

    async with (
        upstream(stay) as url,
        watching(Proxy(url, Recorder(tmp_path))) as here,
        client(here) as asking,
    ):
        async with asking.stream("POST", PATH, json={"stream": True}) as answer:
            await anext(answer.aiter_raw())
        await until(lambda: list(tmp_path.glob("*.json")))
    (recording,) = read_recordings(tmp_path)
    assert recording.exchange.end is End.CLIENT_LEFT
    assert recording.exchange.body.startswith(FRAMES[0])


async def test_client_that_leaves_before_the_head_ends_it_too() -> None:
    """While the upstream still thinks."""
    has_come, has_left = asyncio.Event(), asyncio.Event()

    async def say(asked: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        has_come.set()
        assert await reader.read() == b""
        has_left.set()

    async with upstream(say) as url, watching(Proxy(url)) as here:
        async with client(here) as asking:
            waiting = asyncio.create_task(asking.post(PATH, json={}))
            await has_come.wait()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(30):
            await has_left.wait()


async def test_reply_that_breaks_off_breaks_off_here() -> None:
    """The client sees what it would have seen."""
    say = saying(STREAM_HEAD + chunk(FRAMES[0]))
    async with upstream(say) as url, watching(Proxy(url)) as here, client(here) as asking:
        with pytest.raises(httpx.RemoteProtocolError):
            await asking.post(PATH, json={"stream": True})


async def test_large_bodies_pass() -> None:
    """Larger than any buffer on the way, both ways."""
    size = 9_000_000
    say = saying(reply(b"y" * size))
    async with upstream(say) as url, watching(Proxy(url)) as here, client(here) as asking:
        answer = await asking.post(PATH, content=b"x" * size)
    assert answer.content == b"y" * size
    assert say.heard[0].endswith(b"x" * size)  # type: ignore[attr-defined]


async def test_upstream_that_is_not_there_is_a_502() -> None:
    """In our form of a failure, with the reason."""
    async with watching(Proxy(httpx.URL("http://127.0.0.1:9"))) as here, client(here) as asking:
        answer = await asking.post(PATH, json={})
    assert (answer.status_code, answer.json()["reason"]) == (502, "BAD_GATEWAY")
    assert answer.json()["message"].startswith("the upstream server did not answer: ")
    assert answer.json()["error"]["code"] == "BAD_GATEWAY"


async def test_clients_of_another_server_are_judged() -> None:
    """By the same rules."""
    say = saying(reply(b"{}", "404 Not Found"))
    async with upstream(say) as url, watching(Proxy(url)) as here, client(here) as asking:
        for _ in range(2):
            await asking.post(PATH, json={"prompt": "a"})
        answer = (await asking.get("/simulator/verdict")).json()
    states = {one["id"]: one["state"] for one in answer["clients"][0]["rules"]}
    assert states["retry.final"] == "failed"
    assert len(say.heard) == 2  # type: ignore[attr-defined]  # the verdict is not asked of the upstream


async def test_keys_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Neither of a reply that breaks off."""
    caplog.set_level("DEBUG", "verbatim")
    say = saying(STREAM_HEAD + chunk(FRAMES[0]))
    async with upstream(say) as url, watching(Proxy(url)) as here, client(here) as asking:
        with pytest.raises(httpx.RemoteProtocolError):
            await asking.post(f"{PATH}?api_key=secret-of-mine", json={})
    await until(lambda: "broke off" in caplog.text)
    assert "secret-of-mine" not in caplog.text


@pytest.mark.parametrize(
    "text", ["localhost:8000", "ftp://a", "http://", "http://k:s@a", "http://a?key=1", "http://a:b"]
)
def test_upstream_is_an_address(text: str) -> None:
    """Else it is said what it is to be."""
    with pytest.raises(ConfigurationError, match="--upstream"):
        upstream_of(text)
