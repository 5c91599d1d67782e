"""The sockets to an engine, with the engine's side of them played by the test."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
import zmq

from server.engine.vllm.exchange import SEND_TOGETHER
from server.engine.vllm.link import Link, inputs_of, outputs_of
from server.engine.vllm.wire import (
    ABORT,
    ADD,
    DEAD,
    QUESTION,
    UTILITY,
    CoreOutput,
    CoreOutputs,
    CoreParams,
    CoreRequest,
    Signs,
)
from server.errors import EngineFailed
from tests.helpers import until


@contextmanager
def engine(link: Link) -> Iterator[tuple[zmq.Socket[bytes], zmq.Socket[bytes]]]:
    """What vLLM's engine has of it: a DEALER that reads requests, and a PUSH for outputs."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as inputs, context.socket(zmq.PUSH) as outputs:
        inputs.identity = b"\x00\x00"
        outputs.linger = 0
        inputs.connect(inputs_of(link.folder))
        outputs.connect(outputs_of(link.folder))
        inputs.send(b"")
        yield inputs, outputs


async def received(inputs: zmq.Socket[bytes], count: int) -> list[list[bytes]]:
    """That many messages to the engine. It does not block: what they come from runs in this thread."""
    messages = []
    for _ in range(count):
        await until(lambda: inputs.poll(0))
        messages.append(inputs.recv_multipart())
    return messages


def step(*ids: str) -> bytes:
    return msgspec.msgpack.encode(CoreOutputs(outputs=[CoreOutput(name, [7]) for name in ids]))


def request(name: str) -> CoreRequest:
    return CoreRequest(name, [1], None, CoreParams(), None, 0.0)


async def test_requests_arrive_in_order_and_whole() -> None:
    """More requests than are sent together arrive all, in their order, and what is aborted after them."""
    link, count = Link(), 3 * SEND_TOGETHER + 1
    with engine(link) as (inputs, _):
        await link.connected()
        for number in range(count):
            link.add(request(str(number)))
        link.abort(["0", "1"])
        frames = await received(inputs, count + 1)
    link.close()
    assert [kind for kind, _ in frames] == [ADD] * count + [ABORT]
    assert [msgspec.msgpack.decode(data)[0] for _, data in frames[:-1]] == [str(n) for n in range(count)]
    assert msgspec.msgpack.decode(frames[-1][1]) == ["0", "1"]


async def test_reached() -> None:
    """A link that was not there when the engine started, or follows another one at its place, can send to it,
    and hears of what it sent."""
    with TemporaryDirectory() as name:
        first, calls = Link(Path(name)), list[list[CoreOutputs]]()
        with engine(first) as (inputs, outputs):
            await asyncio.wait_for(first.reached(), 30)
            first.close()
            second = Link(Path(name))
            await asyncio.wait_for(second.reached(), 30)
            second.listen(calls.append, lambda: None)
            second.add(request("a"))
            outputs.send(step("a"))
            await until(lambda: bool(calls))
            kinds = [kind for kind, _ in await received(inputs, 3)]
        second.close()
    assert kinds == [ABORT, ABORT, ADD]  # the first two abort nothing


async def test_reached_after_another_engine() -> None:
    """One that was here before, under the same name as all have, and of whose end nothing was noticed yet."""
    with TemporaryDirectory() as name:
        link = Link(Path(name))
        with engine(link):
            await asyncio.sleep(0.1)
        with engine(link) as (inputs, _):
            await asyncio.sleep(0.1)
            await asyncio.wait_for(link.reached(), 30)
            link.add(request("a"))
            kinds = [kind for kind, _ in await received(inputs, 2)]
        link.close()
    assert kinds == [ABORT, ADD]


async def test_steps_that_wait_come_together() -> None:
    """An engine that is faster than this process is read in one go, and no step is lost."""
    link, calls = Link(), list[list[CoreOutputs]]()
    with engine(link) as (_, outputs):
        await link.connected()
        for number in range(20):
            outputs.send(step(str(number)))
        await asyncio.sleep(0.2)  # they have all arrived
        link.listen(calls.append, lambda: None)
        outputs.send(step("last"))
        await until(lambda: bool(calls) and calls[-1][-1].outputs[0].request_id == "last")
    link.close()
    assert [one.outputs[0].request_id for call in calls for one in call] == [*map(str, range(20)), "last"]
    assert len(calls) < 20


async def test_a_dead_engine_is_heard_after_its_last_step() -> None:
    """What came before the end is handed over too."""
    link, calls, deaths = Link(), list[list[CoreOutputs]](), list[bool]()
    with engine(link) as (_, outputs):
        await link.connected()
        outputs.send(step("a"))
        outputs.send(DEAD)
        link.listen(calls.append, lambda: deaths.append(True))
        await until(lambda: bool(calls and deaths))
    link.close()
    assert len(deaths) == 1


@pytest.mark.parametrize("junk", [b"\xc1", b"", msgspec.msgpack.encode({"not": "a step"})])
async def test_what_is_no_message_is_the_end(junk: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """The engine counts as dead, once, and the log says why; what came before is handed over, what comes
    after is not."""
    link, calls, deaths = Link(), list[list[CoreOutputs]](), list[bool]()
    with engine(link) as (_, outputs):
        await link.connected()
        link.listen(calls.append, lambda: deaths.append(True))
        for message in (step("a"), junk, step("b"), junk):
            outputs.send(message)
        await until(lambda: bool(deaths))
        await asyncio.sleep(0.05)
    link.close()
    assert [one.outputs[0].request_id for call in calls for one in call] == ["a"]
    assert len(deaths) == 1
    assert "cannot be decoded" in caplog.text


async def test_an_error_of_ours_is_the_end_too() -> None:
    """Whoever takes the steps: nobody waits for what was lost."""
    link, deaths = Link(), list[bool]()

    def take(steps: list[CoreOutputs]) -> None:
        raise KeyError("a bug")

    with engine(link) as (_, outputs):
        await link.connected()
        link.listen(take, lambda: deaths.append(True))
        outputs.send(step("a"))
        await until(lambda: bool(deaths))
    link.close()


async def test_a_question_is_open_until_it_is_answered() -> None:
    """The engine gets it as vLLM's message of that kind; its answer is none of the steps."""
    link, calls = Link(), list[list[CoreOutputs]]()
    with engine(link) as (inputs, outputs):
        await link.connected()
        link.listen(calls.append, lambda: None)
        assert link.is_answered
        link.ask()
        ((kind, data),) = await received(inputs, 1)
        assert (kind, msgspec.msgpack.decode(data)) == (UTILITY, [0, 0, QUESTION, []])
        outputs.send(step("a"))
        await until(lambda: len(calls) == 1)
        assert not link.is_answered
        outputs.send(msgspec.msgpack.encode(CoreOutputs(utility_output=[0, None, [None, [3, True]]])))
        await until(lambda: link.is_answered)
        assert (link.signs, len(calls)) == (Signs(3, has_work=True), 1)
    link.close()


async def test_a_call_is_answered_by_its_number() -> None:
    """Whatever else the engine says meanwhile; a failure is raised with the engine's words."""
    link = Link()
    with engine(link) as (inputs, outputs):
        await link.connected()
        link.listen(lambda steps: None, lambda: None)
        calls = [asyncio.create_task(link.call(name, 1)) for name in ("sleep", "wake_up")]
        link.ask()
        await asyncio.sleep(0)
        sent = [msgspec.msgpack.decode(data) for _, data in await received(inputs, 3)]
        assert sorted(sent) == [[0, 0, QUESTION, []], [0, 1, "sleep", [1]], [0, 2, "wake_up", [1]]]
        for answer in ([2, "Call to wake_up method failed: no memory", None], [1, None, [None, None]]):
            outputs.send(msgspec.msgpack.encode(CoreOutputs(utility_output=answer)))
        with pytest.raises(EngineFailed, match="no memory"):
            await calls[1]
        await calls[0]
        assert not link.is_answered
        outputs.send(msgspec.msgpack.encode(CoreOutputs(utility_output=[9, None, [None, None]])))  # nobody's
        outputs.send(msgspec.msgpack.encode(CoreOutputs(utility_output=[0, None, [None, [3, True]]])))
        await until(lambda: link.is_answered)
    link.close()


async def test_closing_leaves_nothing_and_may_be_repeated() -> None:
    """The folder of the sockets goes; what is sent afterwards is dropped."""
    link = Link()
    folder = link.folder
    assert folder.stat().st_mode & 0o077 == 0
    link.close()
    link.close()
    link.add(request("late"))
    await asyncio.sleep(0)
    assert not folder.exists()


async def test_a_long_path_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sockets have short names alone, so theirs are elsewhere then."""
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    link = Link()
    assert link.folder.parent == Path("/tmp")  # noqa: S108
    assert link.folder.stat().st_mode & 0o077 == 0
    link.close()
    assert not link.folder.exists()
