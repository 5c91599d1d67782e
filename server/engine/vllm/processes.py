"""The engine's process as the server sees it: how it is started, what it is told and says, and its end.

No engine process outlives its server, however the server ends: after a kill -9 of the server, vLLM's would
keep their memory for ever. So each of them runs `follow_server`, as a plugin of vLLM's (an entry
point in pyproject.toml).
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

SHARED_METRICS = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's
SERVER_PID = "VERBATIM_SERVER_PID"  # set by the server for the processes of its engines
LOG_FORMAT = "VERBATIM_LOG_FORMAT"  # as for the server itself
SERVER_PLACE = "VERBATIM_SERVER_PLACE"  # where that number is its process's
PR_SET_PDEATHSIG = 1
HOST = ("-m", "server.engine.vllm.host")
POLL_S = 0.01
KILLED_S = 10.0  # more needs one that waits in the kernel, for a driver say
LAST_WORDS_S = 0.5  # for what a process has said before its end to be read
BEAT = "beat"  # a file beside that for failures, which every process of an engine touches while it can
BEAT_S = 0.5
THREADS = "OMP_NUM_THREADS"
SPIN = "GOMP_SPINCOUNT"  # how often a thread looks before it sleeps; of itself as long as milliseconds

# Nothing is imported from the folder that the server was started in, whoever may write there.
SAFE_PATH = {"PYTHONSAFEPATH": "1"}

# Set before vllm is imported: nothing asks the network for anything.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_DO_NOT_TRACK": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_USE_MODELSCOPE": "0",
    # A forked worker would hold open what its parent has, its standard output for one.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    # A broken model's request fails instead of getting noise.
    "VLLM_COMPUTE_NANS_IN_LOGITS": "1",
    # FlashInfer's would draw by other rules, and only where nobody in the batch has a seed or is greedy.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}

# Noise of vLLM's processes, for a log that is read: progress bars, warnings of libraries to their callers. A
# line of vLLM's own log, a hundred at a start, is for those who ask for debugging.
QUIET = {
    "TQDM_DISABLE": "1",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


class Order(BaseModel):
    """What an engine process is told. context_size: most tokens of prompt and completion together. inputs,
    outputs: addresses of sockets, one of each for every client. handshake: an address too. failures: a file
    for what its processes fail with."""

    model: ModelSettings
    context_size: int
    inputs: list[str]
    outputs: list[str]
    handshake: str
    failures: Path


class News(BaseModel):
    """What an engine process says. loading: it has imported vLLM. runner: which of vLLM's model runners it
    takes. is_final: no other try would help, and the error says what to change."""

    loading: bool = False
    runner: str = ""
    error: str = ""
    is_final: bool = False


class EngineProcess:
    """One engine's process, and whatever it starts itself: a group of their own."""

    def __init__(self, program: Sequence[str] = HOST) -> None:
        self._program = program
        self._process: asyncio.subprocess.Process | None = None
        self._ended: asyncio.Task[int] | None = None

    async def launch(self, model: ModelSettings) -> asyncio.Task[int]:
        """Start it, without an order: it makes itself ready for one. Returns its life."""
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, *self._program),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment(os.environ, model),
            start_new_session=True,  # Ctrl-C is the server's to pass on
        )
        self._ended = asyncio.create_task(_end_of(process))
        return self._ended

    async def start(self, order: Order) -> AsyncIterator[News]:
        """Start it, unless that is done, and give it its order. Gives what it says until it ends."""
        ended = self._ended or await self.launch(order.model)
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None  # noqa: PT018
        if not process.stdin.is_closing():  # it may have ended already
            process.stdin.write(order.model_dump_json().encode() + b"\n")
        while line := await _line_before_end(process.stdout, ended):
            yield News.model_validate_json(line)

    @property
    def pid(self) -> int | None:
        """None: not started, or over and done with."""
        return self._process.pid if self._process is not None else None

    @property
    def is_alone(self) -> bool:
        """It has started no other process, with which it would share something."""
        try:
            return self.pid is None or not psutil.Process(self.pid).children()
        except psutil.Error:  # it has ended
            return True

    @property
    def lives(self) -> bool:
        return self._ended is not None and not self._ended.done()

    async def ended(self) -> str:
        """Return when it has ended, with a word on how."""
        assert self._ended is not None, "started"
        code = await self._ended
        return f"the engine process ended, {f'by signal {-code}' if code < 0 else f'with exit code {code}'}"

    async def stop(self, patience_s: float) -> None:
        """End it, and all that it has started: of itself within that time, or else by force. Safe
        to call twice."""
        if self._process is None or self._ended is None:
            return
        if not self._ended.done():
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            await asyncio.wait((self._ended,), timeout=patience_s)
        self.kill()
        await asyncio.wait((self._ended,), timeout=KILLED_S)
        if not self._ended.done():
            log.error("the engine process %d does not end, not even by SIGKILL", self._process.pid)
        self._process = None  # its number may be another one's from now on

    def kill(self) -> None:
        """At once, with all that it has started, also where it has ended itself and they are stopped."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


async def _end_of(process: asyncio.subprocess.Process) -> int:
    """Return when a process has ended, with its code. asyncio's own way waits until nobody holds its output
    open any more, and what it has forked does."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ProcessLookupError):
        process_fd, ended = os.pidfd_open(process.pid), asyncio.Event()
        loop.add_reader(process_fd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(process_fd)
            os.close(process_fd)
    while process.returncode is None:  # noqa: ASYNC110  # the loop asks for it, a moment later
        await asyncio.sleep(POLL_S)
    return process.returncode


async def _line_before_end(output: asyncio.StreamReader, ended: asyncio.Future[int]) -> bytes:
    """The next line of a process, or nothing if there is none before its end."""
    line = asyncio.ensure_future(output.readline())
    try:
        await asyncio.wait((line, ended), return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((line,), timeout=LAST_WORDS_S)
        return line.result() if line.done() else b""
    finally:
        line.cancel()


def environment(server: Mapping[str, str], model: ModelSettings) -> dict[str, str]:
    """What an engine process finds in its environment. What a user has set in the server's stays."""
    quiet = {} if logging.getLogger().isEnabledFor(logging.DEBUG) else QUIET
    on_cpu = _on_cpu(model) if installed(CPU_BUILD) else {}
    chosen = {**OFFLINE, **quiet, **on_cpu, **server, **SAFE_PATH}
    chosen |= {SERVER_PID: str(os.getpid()), SERVER_PLACE: place()}
    chosen[LOG_FORMAT] = "json" if is_json() else "text"
    chosen.pop(SHARED_METRICS, None)  # ours, not vLLM's
    if model.devices:
        chosen["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, flat(model.devices)))
    return chosen


def _on_cpu(model: ModelSettings) -> dict[str, str]:
    chosen = {}
    if model.engine_args.get("enforce_eager", True) and "compilation_config" not in model.engine_args:
        # One small function of vLLM's is compiled even so, 2 s for a gain that cannot be measured.
        chosen["TORCH_COMPILE_DISABLE"] = "1"
    if len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))) <= 1:
        # One thread a core, because they wait for each other in each layer; and for a short time only, so
        # that what else wants a core gets it. On a machine with several memory nodes vLLM places
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
    first = re.match(r"\d+", environment(os.environ, model).get(THREADS, ""))  # of several, for nested loops
    return int(first[0]) if first else os.cpu_count() or 1


def place() -> str:
    """What numbers of processes mean something in: a machine since it was started, or a container there."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return f"{boot} {Path('/proc/self/ns/pid').readlink()}"


def log_as_server() -> None:
    """vLLM's lines are as the server's, once it has been imported: those of now, and those after it has
    configured its log, which it does with its engine's arguments (0.32.0)."""
    vllm = sys.modules.get("vllm.logger")
    if vllm is not None and os.environ.get(LOG_FORMAT) == "json":
        formatters = vllm.DEFAULT_LOGGING_CONFIG["formatters"]
        formatters |= {name: {"()": lines} for name in formatters}
        speak_json("vllm")


def follow_server() -> None:
    """Plugin of vLLM's, in each of its processes: end it when the server has ended, or the process that has
    started it; note what it fails with; show that it still gets a processor; log as the server does; and have
    no full disk end it that its log is on."""
    note_failures()
    log_as_server()
    server = int(os.environ.get(SERVER_PID, "0"))
    if server == 0:
        return
    outlast_a_full_disk()
    if os.environ.get(SERVER_PLACE, here := place()) != here:
        return  # over Ray, on another node than its engine: Ray ends it with the engine
    # The kernel does it for processes that are stopped as well.
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
            with contextlib.suppress(OSError):  # the server has ended it, and tidied up
                Path(failures).with_name(BEAT).touch()
    os.kill(os.getpid(), signal.SIGKILL)
