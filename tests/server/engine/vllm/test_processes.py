"""An engine's process and those that it starts, played by small programs: none is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import uvloop

from server.config.model import ModelSettings
from server.engine.vllm.failures import NOTES
from server.engine.vllm.processes import (
    BEAT,
    SERVER_PID,
    SERVER_PLACE,
    EngineProcess,
    News,
    Order,
    environment,
    place,
)
from tests.serving import wait_for

# Says which process it is, and the number of its child, which holds its standard output open.
FORKS = """
import os, sys, time
sys.stdin.readline()
child = os.fork()
if child == 0:
    time.sleep(60)
print('{"runner": "%d"}' % child, flush=True)
time.sleep(60)
"""
# The same with a child of its own program, as vLLM's workers are; each follows the server.
SPAWNS = """
import subprocess, sys, time
from server.engine.vllm.processes import follow_server
child = 0
if sys.argv[1:] != ["child"]:
    sys.stdin.readline()
    started = subprocess.Popen([sys.executable, __file__, "child"], stdout=subprocess.PIPE)
    started.stdout.readline()
    child = started.pid
follow_server()
print('{"runner": "%d"}' % child, flush=True)
time.sleep(60)
"""
SAYS_AND_ENDS = """
import sys
sys.stdin.readline()
for number in range(3):
    print('{"error": "%d"}' % number, flush=True)
sys.exit(7)
"""
# Starts an engine, and tells what that has said.
SERVER = """
import asyncio, sys
from tests.server.engine.vllm.test_processes import begun
async def main():
    _, engine, child = await begun(sys.argv[1:])
    print(engine, child, flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""
ORDER = Order(
    model=ModelSettings(id="m", path=Path("m")),
    context_size=1,
    inputs=[],
    outputs=[],
    handshake="",
    failures=Path("none"),
)
SOON_S = 30.0


async def begun(program: list[str]) -> tuple[EngineProcess, int, int]:
    """An engine that has started, its number and its child's."""
    engine = EngineProcess(program)
    news = await anext(engine.start(ORDER))
    assert engine._process is not None
    return engine, engine._process.pid, int(news.runner)


def is_there(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def wait_until_gone(*pids: int) -> None:
    end = time.monotonic() + SOON_S
    while any(map(is_there, pids)):
        assert time.monotonic() < end, [pid for pid in pids if is_there(pid)]
        time.sleep(0.01)


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def runner(request: pytest.FixtureRequest) -> Iterator[asyncio.Runner]:
    loop: Callable[[], asyncio.AbstractEventLoop] = request.param
    with asyncio.Runner(loop_factory=loop) as runner:
        yield runner


def test_all_that_is_said_is_heard(runner: asyncio.Runner) -> None:
    """Up to the last word, and how it has ended."""

    async def live() -> tuple[list[News], str]:
        engine = EngineProcess(["-c", SAYS_AND_ENDS])
        said = [news async for news in engine.start(ORDER)]
        how = await engine.ended()
        await engine.stop(0)
        await engine.stop(0)
        return said, how

    said, how = runner.run(live())
    assert [news.error for news in said] == ["0", "1", "2"]
    assert how == "the engine process ended, with exit code 7"


def test_a_death_is_heard_at_once(runner: asyncio.Runner) -> None:
    """Though a process that it has forked holds its output open; that one is ended, also when
    it is stopped."""

    async def live() -> int:
        engine = EngineProcess(["-c", FORKS])
        child = 0
        async for news in engine.start(ORDER):
            child = int(news.runner)
            os.kill(child, signal.SIGSTOP)
            assert engine._process is not None
            engine._process.kill()
        assert await engine.ended() == "the engine process ended, by signal 9"
        assert is_there(child)
        await engine.stop(0)
        return child

    wait_until_gone(runner.run(asyncio.wait_for(live(), SOON_S)))


def test_a_death_before_the_order_is_one_like_any_other(runner: asyncio.Runner) -> None:
    """It says nothing, and how it has ended."""

    async def life() -> tuple[list[News], str]:
        engine = EngineProcess(["-c", "import sys; sys.exit(7)"])
        await (await engine.launch(ORDER.model))
        await asyncio.sleep(0.1)  # for the end of its standard input to be noticed
        return [news async for news in engine.start(ORDER)], await engine.ended()

    assert runner.run(life()) == ([], "the engine process ended, with exit code 7")


def test_stopping_ends_the_whole_group(runner: asyncio.Runner) -> None:
    """What the engine has started goes with it, asked or not."""

    async def live() -> tuple[int, int]:
        engine, pid, child = await begun(["-c", FORKS])
        await engine.stop(1)
        return pid, child

    wait_until_gone(*runner.run(asyncio.wait_for(live(), SOON_S)))


@pytest.mark.parametrize("stopped", ["none", "engine", "child"])
def test_none_outlives_the_server(tmp_path: Path, stopped: str) -> None:
    """kill -9 of the server, though one of the engine's processes has been stopped and cannot see it."""
    program = tmp_path / "engine.py"
    program.write_text(SPAWNS)
    command = [sys.executable, "-c", SERVER, str(program)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    with server.stdout:
        engine, child = map(int, server.stdout.readline().split())
    if stopped != "none":
        os.kill(engine if stopped == "engine" else child, signal.SIGSTOP)
    server.kill()
    server.wait()
    wait_until_gone(engine, child)


def test_none_outlives_the_engine(tmp_path: Path) -> None:
    """kill -9 of the engine's first process: a stopped one of its others goes before anybody asks."""
    program = tmp_path / "engine.py"
    program.write_text(SPAWNS)

    async def live() -> int:
        engine, pid, child = await begun([str(program)])
        os.kill(child, signal.SIGSTOP)
        os.kill(pid, signal.SIGKILL)
        await engine.ended()
        await asyncio.to_thread(wait_until_gone, child)
        await engine.stop(0)
        return child

    asyncio.run(live())


def test_nothing_is_imported_from_where_the_server_was_started(tmp_path: Path) -> None:
    """A folder that anybody may write to gives an engine's processes no code."""
    (tmp_path / "server.py").write_text("raise SystemExit('foreign')\n")
    environ = environment(os.environ, ModelSettings(id="m", path=tmp_path))
    ran = subprocess.run([sys.executable, "-m", "server.errors"], cwd=tmp_path, env=environ, check=False)
    assert ran.returncode == 0


def test_an_engines_processes_show_that_they_run(tmp_path: Path) -> None:
    """They touch a file again and again, beside that for what they fail with."""
    beat, environ = tmp_path / BEAT, os.environ | {SERVER_PID: str(os.getpid()), NOTES: str(tmp_path / "f")}
    code = "import time; from server.engine.vllm.processes import *; follow_server(); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], env=environ) as process:
        wait_for(beat.exists, SOON_S)
        first = beat.stat().st_mtime_ns
        wait_for(lambda: beat.stat().st_mtime_ns > first, SOON_S)
        process.kill()


def test_a_process_on_another_machine_follows_nobody_here() -> None:
    """vLLM over Ray gives workers on other nodes the engine's environment, whose number is no process there,
    or any; on this machine the number counts, and a process of a server that has ended ends."""
    with subprocess.Popen(["true"]) as ended:
        pass
    code = "from server.engine.vllm.processes import *; follow_server(); print('goes on')"

    def follow(where: str) -> str:
        environ = os.environ | {SERVER_PID: str(ended.pid), SERVER_PLACE: where}
        command = [sys.executable, "-c", code]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False).stdout

    assert follow("another boot pid:[1]") == "goes on\n"
    assert follow(place()) == ""
