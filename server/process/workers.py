"""Worker processes: they answer requests beside this process, as clients of the same engines.

This process runs the engines, starts the workers (worker.py), sends them the status of the engines, and
restarts workers that end. Each listens on the port with a socket of its own once its models are ready, and
the kernel spreads connections over them. The sockets stay open here, so that the connections of a worker that
ended wait for the next one.
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
from server.process import adopted
from server.process.adopted import told
from server.process.port import stop_listening

log = logging.getLogger(__name__)

# Seconds from the end of a worker to the next start: the first value, then doubled each time up to the
# second, until a worker has lived for the third.
AGAIN_S, AGAIN_AT_MOST_S = 1.0, 60.0
TALLIES_FILE = "tallies"  # in the shared folder
# Seconds from a model's removal until no process sends it requests any more.
LEAVING_S = 1.0
ADOPT_S = 30.0  # seconds for a worker to read the tokenizers of new models
POLL_S = 0.02


class WorkerOrder(BaseModel):
    """The first line to a worker. settings: as JSON, with keys that JSON leaves out. models: id -> number of
    the model. generation: of both. listener: a file descriptor. number: from 1; the process that runs the
    engines is 0. folder: shared by the processes."""

    settings: str
    models: dict[str, int]
    generation: int
    listener: int
    number: int
    folder: Path


class WorkerNews(BaseModel):
    """A further line to a worker. model, replica, phase, done, total, detail: the status of an engine, by the
    numbers of its model and replica. is_removed: the replica is gone. attestation: the document of GET
    /attestation. settings, models, generation: to use from now on, as in WorkerOrder."""

    model: int = -1
    replica: int = 0
    is_removed: bool = False
    phase: Phase = Phase.WAITING
    done: int = 0
    total: int = 0
    detail: str = ""
    attestation: dict[str, Any] | None = None
    settings: str = ""
    models: dict[str, int] = {}
    generation: int = 0


def settings_text(settings: Settings) -> str:
    """All settings as JSON, for Settings.model_validate_json."""
    return json.dumps(settings.model_dump(mode="json") | {"api_keys": settings.api_keys})


def link_folder(shared: Path, model_number: int, replica: int, worker: int) -> Path:
    """The folder of a worker's sockets to an engine of a model."""
    return shared / f"{model_number}-{replica}-{worker}"


def trials_folder(shared: Path, model_number: int) -> Path:
    """The folder where the processes note suspects of a model (server/engine/trials.py)."""
    return shared / f"trials-{model_number}"


class Workers:
    """The workers: one for each listener, or none. Use it as a context around everything else: afterwards the
    shared folder is gone."""

    def __init__(self, settings: Settings, listeners: list[socket.socket]) -> None:
        self._settings = settings
        self._listeners = listeners
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._models = {model.id: number for number, model in enumerate(settings.models)}
        self._generation = 0
        # The last status of each engine, for workers that start later; -1: other news.
        self._news: dict[tuple[int, int], WorkerNews] = {}
        self._is_stopping = False
        self.tallies = Tallies()  # of the keys; in a shared file if there are workers

    def __enter__(self) -> Workers:
        self._stack = contextlib.ExitStack()
        if self._listeners:
            name = self._stack.enter_context(sockets_folder())
            self.folder = Path(name)
            self.tallies = Tallies(self.folder / TALLIES_FILE)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def trials(self, model_number: int) -> Trials:
        """The suspects of a model, including those of the workers."""
        return Trials(trials_folder(self.folder, model_number) if self._listeners else None)

    def links(self, model_number: int, replica: int) -> list[Path]:
        """The folders of the workers' sockets to an engine of a model. They are created if missing."""
        numbers = range(1, len(self._listeners) + 1)
        folders = [link_folder(self.folder, model_number, replica, number) for number in numbers]
        for folder in folders:
            folder.mkdir(exist_ok=True)
        return folders

    @property
    def num_running(self) -> int:
        return len(self._processes)

    async def run(self) -> None:
        """Keep the workers running, until `stop`."""
        await asyncio.gather(*(self._live(k, listener) for k, listener in enumerate(self._listeners, 1)))
        await asyncio.Event().wait()

    def tell_status(self, model: int, replica: int, status: Status) -> None:
        news = WorkerNews(
            model=model,
            replica=replica,
            phase=status.phase,
            done=status.done,
            total=status.total,
            detail=status.detail,
        )
        self._tell((model, replica), news)

    def tell_removed(self, model: int, replica: int) -> None:
        """Report a replica that is gone."""
        self._tell((model, replica), WorkerNews(model=model, replica=replica, is_removed=True))
        del self._news[model, replica]

    async def adopt(self, settings: Settings, models: dict[str, int]) -> None:
        """Have running workers, and those that start later, use these settings and models. Returns when the
        running ones do."""
        self._settings, self._models = settings, models
        self._generation += 1
        kept = (-1, *models.values())
        self._news = {place: news for place, news in self._news.items() if place[0] in kept}
        news = WorkerNews(settings=settings_text(settings), models=models, generation=self._generation)
        for process in self._processes.values():
            _write(process, news)
        end = time.monotonic() + ADOPT_S
        while not all(map(self._has_adopted, self._processes)):
            if time.monotonic() > end:
                log.warning("not all workers have taken over the new configuration within %g s", ADOPT_S)
                return
            await asyncio.sleep(POLL_S)

    def have(self, model_number: int) -> bool:
        """Whether a worker has requests of a removed model."""
        found = (told(self.folder, number) for number in self._processes)
        return any(one is not None and model_number in one.leaving for one in found)

    def _has_adopted(self, number: int) -> bool:
        found = told(self.folder, number)
        return found is not None and found.generation >= self._generation

    def tell_attestation(self, document: dict[str, Any]) -> None:
        self._tell((-1, 0), WorkerNews(attestation=document))

    def stop(self) -> None:
        """Make the workers refuse new requests and end after the running ones."""
        if not self._is_stopping:
            self._is_stopping = True
            self._signal(signal.SIGTERM)

    async def close(self, patience_s: float) -> None:
        """End the workers; those that have not ended within that time are killed."""
        self.stop()
        self._signal(signal.SIGINT)  # as the second signal; two of the same kind could arrive as one
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
            except OSError as error:  # no process or file descriptor is available now
                how = f"it could not be started: {error.strerror}"
            if not self._is_stopping:
                wait_s = AGAIN_S if time.monotonic() - began > AGAIN_AT_MOST_S else wait_s
                log.error("worker %d ended (%s); starting another one in %g s", number, how, wait_s)
                if wait_s > AGAIN_S:  # the second time in a row: waiting connections might wait for ever
                    stop_listening(listener)  # the next attempt may succeed
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, AGAIN_AT_MOST_S)
        listener.close()  # nobody would accept the connections that wait there

    async def _one(self, number: int, listener: socket.socket) -> str:
        """Run one worker. Returns how it ended."""
        process = self._processes[number] = await self._start(number, listener)
        if self._is_stopping:  # stop was called just now
            process.send_signal(signal.SIGTERM)
        code = await process.wait()
        del self._processes[number]
        forget(self.folder, process.pid)
        adopted.forget(self.folder, number)
        self.tallies.forget(number)
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def _signal(self, number: int) -> None:
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)

    async def _start(self, number: int, listener: socket.socket) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server.process.worker"),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=[listener.fileno()],
            env={**os.environ, **SAFE_PATH, SERVER_PID: str(os.getpid())},
            start_new_session=True,  # this process forwards Ctrl-C itself
        )
        order = (
            WorkerOrder(  # the current state: changes during the start have been sent to the other workers
                settings=settings_text(self._settings),
                models=self._models,
                generation=self._generation,
                listener=listener.fileno(),
                number=number,
                folder=self.folder,
            )
        )
        _write(process, order)
        for news in self._news.values():
            _write(process, news)
        return process

    def _tell(self, place: tuple[int, int], news: WorkerNews) -> None:
        self._news[place] = news
        for process in self._processes.values():
            _write(process, news)


def _write(process: asyncio.subprocess.Process, message: BaseModel) -> None:
    assert process.stdin is not None, "a pipe"
    if not process.stdin.is_closing():
        process.stdin.write(message.model_dump_json().encode() + b"\n")
