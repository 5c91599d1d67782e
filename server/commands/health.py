"""`verbatim health`: whether the server of this configuration can answer, for probes of this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from server.client.failure import ClientError
from server.client.trust import CA, Cert, CertKey, Trust
from server.commands.here import endpoint_here
from server.config.loading import load_settings


def health(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="The server's file; default: VERBATIM_CONFIG, ./models.yaml, or the built-in model.",
        ),
    ] = None,
    cert: Cert = None,
    cert_key: CertKey = None,
    ca: CA = None,
) -> None:
    """Ask the server of this configuration on this machine whether it can answer.

    At its admin port, or else at its port, with TLS or on a Unix socket as the configuration says. Exit
    code 0 when every model can answer, 1 when not, or nothing answers.
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
