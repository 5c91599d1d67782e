"""`verbatim check`: what would keep the server from starting, and how much fits into its memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import psutil
import typer
from pydantic import ByteSize, TypeAdapter, ValidationError
from rich.console import Console

from server.access.keys import Keyring
from server.access.terms import Rules
from server.commands.progress import bars, progress
from server.config.loading import CONFIG_HELP, ModelSettings, Settings, load_settings
from server.config.sections import TLS
from server.engine.adapters import read_adapters
from server.engine.fit import fit, shared_out, undivided
from server.engine.served import inspect
from server.engine.vllm.devices import check_devices, check_engine_args, check_sleep_level, memory
from server.errors import ConfigurationError
from server.http.certificates import read_context
from server.http.expiry import end_of, said
from server.observe.versions import CPU_BUILD, installed
from server.weights.checkpoint import Report, verify_checksums

GPU_MEMORY_HELP = "Memory of each GPU, such as 80GiB. Default: what the driver reports."


def check(
    config: Annotated[
        Path | None,
        typer.Option("--config", help=CONFIG_HELP),
    ] = None,
    gpu_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help=GPU_MEMORY_HELP),
    ] = None,
) -> None:
    """Check configuration, weights, checksums and memory, without loading a model.

    Exit code 0: `verbatim serve` can start. 1: a model, the key file or the certificate cannot be used. 2:
    the configuration is wrong."""
    size = stated(gpu_memory)
    settings = load_settings(config, {}, os.environ)
    console, failed = Console(highlight=False), False
    failed |= not _passes(console, "API keys", lambda: _check_keys(settings))
    if (tls := settings.tls) is not None:
        failed |= not _passes(console, "TLS", lambda: _check_tls(tls))
    for model in settings.models:
        with progress() as shown:
            report = bars(shown)
            failed |= not _passes(console, model.id, lambda: _check_model(model, size, report))  # noqa: B023
    if not failed:
        failed |= not _passes(console, "memory", lambda: _check_memory(settings, size))
    if failed:
        raise typer.Exit(1)


def stated(text: str | None) -> float | None:
    """The option --gpu-memory in bytes. Raises ConfigurationError if it is no size."""
    try:
        return None if text is None else TypeAdapter(ByteSize).validate_python(text)
    except ValidationError:
        raise ConfigurationError(
            f"--gpu-memory is {text}, which is no size; write one such as 80GiB."
        ) from None


def gpu_memory_of(model: ModelSettings, said: float | None) -> float | None:
    """Bytes of each of a model's GPUs. None: the model runs on the CPU, or this machine has no GPU."""
    if said is not None or installed(CPU_BUILD):
        return said
    return min(memory(), default=None)


def _passes(console: Console, name: str, verify: Callable[[], str]) -> bool:
    try:
        console.print(f"ok      {name}: {verify()}", markup=False, soft_wrap=True)
    except ConfigurationError as error:
        console.print(f"failed  {name}: {error.message}", markup=False, soft_wrap=True)
        return False
    return True


def _check_keys(settings: Settings) -> str:
    rules = Rules(settings.rate_limits, settings.key_groups)
    ring = Keyring(settings.api_keys, settings.api_keys_file, rules)
    return (
        "none, so the server listens on loopback only and accepts any key"
        if ring.open
        else f"{ring.num_usable()} can be used"
    )


def _check_tls(tls: TLS) -> str:
    read_context(tls)
    clients = "" if tls.client_ca is None else f", clients need a certificate of {tls.client_ca}"
    ends = end_of(tls.cert)
    if ends is not None and ends < datetime.now(UTC):
        raise ConfigurationError(f"tls: the certificate in {tls.cert} {said(ends)}")
    until = f", valid until {ends:%Y-%m-%d %H:%M} UTC" if ends is not None else ""
    return f"the key fits the certificate in {tls.cert}{until}{clients}"


def _check_model(model: ModelSettings, gpu_memory: float | None, report: Report) -> str:
    checkpoint, size = inspect(model)
    adapters = read_adapters(model, checkpoint)
    if gpu_memory is None:  # with --gpu-memory the configuration is for another machine
        check_devices(model)
        check_sleep_level(model)
        check_engine_args(model)
    names = ", ".join(checkpoint.architecture.names) or "no architecture"
    weights = f"{checkpoint.num_bytes / 1e6:.0f} MB of weights" if checkpoint.weights else "no weights"
    taken = ""
    if model.engine != "simulated":
        found = fit(model, checkpoint, size, gpu_memory_of(model, gpu_memory))
        if problem := undivided(model, checkpoint) or found.problem():
            raise ConfigurationError(problem)
        taken = f", {found.sentence()}"
    count = verify_checksums(model.directory, model.sha256, report)
    digests = f"{count} checksums match" if count else "no checksums to compare"
    ranks = ", ".join(f"{one.id} (rank {one.rank})" for one in adapters.values())
    told = f", adapters {ranks}" if ranks else ""
    return f"{names}, {size} tokens of context, {weights}, {digests}{taken}{told}"


def _check_memory(settings: Settings, gpu_memory: float | None) -> str:
    """Check that all models together fit into the memory. Raises ConfigurationError."""
    on_cpu = gpu_memory is None and installed(CPU_BUILD)
    return shared_out(settings.models, psutil.virtual_memory().total if on_cpu else None)
