"""`verbatim serve`: the process that runs the engines, answers requests, and has workers beside it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path

import uvloop
from rich.console import Console

from server import __version__
from server.config.settings import Settings
from server.engine.served import ServedModel
from server.http.app import build_app
from server.http.metrics import Metrics
from server.http.state import State
from server.observe import logs
from server.observe.attestation import Attestation, installation_root
from server.process.control import answer_reloads
from server.process.descriptors import raise_limit
from server.process.models import RunningModels
from server.process.port import live, open_ports
from server.process.reload import Reload
from server.process.workers import Workers

log = logging.getLogger(__name__)


def serve(settings: Settings, file: Path | None = None, load: Callable[[], Settings] | None = None) -> None:
    """Serve until a signal. `file` is where the settings come from, `load` reads them anew. Raises
    ConfigurationError for what the machine or the configuration does not allow, and EngineFailed where the
    only engine does not start."""
    logs.outlast_a_full_disk()
    logs.configure(settings.log_level)
    raise_limit()
    with contextlib.ExitStack() as stack:
        ports = open_ports(settings.host, settings.port, settings.slow_reader_timeout_s, settings.workers)
        for port in ports:
            stack.enter_context(port)
        workers = stack.enter_context(Workers(settings, ports[1:]))
        metrics = Metrics(shared=workers.folder if settings.workers > 1 else None)
        attestation = Attestation(settings, file, installation_root()) if settings.attest else None
        running = RunningModels(settings, metrics, workers, attestation)
        app = build_app(settings, running.load(settings), metrics, attestation, workers.tallies)
        state: State = app.state.server
        running.served = state.models
        if attestation:
            attestation.start()
        beside = [running.run(), workers.run(), _tell_progress(state, ports[0])]
        if attestation:
            beside.append(_tell_attestation(attestation, workers))
        if load is not None:
            beside.append(answer_reloads(ports[0].getsockname()[1], Reload(state, running, load).run))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(live(app, state, ports[0], beside, workers))


async def _tell_progress(state: State, listener: socket.socket) -> None:
    """On standard output: where the server is, how far its models are, and a request to try."""
    console, started = Console(highlight=False, soft_wrap=True), time.monotonic()
    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    console.print(f"Verbatim {__version__} listens on {url} (documentation: {url}/docs)", markup=False)
    with console.status("starting") as status:
        while not state.ready:
            status.update(" · ".join(_where(model) for model in state.models.values()))
            await asyncio.sleep(0.1)
    console.print(f"Ready after {time.monotonic() - started:.1f} s. Try:\n", markup=False)
    console.print(_curl(url, _ready_id(state)) + "\n", markup=False)
    await asyncio.Event().wait()


async def _tell_attestation(attestation: Attestation, workers: Workers) -> None:
    while not attestation.is_complete:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    workers.tell_attestation(attestation.document())
    await asyncio.Event().wait()


def _ready_id(state: State) -> str:
    """A model that answers: another one may have failed for good."""
    return next(name for name, model in state.models.items() if model.engine.status.ready)


def _where(model: ServedModel) -> str:
    status = model.engine.status
    steps = f" {status.done}/{status.total}" if status.total else ""
    return f"{model.id}: {status.phase}{steps}, {time.monotonic() - model.engine.phase_since:.0f} s"


def _curl(url: str, model_id: str) -> str:
    body = json.dumps(
        {"model": model_id, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
    )
    return (
        f"curl {url}/v3/openai/completions \\\n  -H 'Authorization: Bearer KEY' \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d '{body}'"
    )
