"""A real engine that hears nothing any more, sends what cannot be read, or is only slow."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from prometheus_client import CollectorRegistry

from server.config.model import ModelSettings
from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, Job
from server.engine.supervisor import Supervisor
from server.engine.vllm.engine import VLLMEngine
from server.engine.vllm.link import outputs_of
from server.engine.vllm.stats import EngineMetrics
from server.engine.vllm.wire import ADD
from server.engine.work import Work
from server.errors import RequestFailure
from tests.helpers import until
from tests.serving import CAPITAL_IDS, SMOL_MODEL, START_S, tiny_model

pytestmark = pytest.mark.engine


class Supervised:
    """A model whose engines are real, in processes of their own, and all that comes of its jobs."""

    def __init__(self, model: dict[str, Any], context_size: int) -> None:
        settings, stats = ModelSettings(**model), EngineMetrics(CollectorRegistry()).of("m")
        self.engines: list[VLLMEngine] = []
        self.got: dict[str, list[EngineOutput | RequestFailure]] = {}

        def make() -> VLLMEngine:
            self.engines.append(VLLMEngine(settings, context_size, stats))
            return self.engines[-1]

        self.supervisor = Supervisor("m", make, Work())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.supervisor.run())
        try:
            await until(lambda: self.supervisor.status.ready, within_s=START_S)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def submit(self, name: str, prompt_ids: list[int], max_tokens: int) -> None:
        params, self.got[name] = GenerationParams(ignore_eos=True, temperature=0.0), []
        job = Job(name, name, prompt_ids, params, (), max_tokens=max_tokens, seed=1)
        self.supervisor.work.submit(job, self.got[name].append)

    def tokens(self, name: str) -> list[int]:
        """Raises what it failed with."""
        for output in self.got[name]:
            if isinstance(output, RequestFailure):
                raise output
        return [k for one in self.got[name] if isinstance(one, EngineOutput) for k in one.token_ids]

    async def ended(self, *names: str) -> None:
        def over(name: str) -> bool:
            last = self.got[name][-1:]
            return bool(last) and (isinstance(last[0], RequestFailure) or last[0].finish_reason is not None)

        await until(lambda: all(map(over, names)), within_s=2 * START_S)


def send_nonsense(engine: VLLMEngine) -> None:
    """A request that vLLM cannot read: the thread that reads them fails."""
    assert engine._client is not None
    engine._client.link._send(ADD, b"\xc1")


def say_nonsense(engine: VLLMEngine) -> None:
    """What is no step, where the engine's steps come."""
    assert engine._client is not None
    with zmq.Context() as context, context.socket(zmq.PUSH) as socket:
        socket.connect(outputs_of(engine._client.link.folder))
        socket.send(b"\xc1")


@pytest.mark.parametrize(
    ("disturb", "reason"),
    [
        (send_nonsense, "a thread that carries the engine's messages has failed"),
        pytest.param(say_nonsense, "a message of the engine cannot be decoded", marks=pytest.mark.long),
    ],
)
async def test_nonsense_on_the_engines_sockets(
    disturb: Callable[[VLLMEngine], None], reason: str, tiny_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It costs the engine, at once and with the reason in the log, and no request: each goes on in the next
    one, to what it would have been."""
    model = Supervised(tiny_model(tiny_path, max_model_len=512), 512)
    async with model.running():
        model.submit("undisturbed", CAPITAL_IDS, 400)
        await model.ended("undisturbed")
        model.submit("disturbed", CAPITAL_IDS, 400)
        await until(lambda: len(model.tokens("disturbed")) > 20)
        disturb(model.engines[-1])
        await until(lambda: not model.supervisor.status.ready)
        await model.ended("disturbed")
        assert len(model.engines) == 2
    assert model.tokens("disturbed") == model.tokens("undisturbed")
    assert reason in caplog.text


def computing() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "while True: pass"])


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("context_size", "num_burst", "num_busy"),
    [(512, 16, 2), pytest.param(4096, 128, 8, marks=pytest.mark.long)],
)
async def test_slow_is_no_hang(context_size: int, num_burst: int, num_busy: int) -> None:
    """A prompt of the whole context, many candidates at once and the loading of a model, each beside
    processes that compute without end."""
    model = Supervised(SMOL_MODEL, context_size)
    busy = [computing() for _ in range(num_busy)]
    try:
        async with model.running():
            model.submit("long", [5 + 7 * k % 40_000 for k in range(context_size - 8)], 4)
            await model.ended("long")
            burst = [f"burst {number}" for number in range(num_burst)]
            for number, name in enumerate(burst):
                model.submit(name, [5 + number, *CAPITAL_IDS], 20)
            await model.ended(*burst)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert len(model.tokens("long")) == 4
    assert {len(model.tokens(name)) for name in burst} == {20}
    assert len(model.engines) == 1
