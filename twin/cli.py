"""The command `verbatim simulate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from server.config.loading import Settings, load_settings, settings_of
from server.errors import ConfigurationError
from twin.language.store import DATA
from twin.latency import DEFAULT, PROFILES, Latency, fit, profile_of
from twin.scripted import Script, echo, read_script

MODEL = "verbatim-twin"
LogLevel = Literal["debug", "info", "warning", "error"]


def simulate(
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. [8000]")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [127.0.0.1]")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help=f"Id of a model; may be given several times. [{MODEL}]")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="A models.yaml: its ids, limits, defaults and keys, and its tokenizers if there."),
    ] = None,
    profile: Annotated[str | None, typer.Option(help=f"How fast: {', '.join(PROFILES)}. [{DEFAULT}]")] = None,
    fit_to: Annotated[
        Path | None,
        typer.Option(
            "--fit", help="As fast as a real server that `benchmarks.serving --json FILE` measured."
        ),
    ] = None,
    speed: Annotated[float, typer.Option(min=1e-3, help="How many times as fast.")] = 1.0,
    script: Annotated[Path | None, typer.Option(help="Fixed replies by prompt, a YAML file.")] = None,
    echo_prompt: Annotated[bool, typer.Option("--echo", help="Answer each prompt with itself.")] = False,
    faults: Annotated[
        Path | None, typer.Option(help="Faults of requests, a YAML file (docs/faults.md).")
    ] = None,
    load_s: Annotated[
        float,
        typer.Option("--load-s", min=0, help="Seconds that it takes to load a model on demand."),
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the jitter.")] = 0,
    log_level: Annotated[LogLevel | None, typer.Option(help="Least level that is logged. [info]")] = None,
) -> None:
    """Start a server to test clients against: the same replies to the letter, without a GPU or a model."""
    from twin.faults.rules import Faults, read_rules  # late: the application
    from twin.serve import serve

    if profile and fit_to:
        raise ConfigurationError("--profile and --fit exclude each other.")
    if script and echo_prompt:
        raise ConfigurationError("--script and --echo exclude each other.")
    chosen = fit(fit_to) if fit_to else profile_of(profile or DEFAULT)
    replies: Script | None = read_script(script) if script else echo if echo_prompt else None
    latency = Latency(chosen, speed=speed, seed=seed)
    serve(
        _settings(config, {"host": host, "port": port, "log_level": log_level}, model),
        latency,
        replies,
        Faults(read_rules(faults) if faults else None),
        load_s,
    )


def _settings(config: Path | None, overrides: dict[str, object], ids: list[str] | None) -> Settings:
    if config is not None:
        if ids:
            raise ConfigurationError("--config and --model exclude each other.")
        return load_settings(config, overrides, os.environ)
    models = [{"id": one, "path": str(DATA), "engine": "simulated"} for one in ids or [MODEL]]
    return settings_of({"models": models}, overrides, os.environ)
