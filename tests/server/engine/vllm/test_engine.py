"""The real engine's start, with its process played by small programs."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import server.engine.vllm.engine as engine_module
import server.engine.vllm.pulse as pulse_module
from server.config.model import ModelSettings
from server.contract.params import GenerationParams
from server.engine.base import Job, Phase, Status
from server.engine.vllm.engine import VLLMEngine
from server.engine.vllm.processes import EngineProcess
from server.engine.vllm.standby import Standby
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
# Is ready at once, and does this with what it gets after.
THEN = """
import json, os, sys, time, msgspec, zmq
from server.engine.vllm.failures import NOTES
from server.engine.vllm.processes import follow_server
from server.engine.vllm.wire import ADD, UTILITY, CoreOutputs
order = json.loads(sys.stdin.readline())
os.environ[NOTES] = order["failures"]
{before}
context = zmq.Context()
inputs, outputs = context.socket(zmq.DEALER), context.socket(zmq.PUSH)
inputs.identity = bytes(2)
inputs.connect(order["inputs"][0])
outputs.connect(order["outputs"][0])
inputs.send(b"")
has_work = False
while True:
    kind, data = inputs.recv_multipart()
    has_work |= kind == ADD
    {then}
"""
BEATS = "follow_server()"
ANSWER = "outputs.send(msgspec.msgpack.encode(CoreOutputs(utility_output=[0, None, [None, [7, has_work]]])))"
JOB = Job("j", "r", [5], GenerationParams(), (1,), max_tokens=10)
NOTHING = "(did not answer|had work but made no step)"
MODEL = ModelSettings(id="m", path=Path("m"))
DEAD = 'b"ENGINE_CORE_DEAD"'
STEP = "msgspec.msgpack.encode(CoreOutputs(outputs=[CoreOutput(name, [1], {fields})]))"


@asynccontextmanager
async def engine(
    program: str, *, hang_timeout_s: float = 20.0
) -> AsyncIterator[tuple[VLLMEngine, list[Status]]]:
    stats = EngineMetrics(CollectorRegistry()).of("m")
    made = VLLMEngine(MODEL, 64, stats, hang_timeout_s=hang_timeout_s)
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
        with pytest.raises(
            EngineFailed, match="during the warm-up: the logits are NaN; the model may be damaged"
        ):
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


@pytest.fixture
def ready_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No warm-up; and an engine is looked at twenty times a second."""
    monkeypatch.setattr(engine_module, "warm_up_jobs", lambda context_size: [])
    monkeypatch.setattr(pulse_module, "LOOK_S", 0.05)
    monkeypatch.setattr(pulse_module, "STOPPED_S", 1.2)


@pytest.mark.usefixtures("ready_at_once")
@pytest.mark.parametrize(
    ("before", "then", "how"),
    [
        ("", "os.kill(os.getpid(), 19)", "one of its processes is stopped \\(SIGSTOP\\)"),
        ("", "time.sleep(60)", "it got no CPU time for [0-9]+ s"),
        (BEATS, "time.sleep(60)", f"it {NOTHING} for [0-9]+ s"),
        (BEATS, "while True: pass", f"it {NOTHING} for [0-9]+ s"),
        (BEATS, f"if kind == UTILITY: {ANSWER}", "it had work but made no step for [0-9]+ s"),
    ],
    ids=["stopped", "frozen", "waits", "turns", "does nothing"],
)
async def test_an_engine_that_hangs(before: str, then: str, how: str) -> None:
    """Is killed, and its death says that it hung and how."""
    async with engine(THEN.format(before=before, then=then), hang_timeout_s=2.0) as (made, seen):
        made._pulse._num_threads = 1
        await made.start(seen.append)
        made.submit(JOB, lambda output: None)
        death = await asyncio.wait_for(made.died(), 30)
    assert re.fullmatch(f"the engine hangs: {how}", death.how)
    assert death.is_hang


@pytest.mark.usefixtures("ready_at_once")
async def test_an_engine_that_does_nothing_for_others() -> None:
    """Hangs as well: what other processes have asked it for is not seen here but for what it answers."""
    program = THEN.format(before=BEATS, then=f"has_work = True; {ANSWER}")
    async with engine(program, hang_timeout_s=1.0) as (made, seen):
        await made.start(seen.append)
        death = await asyncio.wait_for(made.died(), 30)
    assert re.fullmatch("the engine hangs: it had work but made no step for [0-9]+ s", death.how)


@pytest.mark.usefixtures("ready_at_once")
async def test_an_engine_that_answers_and_has_nothing_to_do_lives() -> None:
    """Also for longer than hang_timeout_s."""
    program = THEN.format(before=BEATS, then=f"if kind == UTILITY: {ANSWER}")
    async with engine(program, hang_timeout_s=0.3) as (made, seen):
        await made.start(seen.append)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(made.died(), 2)


@pytest.mark.usefixtures("ready_at_once")
async def test_an_engine_that_loads_may_stand_still() -> None:
    """Before it is ready nothing is asked of it."""
    program = THEN.format(before="time.sleep(1.5)", then=ANSWER)
    async with engine(program, hang_timeout_s=0.2) as (made, seen):
        await made.start(seen.append)
    assert seen[-1].phase is Phase.READY


# Answers questions, and a call of vLLM's own when it has done it; {answer} is of it.
MOVES = """if kind == UTILITY:
        client, number, method, arguments = msgspec.msgpack.decode(data)
        if number:
            print(json.dumps([method, arguments]), file=sys.stderr, flush=True)
            {act}
        outputs.send(msgspec.msgpack.encode(CoreOutputs(utility_output=
            {answer} if number else [0, None, [None, [7, has_work]]])))"""


@pytest.mark.usefixtures("ready_at_once")
@pytest.mark.parametrize(
    ("level", "calls"),
    [
        (1, [["wake_up", []]]),
        (2, [["wake_up", [["weights"]]], ["collective_rpc", ["reload_weights"]], ["wake_up", []]]),
    ],
)
async def test_an_engine_that_sleeps(level: int, calls: list[Any], capfd: pytest.CaptureFixture[str]) -> None:
    """It may take longer to fall asleep, and to wake, than it may otherwise be silent; and it is watched
    while it sleeps."""
    then = MOVES.format(act="time.sleep(1)", answer="[number, None, [None, None]]")
    async with engine(THEN.format(before=BEATS, then=then), hang_timeout_s=0.5) as (made, seen):
        made.settings = MODEL.model_copy(update={"sleep_level": level})
        await made.start(seen.append)
        await made.sleep()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(made.died(), 1.5)
        await made.wake()
        assert made._process.pid is not None
        os.kill(made._process.pid, signal.SIGKILL)
        death = await asyncio.wait_for(made.died(), 30)
    assert (death.is_hang, "signal 9" in death.how) == (False, True)
    told = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("[")]
    assert told == [["sleep", [level, "abort"]], *calls]


@pytest.mark.usefixtures("ready_at_once")
@pytest.mark.parametrize(
    ("act", "answer", "how"),
    [
        ("pass", '[number, "out of memory", None]', "out of memory"),
        ("os.kill(os.getpid(), 9)", "[]", "the engine process ended, by signal 9"),
        ("time.sleep(60)", "[]", "vLLM's sleep did not end within 1 s"),
    ],
    ids=["fails", "dies", "hangs"],
)
async def test_an_engine_that_cannot_sleep(
    act: str, answer: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Says why, whatever it is, within a time."""
    monkeypatch.setattr(engine_module, "MOVE_S", 1.0)
    program = THEN.format(before=BEATS, then=MOVES.format(act=act, answer=answer))
    async with engine(program) as (made, seen):
        await made.start(seen.append)
        with pytest.raises(EngineFailed, match=how):
            await made.sleep()


async def test_weights_that_are_larger_than_the_machines_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Are not even begun with: the machine would end any of its processes."""
    monkeypatch.setattr(engine_module, "host_memory_lacks", lambda settings: "its weights take 15.0 GiB")
    async with engine("") as (made, _):
        made.settings = MODEL.model_copy(update={"sleep_level": 1})
        with pytest.raises(EngineFailed, match="its weights take"):
            await made.sleep()


async def test_one_that_follows_another_does_not_warm_up() -> None:
    """Requests wait for it: it is ready as soon as it can be sent to, and then wants a process in reserve."""
    standby = Standby(MODEL, ["-c", ANSWERS.format(message="b''", seconds=60, news="")])
    made = VLLMEngine(MODEL, 64, EngineMetrics(CollectorRegistry()).of("m"), warms_up=False, standby=standby)
    seen: list[Status] = []
    try:
        await asyncio.wait_for(made.start(seen.append), 30)
    finally:
        await made.close()
    assert [status.phase for status in seen] == [Phase.IMPORTING, Phase.READY]
    assert standby._wanted.is_set()
