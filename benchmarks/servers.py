"""Starts the servers to measure, each as a process with its own command, and ends them."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from server.observe.versions import installed

START_S = 300
END_S = 60
STEP_FILE = "VERBATIM_IDLE_STEP"  # the variable that names the file: see idle_executor.py


def set_step(file: Path, seconds: float) -> None:
    """Set the duration of a step from now on."""
    with file.open("r+b" if file.exists() else "wb") as stream:
        stream.write(struct.pack("d", seconds))


@dataclass(frozen=True)
class Server:
    """port: on 127.0.0.1. log: its output. started_s: seconds from its start to ready."""

    name: str
    process: psutil.Process
    port: int
    log: Path
    started_s: float


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(
    name: str,
    command: list[str],
    port: int,
    ready: str,
    folder: Path,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """The server, from when GET `ready` answers 200 to the end of the block. Its child processes end too."""
    folder.mkdir(parents=True, exist_ok=True)
    log, began = folder / f"{name}.log", time.monotonic()
    with log.open("wb") as out:
        process = psutil.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(environ or {})}
        )
    try:
        while not _answers(f"http://127.0.0.1:{port}{ready}"):
            if process.poll() is not None or time.monotonic() - began > START_S:
                raise RuntimeError(f"{name} did not start; its last words:\n{log.read_text()[-3000:]}")
            time.sleep(0.05)
        yield Server(name, process, port, log, time.monotonic() - began)
    finally:
        children = process.children(recursive=True) if process.is_running() else []
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_S)
            except psutil.TimeoutExpired:
                process.kill()
        for child in children:
            if child.is_running():
                child.kill()


@contextmanager
def verbatim(
    folder: Path,
    models: list[dict[str, Any]],
    *,
    name: str = "ours",
    environ: Mapping[str, str] | None = None,
    **settings: Any,
) -> Iterator[Server]:
    """`verbatim serve` with these models."""
    folder.mkdir(parents=True, exist_ok=True)
    port, file = free_port(), folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"port": port, "models": models, **settings}))
    command = [str(Path(sys.executable).with_name("verbatim")), "serve", "--config", str(file)]
    with running(name, command, port, "/ready", folder, environ) as server:
        yield server


@contextmanager
def vllm(folder: Path, model: Path, flags: list[str], *, rust: Path | None = None) -> Iterator[Server]:
    """vLLM's own server, `vllm serve`, with its front end in Python, or with the given one in Rust."""
    port, name = free_port(), "vllm-rs" if rust else "vllm"
    environ = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if installed("vllm") is None:
        environ["PYTHONPATH"] = f"{os.environ.get('PYTHONPATH', '')}:{_named_vllm(folder)}"
    if rust:
        environ |= {"VLLM_USE_RUST_FRONTEND": "1", "VLLM_RUST_FRONTEND_PATH": str(rust.absolute())}
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(model)]
    command += ["--host=127.0.0.1", f"--port={port}", *flags]
    with running(name, command, port, "/health", folder, environ) as server:
        yield server


def _named_vllm(folder: Path) -> Path:
    """A folder for PYTHONPATH with the metadata of a distribution called vllm: vLLM's command line needs it,
    and its CPU build has none."""
    path = folder / "metadata"
    (path / "vllm-0.32.0+cpu.dist-info").mkdir(parents=True, exist_ok=True)
    (path / "vllm-0.32.0+cpu.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n"
    )
    return path


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10).status_code == 200
    except httpx.HTTPError:
        return False
