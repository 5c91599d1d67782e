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
        list[str] | None, typer.Option(help=f"Id of a model; may be repeated. [{MODEL}]")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="Take model ids, limits, defaults, keys and tokenizers from this models.yaml."
            " Models without files get the built-in tokenizer."
        ),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help=f"Speed to simulate: {', '.join(PROFILES)}. [{DEFAULT}]")
    ] = None,
    fit_to: Annotated[
        Path | None,
        typer.Option(
            "--fit",
            help="Simulate the speed of a real server: the file that `benchmarks.serving --json` wrote.",
        ),
    ] = None,
    speed: Annotated[float, typer.Option(min=1e-3, help="Factor on the speed; 2 is twice as fast.")] = 1.0,
    script: Annotated[Path | None, typer.Option(help="YAML file with fixed replies by prompt.")] = None,
    echo_prompt: Annotated[
        bool, typer.Option("--echo", help="Reply to each prompt with the prompt.")
    ] = False,
    faults: Annotated[
        Path | None, typer.Option(help="YAML file that says which requests fail, and how (docs/faults.md).")
    ] = None,
    load_s: Annotated[
        float,
        typer.Option("--load-s", min=0, help="Seconds that a model with `load: on_demand` takes to load."),
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the random part of the delays.")] = 0,
    log_level: Annotated[LogLevel | None, typer.Option(help="Lowest level that is logged. [info]")] = None,
) -> None:
    """Start a simulated server to test clients against: the same API, without a GPU or a model."""
    from twin.faults.rules import Faults, read_rules  # imported late: the application is slow to import
    from twin.serve import serve

    if profile and fit_to:
        raise ConfigurationError("--profile and --fit cannot be given together.")
    if script and echo_prompt:
        raise ConfigurationError("--script and --echo cannot be given together.")
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
            raise ConfigurationError("--config and --model cannot be given together.")
        return load_settings(config, overrides, os.environ)
    models = [{"id": one, "path": str(DATA), "engine": "simulated"} for one in ids or [MODEL]]
    return settings_of({"models": models}, overrides, os.environ)
