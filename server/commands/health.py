"""`verbatim health`: whether the server of this configuration can answer, for probes on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from server.client.failure import ClientError
from server.client.trust import CA, Cert, CertKey, Trust
from server.commands.here import endpoint_here
from server.config.loading import CONFIG_HELP, load_settings


def health(
    config: Annotated[
        Path | None,
        typer.Option("--config", help=CONFIG_HELP),
    ] = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    ca: CA = None,
) -> None:
    """Ask the server on this machine whether it can answer requests.

    The configuration says where it listens; the admin port is asked if there is one. Exit code 0: every model
    can answer. 1: a model cannot, or the server does not answer.
    """
    settings = load_settings(config, {}, os.environ)
    try:
        status, answer = endpoint_here(settings, Trust(cert, cert_key, ca, checks=False)).ask_root("/ready")
    except ClientError as error:
        print(f"verbatim: {error}", file=sys.stderr)
        raise typer.Exit(1) from None
    if status != 200:
        phases = ", ".join(
            f"{name}: {model.get('phase')}" for name, model in answer.get("models", {}).items()
        )
        print(f"verbatim: {answer.get('status')} ({phases})", file=sys.stderr)
        raise typer.Exit(1)
    print("ready")
