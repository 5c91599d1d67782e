"""Further processes that answer requests beside this one, each a client of the same engines.

This process runs the engines, starts the workers (worker.py), tells them how far the engines are, and starts
one that has ended again. Each listens on the one port with a socket of its own once its models are ready,
and the kernel spreads connections over them. The sockets stay open here, so that connections to a worker that
has ended wait for the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from server.access.tallies import Tallies
from server.config.settings import Settings
from server.engine.base import Phase, Status
from server.engine.trials import Trials
from server.engine.vllm.link import sockets_folder
from server.engine.vllm.processes import SAFE_PATH, SERVER_PID
from server.http.metrics import forget
from server.process.port import stop_listening

log = logging.getLogger(__name__)

# From a worker's end to the next one's start: the first, then twice as long each time, until one has lived
# for the last.
AGAIN_S, AGAIN_AT_MOST_S = 1.0, 60.0
TALLIES_FILE = "tallies"  # in the folder


class WorkerOrder(BaseModel):
    """What a worker is told first. settings: as JSON, with the keys that it leaves out. listener: a file
    descriptor. number: 1 and up; the process that runs the engines is 0. folder: what the processes share."""

    settings: str
    listener: int
    number: int
    folder: Path


class WorkerNews(BaseModel):
    """What a worker is told then. model, phase, done, total, detail: how far an engine is. attestation: the
    document of GET /attestation. settings: to go on with, as WorkerOrder's."""

    model: str = ""
    phase: Phase = Phase.WAITING
    done: int = 0
    total: int = 0
    detail: str = ""
    attestation: dict[str, Any] | None = None
    settings: str = ""


def settings_text(settings: Settings) -> str:
    """All of them, for Settings.model_validate_json."""
    return json.dumps(settings.model_dump(mode="json") | {"api_keys": settings.api_keys})


def link_folder(shared: Path, model_number: int, worker: int) -> Path:
    """Of a worker's sockets to a model's engine."""
    return shared / f"{model_number}-{worker}"


def trials_folder(shared: Path, model_number: int) -> Path:
    """Where the processes say whether they have suspects of a model's (server/engine/trials.py)."""
    return shared / f"trials-{model_number}"


class Workers:
    """As many as there are listeners, none included. Used as a context, around all else: the folder is gone
    after it."""

    def __init__(self, settings: Settings, listeners: list[socket.socket]) -> None:
        self._settings = settings
        self._listeners = listeners
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._news: dict[str, WorkerNews] = {}  # the last of each kind, for one that starts now
        self._is_stopping = False
        self.tallies = Tallies()  # of the keys; in a file where there are workers

    def __enter__(self) -> Workers:
        self._stack = contextlib.ExitStack()
        if self._listeners:
            name = self._stack.enter_context(sockets_folder())
            self.folder = Path(name)
            self.tallies = Tallies(self.folder / TALLIES_FILE)
        for model in range(len(self._settings.models)):
            for link in self.links(model):
                link.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def trials(self, model_number: int) -> Trials:
        """Of a model's suspects, with those of the workers."""
        return Trials(trials_folder(self.folder, model_number) if self._listeners else None)

    def links(self, model_number: int) -> list[Path]:
        """The folders of the workers' sockets to a model's engine."""
        numbers = range(1, len(self._listeners) + 1)
        return [link_folder(self.folder, model_number, number) for number in numbers]

    @property
    def num_running(self) -> int:
        return len(self._processes)

    async def run(self) -> None:
        """Keep them alive, until `stop`."""
        await asyncio.gather(*(self._live(k, listener) for k, listener in enumerate(self._listeners, 1)))
        await asyncio.Event().wait()

    def tell_status(self, model: str, status: Status) -> None:
        news = WorkerNews(
            model=model, phase=status.phase, done=status.done, total=status.total, detail=status.detail
        )
        self._tell(model, news)

    def tell_settings(self, settings: Settings) -> None:
        """Those that run go on with these, and those that start begin with them."""
        self._settings = settings
        for process in self._processes.values():
            _write(process, WorkerNews(settings=settings_text(settings)))

    def tell_attestation(self, document: dict[str, Any]) -> None:
        self._tell("", WorkerNews(attestation=document))

    def stop(self) -> None:
        """Have them take no new requests, and end when those that run have ended."""
        if not self._is_stopping:
            self._is_stopping = True
            self._signal(signal.SIGTERM)

    async def close(self, patience_s: float) -> None:
        """End them, of themselves within that time or else by force."""
        self.stop()
        self._signal(signal.SIGINT)  # their second one; two of a kind might arrive as one
        processes = list(self._processes.values())
        ended = [asyncio.ensure_future(process.wait()) for process in processes]
        if ended:
            await asyncio.wait(ended, timeout=patience_s)
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _live(self, number: int, listener: socket.socket) -> None:
        wait_s = AGAIN_S
        while not self._is_stopping:
            began = time.monotonic()
            try:
                how = await self._one(number, listener)
            except OSError as error:  # no process, or file descriptor, to be had now
                how = f"not started, {error.strerror}"
            if not self._is_stopping:
                wait_s = AGAIN_S if time.monotonic() - began > AGAIN_AT_MOST_S else wait_s
                log.error("worker %d ended, %s; starting another one in %g s", number, how, wait_s)
                if wait_s > AGAIN_S:  # the second in a row: what waits for it may wait for ever
                    stop_listening(listener)  # the next one may
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, AGAIN_AT_MOST_S)
        listener.close()  # nobody would take what waits there

    async def _one(self, number: int, listener: socket.socket) -> str:
        """The life of a process. Returns how it ended."""
        process = self._processes[number] = await self._start(number, listener)
        if self._is_stopping:  # since a moment ago
            process.send_signal(signal.SIGTERM)
        code = await process.wait()
        del self._processes[number]
        forget(self.folder, process.pid)
        self.tallies.forget(number)
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _signal(self, number: int) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def _start(self, number: int, listener: socket.socket) -> asyncio.subprocess.Process:
        order = WorkerOrder(
            settings=settings_text(self._settings),
            listener=listener.fileno(),
            number=number,
            folder=self.folder,
        )
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server.process.worker"),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=[listener.fileno()],
            env={**os.environ, **SAFE_PATH, SERVER_PID: str(os.getpid())},
            start_new_session=True,  # Ctrl-C is this process's to pass on
        )
        _write(process, order)
        for news in self._news.values():
            _write(process, news)
        return process

    def _tell(self, kind: str, news: WorkerNews) -> None:
        self._news[kind] = news
        for process in self._processes.values():
            _write(process, news)


def _write(process: asyncio.subprocess.Process, message: BaseModel) -> None:
    assert process.stdin is not None, "a pipe"
    if not process.stdin.is_closing():
        process.stdin.write(message.model_dump_json().encode() + b"\n")
