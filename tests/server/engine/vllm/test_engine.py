"""The real engine's start, with its process played by small programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from server.config.settings import ModelSettings
from server.engine.base import Phase, Status
from server.engine.vllm.engine import VLLMEngine
from server.engine.vllm.processes import EngineProcess
from server.engine.vllm.stats import EngineMetrics
from server.errors import ConfigurationError, EngineFailed

# Says this, and ends.
SAYS = """
import sys
sys.stdin.readline()
print({news!r}, flush=True)
sys.exit(1)
"""
# Answers the first request with this step; then it ends, or not.
ANSWERS = """
import json, sys, time, msgspec, zmq
from server.engine.vllm.wire import CoreOutput, CoreOutputs
order = json.loads(sys.stdin.readline())
context = zmq.Context()
inputs, outputs = context.socket(zmq.DEALER), context.socket(zmq.PUSH)
inputs.identity = bytes(2)
inputs.connect(order["inputs"][0])
outputs.connect(order["outputs"][0])
inputs.send(b"")
_, data = inputs.recv_multipart()
name = msgspec.msgpack.decode(data)[0]
outputs.send({message})
time.sleep({seconds})
print({news!r}, flush=True)
context.destroy()
"""
DEAD = 'b"ENGINE_CORE_DEAD"'
STEP = "msgspec.msgpack.encode(CoreOutputs(outputs=[CoreOutput(name, [1], {fields})]))"


@asynccontextmanager
async def engine(program: str) -> AsyncIterator[tuple[VLLMEngine, list[Status]]]:
    stats = EngineMetrics(CollectorRegistry()).of("m")
    made = VLLMEngine(ModelSettings(id="m", path=Path("m")), 64, stats)
    made._process = EngineProcess(["-c", program])
    try:
        yield made, []
    finally:
        await made.close()


@pytest.mark.parametrize(
    ("news", "kind"),
    [
        ('{"error": "the disk is full"}', EngineFailed),
        ('{"error": "the disk is full", "is_final": true}', ConfigurationError),
    ],
)
async def test_the_engines_own_reason(news: str, kind: type[Exception]) -> None:
    """It is all that is raised."""
    async with engine(SAYS.format(news=news)) as (made, seen):
        with pytest.raises(kind, match=r"^the disk is full$"):
            await made.start(seen.append)


async def test_no_reason() -> None:
    """An engine that has said nothing has at least ended somehow."""
    async with engine("import os; os.kill(os.getpid(), 9)") as (made, seen):
        with pytest.raises(EngineFailed, match=r"^the engine process ended, by signal 9$"):
            await made.start(seen.append)


async def test_logits_that_are_nan_in_the_warm_up() -> None:
    """Are the reason."""
    program = ANSWERS.format(message=STEP.format(fields="num_nans_in_logits=3"), seconds=60, news="")
    async with engine(program) as (made, seen):
        with pytest.raises(EngineFailed, match="while warming up: logits are NaN; the model may be damaged"):
            await made.start(seen.append)
    assert seen[-1].phase is Phase.WARMING


@pytest.mark.parametrize(
    ("message", "seconds", "news", "how"),
    [
        (DEAD, 60, "", "the engine process ended, by signal 9"),
        (DEAD, 0.3, '{"error": "out of memory"}', "out of memory"),
        ('b"\\xc1"', 60, "", "the engine process ended, by signal 9"),  # no message
        (STEP.format(fields=""), 0.1, '{"error": "out of memory"}', "out of memory"),
    ],
    ids=["says so", "says why", "speaks nonsense", "ends"],
)
async def test_an_engine_that_dies_in_the_warm_up(message: str, seconds: float, news: str, how: str) -> None:
    """Is said to have ended, with its last word; not that a job failed."""
    async with engine(ANSWERS.format(message=message, seconds=seconds, news=news)) as (made, seen):
        with pytest.raises(EngineFailed, match=rf"^{how}$"):
            await asyncio.wait_for(made.start(seen.append), 30)
