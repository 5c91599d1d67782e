"""`verbatim models`: what would be served, and how far the server is that serves it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from server.client.endpoint import ClientError, Endpoint
from server.config.loading import ModelSettings, Settings, load_settings
from server.config.values import socket_path
from server.engine.adapters import read_adapters
from server.engine.fit import in_words
from server.engine.served import inspect
from server.errors import ConfigurationError

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # listened on, and where that is reached


def models(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="The file; else VERBATIM_CONFIG, ./models.yaml, the built-in model alone."
        ),
    ] = None,
) -> None:
    """Show the models that would be served; of a server that runs, which are loaded."""
    settings = load_settings(config, {}, os.environ)
    there = running(settings)
    table = Table("id", "engine", "context", "weights", "state", box=None)
    for model in settings.models:
        try:
            checkpoint, size = inspect(model)
            context, weights = str(size), f"{checkpoint.num_bytes / 1e6:.0f} MB"
            state, adapters = _state(model, there.get(model.id)), read_adapters(model, checkpoint)
        except ConfigurationError as error:
            known = there.get(model.id)  # by a server that runs without its files, the twin
            context, weights, adapters = "?", "?", {}
            state = error.message if known is None else _state(model, known)
        table.add_row(model.id, model.engine, context, weights, state)
        for one in adapters.values():
            weights, state = f"{one.num_bytes / 1e6:.0f} MB", f"adapter of {model.id}, rank {one.rank}"
            table.add_row(one.id, "", context, weights, state)
    Console(highlight=False, markup=False).print(table)


def running(settings: Settings) -> Mapping[str, Any]:
    """What a server of this configuration says here of each of its models; empty: none answers."""
    scheme = "http" if settings.tls is None else "https"
    host = ANYWHERE.get(settings.host, settings.host)
    url = host if socket_path(host) else f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"
    try:
        _, answer = Endpoint(url, "").ask_root("/ready")
    except ClientError:
        return {}
    found = answer.get("models")
    return found if isinstance(found, dict) else {}


def _state(model: ModelSettings, progress: Mapping[str, Any] | None) -> str:
    if progress is None:
        return "ready to serve" if model.load == "at_start" else "ready to serve, loaded when asked for"
    said = [str(progress.get("state", progress.get("phase")))]
    if size := progress.get("size_bytes"):
        said.append(in_words(float(size)))
    if (idle := progress.get("idle_seconds")) is not None:
        said.append(f"last used {idle:.0f} s ago")
    if (before := progress.get("waits_before")) is not None:
        said.append(f"waits, {before} before it")
    return ", ".join(said)
