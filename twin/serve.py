"""`verbatim simulate`: our front end with the twin's engine, in one process."""

from __future__ import annotations

import asyncio
from functools import partial

import uvloop

from server.config.settings import Settings
from server.engine.served import ServedModel
from server.http.app import build_app
from server.http.border import Border
from server.http.state import State
from server.observe import logs
from server.process.adminport import open_admin_port, serve_admin
from server.process.descriptors import raise_limit
from server.process.greeting import greet
from server.process.groups import Groups
from server.process.port import live, open_port
from twin.faults.app import FaultyApp
from twin.faults.connection import FaultyConnection
from twin.faults.listener import FaultyServer
from twin.faults.rules import Faults
from twin.latency import Latency
from twin.models import load_models
from twin.scripted import Script
from twin.verdict.app import WatchedApp
from twin.verdict.connection import WatchedConnection
from twin.verdict.eyes import Eyes


class TwinConnection(WatchedConnection, FaultyConnection):
    """Watches what was really sent, including faults."""


def serve(
    settings: Settings,
    latency: Latency,
    script: Script | None = None,
    faults: Faults | None = None,
    load_s: float = 0.0,
) -> None:
    """Serve until a signal comes. load_s: as load_models'. Raises ConfigurationError for a port or a model
    that is not available."""
    logs.outlast_a_full_disk()
    logs.configure(settings.log_level, settings.log_format)
    raise_limit()
    faults = faults or Faults()
    with open_port(
        settings.host, settings.port, settings.slow_reader_timeout_s, mode=int(settings.socket_mode, 8)
    ) as port:
        models = load_models(settings, latency, script, load_s)
        app = build_app(settings, models)
        state: State = app.state.server
        groups = Groups(state.metrics, _nothing_to_verify)
        state.place = groups.order
        admin = open_admin_port(settings)
        beside = [_run(settings, groups, models), greet(state, port, "Verbatim's twin", admin)]
        if admin is not None:
            beside.append(serve_admin(app, state, admin))
        eyes = Eyes()
        watched = WatchedApp(FaultyApp(app, faults, state), eyes, partial(Border, state=state))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(
                live(
                    watched,
                    state,
                    port,
                    beside,
                    connection=partial(TwinConnection, faults=faults, eyes=eyes),
                    server_of=partial(FaultyServer, faults=faults),
                )
            )


async def _run(settings: Settings, groups: Groups, models: list[ServedModel]) -> None:
    """Load and unload models as in production, until cancelled."""
    groups.adopt(settings)
    for model in models:
        groups.add(model)
    await asyncio.gather(groups.run(), *(model.engine.run() for model in models))


async def _nothing_to_verify(model: ServedModel) -> None:
    """There are no weights."""
