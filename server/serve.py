"""The life of the server process: open the port, start the engines, serve, drain, leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import json
import logging
import signal
import socket
import time
from pathlib import Path

import uvicorn
import uvloop
from fastapi import FastAPI
from rich.console import Console

from server import __version__, logs
from server.app import build_app
from server.attestation import Attestation, installation_root
from server.checkpoint import verify_checksums
from server.engine.base import Engine, Phase, Status
from server.engine.simulated import SimulatedEngine
from server.engine.vllm import VLLMEngine
from server.errors import ConfigurationError
from server.metrics import Metrics
from server.models import ServedModel, load_model
from server.protocol import Protocol
from server.settings import ModelSettings, Settings
from server.state import State

log = logging.getLogger("verbatim")

BACKLOG = 2048  # connections that arrive at once wait here instead of being refused
# Longer than the 60 s of usual load balancers, so that they close first and never meet a closed one.
KEEP_ALIVE_S = 75
# Python's own first number, 700, looks for cycles every few requests: a twentieth of a request's cost.
GC_THRESHOLD = (50_000, 20, 100)
LAST_WORDS_S = 5  # for replies that the drain has cut off to send their error frame


def serve(settings: Settings, file: Path | None = None) -> None:
    """Serve until a signal. `file` is where the settings come from. Raises ConfigurationError for what the
    machine or the configuration does not allow."""
    logs.configure(settings.log_level)
    listener = open_port(settings.host, settings.port, settings.slow_reader_timeout_s)
    with contextlib.closing(listener):
        metrics = Metrics()

        def make_engine(model: ModelSettings, context_size: int, vocab_size: int) -> Engine:
            if model.engine == "simulated":
                return SimulatedEngine(vocab_size, step_s=0.01)
            return VLLMEngine(model, context_size, metrics.engines.of(model.id))

        models = [
            load_model(model, make_engine, max_pending=settings.max_pending) for model in settings.models
        ]
        attestation = Attestation(settings, file, installation_root()) if settings.attest else None
        if attestation:
            attestation.start()
        app = build_app(settings, models, metrics, attestation)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_live(app, app.state.server, listener))


def open_port(host: str, port: int, slow_reader_timeout_s: float) -> socket.socket:
    """A listening socket, whose connections the kernel ends when their other side takes nothing for so long.

    Raises ConfigurationError that says what to do where there is none to be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        timeout_ms = int(slow_reader_timeout_s * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, timeout_ms)  # connections inherit it
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"port {port} on {host} is taken by another program. Choose another one:"
                f" `verbatim serve --port {port + 1}` or `make serve PORT={port + 1}`."
            ) from None
        raise ConfigurationError(f"cannot listen on {host}, port {port}: {error.strerror}.") from None
    return listener


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which would cut replies off and exit with the signal's status."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


async def _live(app: FastAPI, state: State, listener: socket.socket) -> None:
    server = _Server(
        uvicorn.Config(
            app,
            http=Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # ours says more
            server_header=False,
            proxy_headers=False,  # nothing here depends on the client's address
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=LAST_WORDS_S,
        )
    )
    signals: asyncio.Queue[str] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number.name)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    engines = [asyncio.create_task(_run_model(model, state.attestation)) for model in state.models.values()]
    telling = asyncio.create_task(_tell_progress(state, listener))
    stop = asyncio.create_task(signals.get())
    try:
        done, _ = await asyncio.wait({serving, stop, *engines}, return_when=asyncio.FIRST_COMPLETED)
        telling.cancel()
        if stop in done:
            await _drain(state, stop.result(), signals)
        for task in done & set(engines):
            task.result()
    finally:
        state.draining = True
        for task in (*engines, telling, stop):
            task.cancel()
        await asyncio.gather(*engines, telling, stop, return_exceptions=True)
        server.should_exit = True
        await serving
    log.info("stopped")


async def _run_model(model: ServedModel, attestation: Attestation | None) -> None:
    model.engine.report(Status(Phase.VERIFYING))
    if attestation:
        await asyncio.to_thread(attestation.verify_model, model.settings)
    else:
        await asyncio.to_thread(verify_checksums, model.settings.directory, model.settings.sha256)
    await model.engine.run()


async def _drain(state: State, name: str, signals: asyncio.Queue[str]) -> None:
    """Wait for running requests, until the time is up or a second signal comes."""
    state.draining = True
    log.info(
        "%s: no new requests; %d running may take %g s", name, state.in_flight, state.settings.drain_timeout_s
    )
    end = time.monotonic() + state.settings.drain_timeout_s
    while state.in_flight and signals.empty() and time.monotonic() < end:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    if state.in_flight:
        log.warning("%d requests are cut off", state.in_flight)


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
    gc.collect()
    gc.freeze()  # what the start has made lives as long as the process
    gc.set_threshold(*GC_THRESHOLD)
    console.print(f"Ready after {time.monotonic() - started:.1f} s. Try:\n", markup=False)
    console.print(_curl(url, next(iter(state.models))) + "\n", markup=False)


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
