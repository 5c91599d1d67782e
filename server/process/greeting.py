"""What a server prints on standard output while it starts and when it is ready."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time

from rich.console import Console

from server import __version__
from server.config.values import UNIX
from server.engine.served import ServedModel
from server.http.state import State
from server.observe import logs

log = logging.getLogger(__name__)

POLL_S = 0.05


async def greet(
    state: State, listener: socket.socket, name: str = "Verbatim", admin: socket.socket | None = None
) -> None:
    """Print the server's address, the progress of its models, and a request to try. Runs until cancelled."""
    if logs.is_json():
        await _say(state, listener, name, admin)
    console, started = Console(highlight=False, soft_wrap=True), time.monotonic()
    with_tls = state.settings.tls is not None
    url = url_of(listener, with_tls=with_tls)
    pages = "" if url.startswith(UNIX) else f" (documentation: {url}/docs)"
    console.print(f"{name} {__version__} listens on {url}{pages}", markup=False)
    if admin is not None and (settings := state.settings.admin) is not None:
        where = url_of(admin, with_tls=state.settings.tls is not None and settings.tls)
        console.print(f"Admin port: {where} has /metrics and /status", markup=False)
    with console.status("starting") as status:
        while not state.ready:
            status.update(" · ".join(_where(model) for model in state.models.values()))
            await asyncio.sleep(POLL_S)
    late = [name for name, model in state.models.items() if model.engine.residence.on_demand]
    told = f" Loaded on demand: {', '.join(late)}." if late else ""
    console.print(f"Ready after {time.monotonic() - started:.1f} s.{told} Try:\n", markup=False)
    console.print(_curl(url, _ready_id(state), with_tls=with_tls) + "\n", markup=False)
    await asyncio.Event().wait()


async def _say(state: State, listener: socket.socket, name: str, admin: socket.socket | None) -> None:
    """Log the same as events, for those who only read the log."""
    started, with_tls = time.monotonic(), state.settings.tls is not None
    log.info("%s %s listens on %s", name, __version__, url_of(listener, with_tls=with_tls))
    if admin is not None and (settings := state.settings.admin) is not None:
        log.info("the admin port is at %s", url_of(admin, with_tls=with_tls and settings.tls))
    while not state.ready:  # noqa: ASYNC110
        await asyncio.sleep(POLL_S)
    log.info("ready after %.1f s", time.monotonic() - started)
    await asyncio.Event().wait()


def url_of(listener: socket.socket, *, with_tls: bool = False) -> str:
    if listener.family == socket.AF_UNIX:
        return f"{UNIX}{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    scheme = "https" if with_tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _ready_id(state: State) -> str:
    """The id of a model that answers, preferably a loaded one: others may have failed for good."""
    engines = {name: model.engine for name, model in state.models.items()}
    ready = [name for name, engine in engines.items() if engine.status.ready]
    able = [name for name, engine in engines.items() if engine.can_answer]
    return (ready or able or [*engines])[0]


def _where(model: ServedModel) -> str:
    return f"{model.id}: {model.engine.status.words}, {time.monotonic() - model.engine.phase_since:.0f} s"


def _curl(url: str, model_id: str, *, with_tls: bool) -> str:
    body = json.dumps(
        {"model": model_id, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
    )
    if url.startswith(UNIX):
        scheme = "https" if with_tls else "http"
        url = f"--unix-socket {url.removeprefix(UNIX)} {scheme}://localhost"
    return (
        f"curl {url}/v3/openai/completions \\\n  -H 'Authorization: Bearer KEY' \\\n"
        f"  -H 'Content-Type: application/json' \\\n  -d '{body}'"
    )
