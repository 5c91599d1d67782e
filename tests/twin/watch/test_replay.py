"""From a server to files and back: what a client gets the second time is what it got the first time."""

from __future__ import annotations

import asyncio
import math
import re
import signal
import sys
import time
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner

from server.errors import ConfigurationError
from tests.helpers import until
from tests.twin.watch.watching import STREAM_HEAD, Say, chunk, client, reply, saying, upstream, watching
from twin.recordings.reading import Recordings, read_recordings
from twin.recordings.writing import Recorder
from twin.watch.cli import watch
from twin.watch.proxy import Proxy
from twin.watch.replay import Replay

PATH = "/v1/completions"
# A snowman in two pieces, and a comment.
PARTS = [b'data: {"text":"\xe2', b'\x98\x83"}\n\n', b": resuming\n\n", b"data: [DONE]\n\n"]


async def got(here: str) -> tuple[int, bytes, dict[str, str]]:
    async with client(here) as asking:
        answer = await asking.post(PATH, json={"prompt": "a"})
        return answer.status_code, answer.content, {**answer.headers, "date": ""}


async def record(folder: Path, say: Say) -> tuple[int, bytes, dict[str, str]]:
    async with upstream(say) as url, watching(Proxy(url, Recorder(folder))) as here:
        answer = await got(here)
        await until(lambda: list(folder.glob("*.json")))
    return answer


def replay(folder: Path, speed: float = math.inf) -> Replay:
    return Replay(Recordings(read_recordings(folder)), speed)


@pytest.mark.parametrize(
    "answer",
    [
        reply(b'{"a": "\xff"}', "429 Too Many Requests", "retry-after: 2", "x-two: 1", "x-two: é: 2"),
        STREAM_HEAD + b"".join(chunk(part) for part in PARTS) + b"0\r\n\r\n",
    ],
)
async def test_replay_is_what_was_recorded(tmp_path: Path, answer: bytes) -> None:
    """Status, headers and body, byte for byte."""
    first = await record(tmp_path, saying(answer))
    async with watching(replay(tmp_path)) as here:
        assert await got(here) == first


async def test_head_has_the_length_that_it_had(tmp_path: Path) -> None:
    """Of a body that does not come."""
    say, answers = saying(reply(b"hello")[:-5]), []
    async with upstream(say) as url, watching(Proxy(url, Recorder(tmp_path))) as here, client(here) as asking:
        answers.append(await asking.head("/v1/models"))
        await until(lambda: list(tmp_path.glob("*.json")))
    async with watching(replay(tmp_path)) as here, client(here) as asking:
        answers.append(await asking.head("/v1/models"))
    assert [(one.headers["content-length"], one.content) for one in answers] == [("5", b"")] * 2


async def test_replay_takes_its_time(tmp_path: Path) -> None:
    """Part by part as they came, or faster, or all at once."""

    async def say(asked: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD)
        for part in PARTS:
            await asyncio.sleep(0.1)
            writer.write(chunk(part))
        writer.write(b"0\r\n\r\n")

    await record(tmp_path, say)

    async def took_s(speed: float) -> float:
        async with watching(replay(tmp_path, speed)) as here:
            started = time.monotonic()
            await got(here)
            return time.monotonic() - started

    as_it_came, faster, at_once = [
        min([await took_s(speed) for _ in range(3)]) for speed in (1.0, 4.0, math.inf)
    ]
    assert as_it_came >= 0.35
    assert 0.08 <= faster < as_it_came
    assert at_once < faster


@pytest.mark.parametrize(
    "head", [STREAM_HEAD, reply(b"")[:-4].replace(b"length: 0", b"length: 999") + b"\r\n\r\n"]
)
async def test_reply_that_broke_off_does_again(tmp_path: Path, head: bytes) -> None:
    """At the same place."""
    body = chunk(PARTS[0]) if head is STREAM_HEAD else PARTS[0]
    with pytest.raises(httpx.RemoteProtocolError):
        await record(tmp_path, saying(head + body))
    await until(lambda: list(tmp_path.glob("*.json")))
    async with (
        watching(replay(tmp_path)) as here,
        client(here) as asking,
        asking.stream("POST", PATH, json={"prompt": "a"}) as answer,
    ):
        parts = answer.aiter_raw()
        assert await anext(parts) == PARTS[0]
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(parts)


async def test_recording_asks_for_what_people_can_read(tmp_path: Path) -> None:
    """Without compression."""
    say = saying(reply(b"{}"))
    await record(tmp_path, say)
    assert b"accept-encoding: identity\r\n" in say.heard[0]  # type: ignore[attr-defined]
    assert b"gzip" not in say.heard[0]  # type: ignore[attr-defined]


async def test_request_without_a_recording_is_a_404(tmp_path: Path) -> None:
    """In our form of a failure, with the nearest one."""
    await record(tmp_path, saying(reply(b"{}")))
    async with watching(replay(tmp_path)) as here, client(here) as asking:
        answer = await asking.post(PATH, json={"prompt": "b"})
    assert (answer.status_code, answer.json()["reason"]) == (404, "NO_RECORDING")
    assert answer.json()["message"].endswith('where prompt is "a" there and "b" here')


async def test_command_answers_until_a_signal(tmp_path: Path) -> None:
    """It says where, and ends well."""
    first = await record(tmp_path, saying(reply(b"{}")))
    run = "import typer; from twin.watch.cli import watch; typer.run(watch)"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", run, "--replay", str(tmp_path), "--port", "0"), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        said = (await process.stdout.readline()).decode()
        here = re.search(r"listens on (http://\S+) and answers from recordings \(1 in ", said)
        assert here is not None, said
        await process.stdout.readline()
        assert await got(here[1]) == first
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "either --upstream URL or --replay DIR"),
        (["--upstream", "http://a", "--replay", "."], "either --upstream URL or --replay DIR"),
        (["--replay", ".", "--record", "."], "cannot be given together"),
        (["--upstream", "http://a", "--redact-prompts"], "--record DIR"),
        (["--upstream", "a"], "address of a server"),
        (["--upstream", "http://a", "--speed", "2"], "--replay DIR"),
        (["--upstream", "http://a", "--timing", "none"], "--replay DIR"),
        (["--replay", ".", "--timing", "none", "--speed", "2"], "--timing none"),
        *((["--replay", ".", "--speed", speed], "a number above 0") for speed in ("0", "-1", "nan")),
    ],
)
def test_options_that_do_not_fit(words: list[str], problem: str) -> None:
    """It is said which."""
    app = typer.Typer()
    app.command()(watch)
    failure = CliRunner().invoke(app, words).exception
    assert isinstance(failure, ConfigurationError)
    assert problem in failure.message
