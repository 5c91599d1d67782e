"""Servers that a Prometheus watches: one with a real engine, one with TLS, one with an admin port."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.load import ask
from benchmarks.servers import free_port
from tests.certificates import Authority
from tests.deploy.configuration import variants
from tests.engine.conftest import smol_path, tiny_path
from tests.helpers import byte_level, model_directory
from tests.monitoring.prometheus import PROGRAM, Prometheus, prometheus
from tests.serving import TINY, Client, Server, serving, tiny_model, wait_for

__all__ = ["smol_path", "tiny_path"]

NUM_STREAMS, NUM_TOKENS = 16, 100


@dataclass(frozen=True)
class Watched:
    """server: has the tiny model on vLLM's engine; invented, on a simulated one; and rare, which is
    loaded on demand."""

    server: Server
    prometheus: Prometheus

    def load(self, model: str, num_tokens: int) -> None:
        """Streams, all at once, to their ends."""
        body = {"model": model, "max_tokens": num_tokens, "ignore_eos": True, "stream": True}
        bodies = [json.dumps(body | {"prompt": f"Story {k}"}) for k in range(NUM_STREAMS)]
        ask(int(self.server.url().rpartition(":")[2]), "/v1/completions", bodies)

    def client(self, model: str = TINY) -> Client:
        return Client(self.server.url(), "any", model)


@pytest.fixture(scope="session")
def watched(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """After a load on each model, one request that is refused, and the unloading of the one that is rare."""
    if shutil.which(PROGRAM) is None:
        pytest.skip("prometheus is not installed")
    folder = tmp_path_factory.mktemp("monitoring")
    path = str(model_directory(folder / "model", byte_level(), context_size=4096))
    invented = {"id": "invented", "path": path, "engine": "simulated"}
    rare = invented | {"id": "rare", "load": "on_demand", "unload_after_s": 1}
    authority, admin_port = Authority(folder), free_port()
    pair = authority.pair("server")
    tls = {"cert": str(pair.cert), "key": str(pair.key)}
    admin = {"host": "127.0.0.1", "port": admin_port, "tls": False}
    configs: dict[str, dict[str, Any]] = {
        "first": {"models": [tiny_model(tiny_path), invented, rare]},
        "second": {"models": [invented], "tls": tls},
        "third": {"models": [invented], "tls": tls, "admin": admin},
    }
    with ExitStack() as stack:
        servers = []
        for name, config in configs.items():
            servers.append(stack.enter_context(serving(folder / name, config)))
            servers[-1].wait_ready()  # one after the other, on a machine with two cores
        first, second, _ = servers
        gone = f"127.0.0.1:{free_port()}"
        ports = [f"127.0.0.1:{admin_port}", second.url().partition("//")[2]]
        jobs = [_job("verbatim", first.url().partition("//")[2]), _job("verbatim-gone", gone)]
        for number, (name, target) in enumerate(zip(("admin", "tls"), ports, strict=True)):
            (job,) = yaml.safe_load(variants()[number])["scrape_configs"]
            if "tls_config" in job:
                job["tls_config"] = {"ca_file": str(authority.cert)}
            jobs.append(job | _job(f"verbatim-{name}", target))
        watched = Watched(first, stack.enter_context(prometheus(folder, jobs)))
        wait_for(lambda: watched.prometheus.query('up{job="verbatim"} == 1'), 60, every_s=0.2)
        for model in ("invented", "rare", TINY):
            watched.load(model, NUM_TOKENS)
        with watched.client() as client:
            assert client.ask(n=0).status_code == 400
        unloaded = 'verbatim_model_unloads_total{model="rare",why="idle"} == 1'
        wait_for(lambda: watched.prometheus.query(unloaded), 60, every_s=0.2)
        yield watched


def _job(name: str, target: str) -> dict[str, Any]:
    return {"job_name": name, "static_configs": [{"targets": [target]}]}
