"""The engine's process as the server sees it: how it starts, what it is told and reports, and how it ends.

No engine process outlives its server, however the server ends: after a kill -9 of the server, vLLM's
processes would keep their memory for ever. So each of them runs `follow_server`, as a plugin of vLLM (an
entry point in pyproject.toml).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import re
import select
import signal
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import psutil
from pydantic import BaseModel

from server.config.model import ModelSettings
from server.config.replication import flat
from server.engine.vllm.failures import NOTES, note_failures
from server.observe.logs import is_json, lines, outlast_a_full_disk, speak_json
from server.observe.versions import CPU_BUILD, installed

log = logging.getLogger(__name__)

SHARED_METRICS = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's variable
SERVER_PID = "VERBATIM_SERVER_PID"  # the server sets it for the processes of its engines
LOG_FORMAT = "VERBATIM_LOG_FORMAT"  # the same variable as the server's
SERVER_PLACE = "VERBATIM_SERVER_PLACE"  # the place() in which SERVER_PID is the server's number
PR_SET_PDEATHSIG = 1
HOST = ("-m", "server.engine.vllm.host")
POLL_S = 0.01
KILLED_S = 10.0  # a process that takes longer waits in the kernel, for a driver say
LAST_WORDS_S = 0.5  # seconds to read what a process wrote before its end
BEAT = "beat"  # a file beside that of the failures, which every process of an engine touches while it can
BEAT_S = 0.5
THREADS = "OMP_NUM_THREADS"
SPIN = "GOMP_SPINCOUNT"  # how often a thread looks before it sleeps; by default it spins for milliseconds

# Nothing is imported from the folder in which the server was started, where others may be able to write.
SAFE_PATH = {"PYTHONSAFEPATH": "1"}

# Set before vllm is imported: nothing connects to the network.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_USE_MODELSCOPE": "0",
    # A forked worker would hold its parent's files open, such as standard output.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # Requests to a broken model fail instead of returning noise.
    "VLLM_COMPUTE_NANS_IN_LOGITS": "1",
    # FlashInfer's sampler follows other rules, and only runs if no request in the batch has a seed
    # or is greedy.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}

# Noise of vLLM's processes in a log that people read: progress bars, and warnings of libraries to their
# callers. vLLM's own log lines, a hundred at a start, are only shown at level debug.
QUIET = {
    "TQDM_DISABLE": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


class Order(BaseModel):
    """The order to an engine process. context_size: the largest number of tokens of prompt and completion
    together. inputs, outputs: socket addresses, one of each for every client. handshake: an address too.
    failures: a file for the failures of its processes."""

    model: ModelSettings
    context_size: int
    inputs: list[str]
    outputs: list[str]
    handshake: str
    failures: Path


class News(BaseModel):
    """The news of an engine process. loading: it has imported vLLM. runner: vLLM's model runner that it uses.
    is_final: another try would not help, and the error says what to change."""

    loading: bool = False
    runner: str = ""
    error: str = ""
    is_final: bool = False


class EngineProcess:
    """One engine's process, and all processes that it starts: they are one process group."""

    def __init__(self, program: Sequence[str] = HOST) -> None:
        self._program = program
        self._process: asyncio.subprocess.Process | None = None
        self._ended: asyncio.Task[int] | None = None

    async def launch(self, model: ModelSettings) -> asyncio.Task[int]:
        """Start the process without an order, so that it prepares for one. Returns a task that
        ends with it."""
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, *self._program),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(os.environ, model),
            start_new_session=True,  # the server forwards Ctrl-C itself
        )
        self._ended = asyncio.create_task(_end_of(process))
        return self._ended

    async def start(self, order: Order) -> AsyncIterator[News]:
        """Start the process, unless it has started, and give it its order. Yields its news until it ends."""
        ended = self._ended or await self.launch(order.model)
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None  # noqa: PT018
        if not process.stdin.is_closing():  # it may have ended already
            process.stdin.write(order.model_dump_json().encode() + b"\n")
        while line := await _line_before_end(process.stdout, ended):
            yield News.model_validate_json(line)

    @property
    def pid(self) -> int | None:
        """None: not started, or ended."""
        return self._process.pid if self._process is not None else None

    @property
    def is_alone(self) -> bool:
        """Whether it has started no other process, with which it might share something."""
        try:
            return self.pid is None or not psutil.Process(self.pid).children()
        except psutil.Error:  # it has ended
            return True

    @property
    def lives(self) -> bool:
        return self._ended is not None and not self._ended.done()

    async def ended(self) -> str:
        """Return when it has ended, with how in words."""
        assert self._ended is not None, "started"
        code = await self._ended
        return f"the engine process ended, {f'by signal {-code}' if code < 0 else f'with exit code {code}'}"

    async def stop(self, patience_s: float) -> None:
        """End it and all that it has started: they have this long to end by themselves, then they are killed.
        Safe to call twice."""
        if self._process is None or self._ended is None:
            return
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await asyncio.wait((self._ended,), timeout=patience_s)
        self.kill()
        await asyncio.wait((self._ended,), timeout=KILLED_S)
        if not self._ended.done():
            log.error("the engine process %d does not end, not even after SIGKILL", self._process.pid)
        self._process = None  # another process may get its number from now on

    def kill(self) -> None:
        """Kill it and all that it has started, even if it has ended itself, or they are stopped."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


async def _end_of(process: asyncio.subprocess.Process) -> int:
    """Return the exit code when a process has ended. asyncio waits until nobody holds its output open, which
    its forked children do."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ProcessLookupError):
        process_fd, ended = os.pidfd_open(process.pid), asyncio.Event()
        loop.add_reader(process_fd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(process_fd)
            os.close(process_fd)
    while process.returncode is None:  # noqa: ASYNC110  # asyncio sets it a moment later
        await asyncio.sleep(POLL_S)
    return process.returncode


async def _line_before_end(output: asyncio.StreamReader, ended: asyncio.Future[int]) -> bytes:
    """The next line of a process, or nothing if it ends before."""
    line = asyncio.ensure_future(output.readline())
    try:
        await asyncio.wait((line, ended), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((line,), timeout=LAST_WORDS_S)
        return line.result() if line.done() else b""
    finally:
        line.cancel()


def environment(server: Mapping[str, str], model: ModelSettings) -> dict[str, str]:
    """The environment of an engine process. What a user has set in the server's environment stays."""
    quiet = {} if logging.getLogger().isEnabledFor(logging.DEBUG) else QUIET
    on_cpu = _on_cpu(model) if installed(CPU_BUILD) else {}
    chosen = {**OFFLINE, **quiet, **on_cpu, **server, **SAFE_PATH}
    chosen |= {SERVER_PID: str(os.getpid()), SERVER_PLACE: place()}
    chosen[LOG_FORMAT] = "json" if is_json() else "text"
    chosen.pop(SHARED_METRICS, None)  # for our metrics, not vLLM's
    if model.devices:
        chosen["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, flat(model.devices)))
    return chosen


def _on_cpu(model: ModelSettings) -> dict[str, str]:
    chosen = {}
    if model.engine_args.get("enforce_eager", True) and "compilation_config" not in model.engine_args:
        # vLLM would compile one small function even so: 2 s for no measurable gain.
        chosen["TORCH_COMPILE_DISABLE"] = "1"
    if len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) <= 1:
        # One thread per core, because the threads wait for each other in each layer. They spin only for a
        # short time, so that other work gets the core. On a machine with several memory nodes, vLLM places
        # its threads itself.
        cores = min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0)))
        cores = max(cores // model.replicas.max, 1)
        chosen |= {THREADS: str(cores), SPIN: "1000"}
    return chosen


def num_threads(model: ModelSettings) -> int:
    """Threads of an engine that compute at the same time: those of vLLM's CPU build, or the one that
    feeds a GPU."""
    if not installed(CPU_BUILD):
        return 1
    # The first of several, which are for nested loops
    first = re.match(r"\d+", environment(os.environ, model).get(THREADS, ""))
    return int(first[0]) if first else os.cpu_count() or 1


def place() -> str:
    """The scope in which process numbers are valid: a machine since its boot, or a container on it."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def log_as_server() -> None:
    """Format vLLM's log lines as the server's, once vLLM is imported: now, and again after it has configured
    its log, together with its engine arguments (0.32.0)."""
    vllm = sys.modules.get("vllm.logger")
    if vllm is not None and os.environ.get(LOG_FORMAT) == "json":
        formatters = vllm.DEFAULT_LOGGING_CONFIG["formatters"]
        formatters |= {name: {"()": lines} for name in formatters}
        speak_json("vllm")


def follow_server() -> None:
    """Plugin of vLLM, run in each of its processes. It ends the process when the server, or the process that
    started it, has ended; notes its failures; shows that it still runs; logs as the server does; and keeps a
    full disk of the log from ending it."""
    note_failures()
    log_as_server()
    server = int(os.environ.get(SERVER_PID, "0"))
    if server == 0:
        return
    outlast_a_full_disk()
    if os.environ.get(SERVER_PLACE, here := place()) != here:
        return  # with Ray, on another node than its engine: Ray ends it with the engine
    # The kernel does this even for stopped processes.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        server_fd = os.pidfd_open(server)
    except OSError:
        os.kill(os.getpid(), signal.SIGKILL)
        return
    threading.Thread(target=_end_with, args=(server_fd,), name="follow-server", daemon=True).start()


def _end_with(server_fd: int) -> None:
    while not select.select([server_fd], [], [], BEAT_S)[0]:
        if failures := os.environ.get(NOTES):
            with contextlib.suppress(OSError):  # the server has ended it and cleaned up
                Path(failures).with_name(BEAT).touch()
    os.kill(os.getpid(), signal.SIGKILL)
