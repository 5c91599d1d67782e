"""Front ends on other machines, and the hub of an engine, which is a fake."""

from __future__ import annotations

import array
import asyncio
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

import server.engine.vllm.channel as channel_module
import server.engine.vllm.hub as hub_module
from server.engine.base import EngineOutput
from server.engine.vllm.hub import Hub
from server.engine.vllm.wire import ABORT, ADD, DEAD, CoreOutput, CoreOutputs, Signs, encode
from tests.helpers import until
from tests.hubs import FakeEngine, FrontEnd, front_end, job

NUM_STEPS = 500


async def test_each_has_its_own(hub: Hub, engine: FakeEngine) -> None:
    """Two front ends at once: requests arrive at the engine under their slots, and outputs at who asked."""
    async with front_end(hub.admit()) as first, front_end(hub.admit()) as second:
        first.submit(job("a"))
        second.submit(job("b"))
        await until(lambda: engine.names(0, ADD) == ["a"] and engine.names(1, ADD) == ["b"])
        engine.step(0, "a", 1, 2)
        engine.step(1, "b", 3)
        await until(lambda: first.got["a"] and second.got["b"])
        assert (first.tokens("a"), second.tokens("b")) == ([1, 2], [3])
        first.client.abort("a")
        await until(lambda: engine.names(0, ABORT) == ["a"])
        assert engine.names(1, ABORT) == []


async def test_all_steps_in_their_order(hub: Hub, engine: FakeEngine) -> None:
    """None is lost, doubled or overtaken, while requests go the other way."""
    async with front_end(hub.admit()) as one:
        one.submit(job("a"))
        await until(lambda: engine.names(0, ADD) == ["a"])
        for number in range(NUM_STEPS):
            engine.step(0, "a", number)
            if not number % 10:
                one.submit(job(f"other-{number}"))
                await asyncio.sleep(0)
        await until(lambda: len(one.tokens("a")) == NUM_STEPS)
        assert one.tokens("a") == [*range(NUM_STEPS)]
        await until(lambda: len(engine.names(0, ADD)) == 1 + NUM_STEPS // 10)


async def test_a_question_is_answered(hub: Hub, engine: FakeEngine) -> None:
    """As over a link: the engine is asked under the slot's number among its clients."""
    async with front_end(hub.admit()) as one:
        one.channel.ask()
        assert not one.channel.is_answered
        await until(lambda: one.channel.is_answered)
        assert one.channel.signs == Signs(1, has_work=False)
        assert {msgspec.msgpack.decode(payload)[0] for _, payload in engine.heard[0]} == {1}


async def test_gauges_are_the_engines(hub: Hub, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told to another client, such as the state when the last request was aborted, is asked for."""
    monkeypatch.setattr(channel_module, "STATE_S", 0.1)
    async with front_end(hub.admit()) as one:
        for num_running, num_waiting, usage in ((3, 2, 0.5), (0, 0, 0.0)):
            engine.signs = [1, False, num_running, num_waiting, usage]
            await until(lambda num_running=num_running: one.gauge("num_requests_running") == num_running)
            assert one.gauge("num_requests_waiting") == num_waiting
            assert one.gauge("kv_cache_usage_perc") == usage


async def test_whoever_is_gone_is_given_up(hub: Hub, engine: FakeEngine) -> None:
    """What the engine still works on for a front end that has gone is aborted, and the next one that has its
    slot gets nothing of it."""
    admission = hub.admit()
    async with front_end(admission) as first:
        first.submit(job("a"))
        await until(lambda: engine.names(0, ADD) == ["a"])
    hub.release(admission)
    engine.step(0, "a", 1)
    await until(lambda: engine.names(0, ABORT) == ["a"])
    again = hub.admit()
    assert again.slot == admission.slot
    assert again.public_key != admission.public_key
    async with front_end(again) as second:
        second.submit(job("b"))
        engine.step(0, "a", 1)
        engine.step(0, "b", 2)
        await until(lambda: second.tokens("b") == [2])
        assert list(second.got) == ["b"]


async def test_one_that_vanishes_is_noticed(hub: Hub, engine: FakeEngine) -> None:
    """Without a word, at the next thing that is said to it."""
    admission = hub.admit()
    async with front_end(admission) as first:
        first.submit(job("a"))
        await until(lambda: engine.names(0, ADD) == ["a"])

    async def speak() -> None:
        while hub.keeps(admission):
            engine.step(0, "a", 1)
            await asyncio.sleep(0.01)

    await asyncio.wait_for(speak(), 30)
    engine.step(0, "a", 1)
    await until(lambda: engine.names(0, ABORT))


async def test_one_that_is_released_hears_of_it(hub: Hub, engine: FakeEngine) -> None:
    """It was there after all: it is not left to wait for what does not come."""
    admission = hub.admit()
    async with front_end(admission) as one:
        hub.release(admission)
        await until(lambda: one.num_lost == 1)


def test_a_slot_that_another_has_by_now(hub: Hub) -> None:
    """Whoever is said twice to be gone does not cost the next one its slot."""
    first = hub.admit()
    hub.release(first)
    second = hub.admit()
    hub.release(first)
    assert second.slot == first.slot
    assert hub.keeps(second)


async def test_another_connection_with_the_same_keys(hub: Hub, engine: FakeEngine) -> None:
    """A front end that has lost the first has the second, and the end of the first does not cost it that."""
    admission = hub.admit()
    async with front_end(admission) as first:
        async with front_end(admission) as second:
            first.client.close()
            second.submit(job("a"))
            engine.step(0, "a", 1)
            await until(lambda: second.tokens("a") == [1])
        assert hub.keeps(admission)


async def test_another_engine_behind_the_hub(hub: Hub) -> None:
    """An engine is started again: a new channel reaches it, with the same keys as before."""
    admission = hub.admit()
    engine = FakeEngine(hub.folders)
    async with front_end(admission) as one:
        engine.say(0, DEAD)
        await until(lambda: one.num_lost == 1)
        engine.close()
    waiting = FrontEnd(admission)
    reached = asyncio.create_task(waiting.reach())
    await asyncio.sleep(0.3)
    assert not reached.done()
    engine = FakeEngine(hub.folders)
    try:
        await reached
        waiting.listen()
        waiting.submit(job("b"))
        engine.step(0, "b", 5)
        await until(lambda: waiting.tokens("b") == [5])
    finally:
        waiting.client.close()
        engine.close()


async def test_an_engine_that_fails_says_so(hub: Hub, engine: FakeEngine) -> None:
    """To all of its front ends, once."""
    async with front_end(hub.admit()) as first, front_end(hub.admit()) as second:
        engine.say(0, DEAD)
        engine.say(1, DEAD)
        await until(lambda: first.num_lost == second.num_lost == 1)
        await asyncio.to_thread(hub.close)
        await asyncio.sleep(0.1)
        assert (first.num_lost, second.num_lost) == (1, 1)


async def test_large_messages(hub: Hub, engine: FakeEngine) -> None:
    """A prompt of 100,000 tokens one way, a megabyte in one frame the other."""
    async with front_end(hub.admit()) as one:
        one.submit(job("a", 100_000))
        await until(lambda: engine.names(0, ADD) == ["a"])
        engine.step(0, "a", *range(300_000))
        await until(lambda: len(one.tokens("a")) == 300_000)


async def test_arrays_of_log_probabilities(hub: Hub, engine: FakeEngine) -> None:
    """Travel in frames of their own, as vLLM sends them."""
    count, width = 2000, 21
    ids, values = array.array("i", range(count * width)), array.array("f", [-0.5] * count * width)
    arrays = [("int32", (count, width), 1), ("float32", (count, width), 2), ("int32", (count,), 1)]
    output = CoreOutput("a", [7], new_prompt_logprobs_tensors=arrays)
    async with front_end(hub.admit()) as one:
        one.submit(replace(job("a", count + 1), num_logprobs=20, prompt_logprobs=True))
        step = encode(CoreOutputs(outputs=[output], timestamp=1.0))
        engine.say(0, step, ids.tobytes(), values.tobytes())
        await until(lambda: bool(one.got["a"]))
        (got,) = one.got["a"]
        assert isinstance(got, EngineOutput)
        assert got.prompt_logprobs is not None
        assert len(got.prompt_logprobs.token_ids) == count * width


async def test_one_that_does_not_read_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds nobody up, takes a bounded number of messages, and hears of it when it reads again."""
    monkeypatch.setattr(hub_module, "MOST_WAITING", 50)
    hub = Hub("127.0.0.1", tmp_path, 2)
    engine = FakeEngine(hub.folders)
    admission = hub.admit()
    slow = FrontEnd(admission)
    slow.channel._socket.rcvhwm = 1
    try:
        await slow.reach()
        async with front_end(hub.admit()) as other:
            other.submit(job("b"))
            tokens = range(50_000)

            async def flood() -> None:
                while hub.keeps(admission):
                    engine.step(0, "a", *tokens)
                    await asyncio.sleep(0.002)

            await asyncio.wait_for(flood(), 30)
            engine.step(1, "b", 7)
            await until(lambda: other.tokens("b") == [7])
        slow.listen()
        await until(lambda: slow.num_lost == 1)
    finally:
        slow.client.close()
        hub.close()
        engine.close()


async def test_more_than_there_are_slots(hub: Hub) -> None:
    """Is refused, until one is released."""
    admissions = [hub.admit() for _ in hub.folders]
    with pytest.raises(LookupError, match="all 3 slots are taken"):
        hub.admit()
    hub.release(admissions[1])
    assert hub.admit().slot == 1
