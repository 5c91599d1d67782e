"""`verbatim models`: the models of the configuration, and their state where the server runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from server.client.failure import ClientError
from server.client.trust import CA, Cert, CertKey, Trust
from server.commands.here import HERE, endpoint_here
from server.config.loading import CONFIG_HELP, ModelSettings, Settings, load_settings
from server.engine.adapters import read_adapters
from server.engine.fit import in_words
from server.engine.served import inspect
from server.errors import ConfigurationError


def models(
    config: Annotated[
        Path | None,
        typer.Option("--config", help=CONFIG_HELP),
    ] = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    ca: CA = None,
) -> None:
    """Show the models of the configuration and, if the server runs, the state of each."""
    settings = load_settings(config, {}, os.environ)
    there = running(settings, Trust(cert, cert_key, ca, checks=False))
    table = Table("id", "engine", "context", "weights", "state", box=None)
    for model in settings.models:
        try:
            checkpoint, size = inspect(model)
            context, weights = str(size), f"{checkpoint.num_bytes / 1e6:.0f} MB"
            state, adapters = _state(model, there.get(model.id)), read_adapters(model, checkpoint)
        except ConfigurationError as error:
            known = there.get(model.id)  # the twin serves models whose files are not here
            context, weights, adapters = "?", "?", {}
            state = error.message if known is None else _state(model, known)
        table.add_row(model.id, model.engine, context, weights, state)
        for one in adapters.values():
            weights, state = f"{one.num_bytes / 1e6:.0f} MB", f"adapter of {model.id}, rank {one.rank}"
            table.add_row(one.id, "", context, weights, state)
    Console(highlight=False, markup=False).print(table)


def running(settings: Settings, trust: Trust = HERE) -> Mapping[str, Any]:
    """The state of each model, as the server on this machine reports it. Empty: no server answers."""
    try:
        _, answer = endpoint_here(settings, trust).ask_root("/ready")
    except ClientError:
        return {}
    found = answer.get("models")
    return found if isinstance(found, dict) else {}


def _state(model: ModelSettings, progress: Mapping[str, Any] | None) -> str:
    if progress is None:
        return "ready to serve" if model.load == "at_start" else "ready to serve, loaded on demand"
    said = [str(progress.get("state", progress.get("phase")))]
    if size := progress.get("size_bytes"):
        said.append(in_words(float(size)))
    if (idle := progress.get("idle_seconds")) is not None:
        said.append(f"last used {idle:.0f} s ago")
    if (before := progress.get("waits_before")) is not None:
        said.append(f"waits behind {before} others")
    return ", ".join(said)
