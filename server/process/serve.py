"""`verbatim serve`: the process that runs the engines and answers requests, with workers beside it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

import uvloop

from server.config.settings import Settings
from server.http.app import build_app
from server.http.metrics import Metrics
from server.http.state import State
from server.observe import logs
from server.observe.attestation import Attestation, installation_root
from server.process.adminport import open_admin_port, serve_admin
from server.process.cluster import Cluster
from server.process.control import answer_reloads, place_of
from server.process.descriptors import raise_limit
from server.process.greeting import greet
from server.process.models import RunningModels
from server.process.port import live, open_ports
from server.process.reload import Reload
from server.process.workers import Workers


def serve(settings: Settings, file: Path | None = None, load: Callable[[], Settings] | None = None) -> None:
    """Serve until a signal comes. `file`: where the settings come from. `load`: reads them again. Raises
    ConfigurationError for what the machine or the configuration does not allow, and EngineFailed if the only
    engine does not start."""
    logs.outlast_a_full_disk()
    logs.configure(settings.log_level, settings.log_format)
    raise_limit()
    with contextlib.ExitStack() as stack:
        ports = open_ports(
            *(settings.host, settings.port, settings.slow_reader_timeout_s, settings.workers),
            mode=int(settings.socket_mode, 8),
        )
        for port in ports:
            stack.enter_context(port)
        admin = open_admin_port(settings)
        if admin is not None:
            stack.enter_context(admin)
        workers = stack.enter_context(Workers(settings, ports[1:]))
        metrics = Metrics(shared=workers.folder if settings.workers > 1 else None)
        attestation = Attestation(settings, file, installation_root()) if settings.attest else None
        if settings.cluster:
            _serve_in_a_cluster(settings, metrics, workers, ports[0], admin)
            return
        running = RunningModels(settings, metrics, workers, attestation)
        app = build_app(settings, running.load(settings), metrics, attestation, workers.tallies)
        state: State = app.state.server
        running.served = state.models
        if settings.workers == 1:
            state.place = running.groups.order
        if attestation:
            attestation.start()
        beside = [running.run(), workers.run(), greet(state, ports[0], admin=admin)]
        if admin is not None:
            beside.append(serve_admin(app, state, admin))
        if attestation:
            beside.append(_tell_attestation(attestation, workers))
        if load is not None:
            reload = Reload(state, running, load)
            state.change = reload.change
            beside.append(answer_reloads(place_of(ports[0]), reload.run, reload.change))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(live(app, state, ports[0], beside, workers))


def _serve_in_a_cluster(
    settings: Settings,
    metrics: Metrics,
    workers: Workers,
    port: socket.socket,
    admin: socket.socket | None,
) -> None:
    """Serve as a front end of a cluster, whose nodes run the engines."""
    cluster = Cluster(settings, metrics, workers.tallies)
    app = build_app(settings, cluster.models, metrics, tallies=workers.tallies)
    state: State = app.state.server
    state.nodes = cluster.nodes
    greeting = greet(state, port, admin=admin)
    beside = [cluster.run(), greeting, answer_reloads(place_of(port), cluster.reload)]
    if admin is not None:
        beside.append(serve_admin(app, state, admin))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(live(app, state, port, beside))


async def _tell_attestation(attestation: Attestation, workers: Workers) -> None:
    while not attestation.is_complete:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    workers.tell_attestation(attestation.document())
    await asyncio.Event().wait()
