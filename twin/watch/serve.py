"""Serves the watched application on its port, until a signal comes."""

from __future__ import annotations

import asyncio
import socket
from functools import partial

import uvloop
from rich.console import Console
from starlette.types import ASGIApp

from server import __version__
from server.access.keys import Keyring
from server.access.limits import RateLimits
from server.access.tallies import Tallies
from server.config.settings import Settings
from server.http.border import Border
from server.http.state import State
from server.observe import logs
from server.process.descriptors import raise_limit
from server.process.greeting import url_of
from server.process.port import live, open_port
from twin.verdict.app import VERDICT, WatchedApp
from twin.verdict.connection import WatchedConnection
from twin.verdict.eyes import Eyes
from twin.watch.edge import Edge


def state_of_none() -> State:
    """The state of a server without models and keys: the other server has both."""
    settings = Settings.model_construct(models=())
    return State(settings, {}, Keyring((), None), RateLimits(Tallies()))


def watched(answers: ASGIApp, state: State, eyes: Eyes) -> ASGIApp:
    return WatchedApp(Edge(answers, state), eyes, partial(Border, state=state))


def serve(answers: ASGIApp, host: str, port: int, what: str) -> None:
    """what: what it does, for the greeting. Raises ConfigurationError for a port that is not available."""
    state, eyes = state_of_none(), Eyes()
    logs.outlast_a_full_disk()
    logs.configure(state.settings.log_level, state.settings.log_format)
    raise_limit()
    with (
        open_port(host, port, state.settings.slow_reader_timeout_s) as listener,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(
            live(
                watched(answers, state, eyes),
                state,
                listener,
                [_greet(listener, what)],
                connection=partial(WatchedConnection, eyes=eyes),
            )
        )


async def _greet(listener: socket.socket, what: str) -> None:
    url = url_of(listener)
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"Verbatim's watch {__version__} listens on {url} and {what}", markup=False)
    console.print(f"Ready. The verdict on its clients: {url}{VERDICT}", markup=False)
    await asyncio.Event().wait()
