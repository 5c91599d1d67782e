"""A further process that answers requests: python -m server.process.worker

It reads from standard input its order, one line of JSON, and then a line for each change of an engine's
status (workers.py). The main process runs the engines; everything else is the same as there.
"""

from __future__ import annotations

import asyncio
import io
import logging
import math
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial

import uvloop

from server.access.tallies import Tallies
from server.config.settings import Settings
from server.engine.base import Status
from server.engine.vllm.processes import follow_server
from server.errors import ConfigurationError
from server.http.app import adopt, build_app
from server.http.metrics import Metrics
from server.http.state import State
from server.observe import logs
from server.observe.attestation import AttestedElsewhere
from server.process.attached import AttachedModels
from server.process.control import change_there, place_of
from server.process.port import listens, live
from server.process.workers import TALLIES_FILE, WorkerNews, WorkerOrder

# If the engines are ready, the worker reaches them within a moment. If they are not, clients are told so.
FOLLOWS_S = 2.0
MAX_LINE_BYTES = 1 << 26  # an attestation lists every weight file


def main() -> None:
    follow_server()
    pipe = os.fdopen(0, "rb", buffering=0)  # unbuffered, so that what follows the order stays in the pipe
    order = WorkerOrder.model_validate_json(pipe.readline())
    settings = Settings.model_validate_json(order.settings)
    logs.configure(settings.log_level, settings.log_format)
    quiet()
    metrics = Metrics(shared=order.folder)
    models = AttachedModels(order.folder, order.number, metrics)
    attestation = AttestedElsewhere() if settings.attest else None
    tallies = Tallies(order.folder / TALLIES_FILE, order.number)
    served = models.load(settings, order.models)
    app = build_app(settings, served, metrics, attestation, tallies)
    state: State = app.state.server

    async def hear(news: WorkerNews) -> None:
        if news.settings:
            new = Settings.model_validate_json(news.settings)
            adopt(state, new, await asyncio.to_thread(models.load, new, news.models))
            quiet()
            models.adopt(news.models, news.generation)
        elif news.attestation is None:
            status = Status(news.phase, news.done, news.total, news.detail)
            await models.tell(news.model, news.replica, None if news.is_removed else status)
        elif attestation is not None:
            attestation.tell(news.attestation)

    async def begin() -> None:
        models.adopt(order.models, order.generation)
        await hear_all(pipe, hear)

    with socket.socket(fileno=order.listener) as listener:
        state.change = partial(change_there, place_of(listener))
        # A worker that replaces another one has its socket already, with waiting connections.
        patience_s = FOLLOWS_S if listens(listener) else math.inf
        beside = [models.run(), begin()]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(live(app, state, listener, beside, patience_s=patience_s))


def quiet() -> None:
    """Log warnings only: the main process logs the rest."""
    for name in ("server.engine.supervisor", "server.process.port"):
        logging.getLogger(name).setLevel(logging.WARNING)


async def hear_all(pipe: io.FileIO, hear: Callable[[WorkerNews], Awaitable[None]]) -> None:
    """Pass on each line of the main process, until it ends."""
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    async for line in reader:
        await hear(WorkerNews.model_validate_json(line))


if __name__ == "__main__":
    try:
        main()
    except ConfigurationError as error:
        sys.exit(f"verbatim: {error.message}")
