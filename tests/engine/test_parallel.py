"""An engine of several processes, here on the CPU: none of them outlives what it belongs to."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.serving import ON_GPU, TINY, Client, Server, serving, tiny_model, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.skipif(ON_GPU, reason="one GPU is not two")]

# Of itself vLLM wants a memory node for each worker of a CPU.
ENVIRON = {**os.environ, "VLLM_CPU_OMP_THREADS_BIND": "0|1"}
GONE_S = 30.0
HEARD_S = 10.0  # of itself nothing would be heard for hang_timeout_s


def processes_of(server: Server) -> tuple[psutil.Process, list[psutil.Process]]:
    """The engine's first process, and its workers."""
    found = server.engines()
    (engine,) = [process for process in found if process.name() == "VLLM::EngineCore"]
    workers = [process for process in found if process.name().startswith("VLLM::Worker")]
    return engine, workers


def wait_until_gone(processes: list[psutil.Process]) -> None:
    def gone() -> bool:
        return not any(
            process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes
        )

    wait_for(gone, GONE_S)


@pytest.mark.long
def test_a_stopped_worker_goes_with_its_engine_and_with_the_server(tiny_path: Path, tmp_path: Path) -> None:
    """kill -9 of the engine's first process, and later of the server, while a worker cannot see it: all are
    gone within seconds, the death is heard at once, and the next engine starts in between."""
    config = {"models": [tiny_model(tiny_path, tensor_parallel_size=2)]}
    with serving(tmp_path, config, environ=ENVIRON) as server, Client(server.url(), "any") as client:
        server.wait_ready()
        engine, workers = processes_of(server)
        assert len(workers) == 2
        os.kill(workers[0].pid, signal.SIGSTOP)
        killed = time.monotonic()
        engine.kill()
        wait_for(lambda: client.get("/ready").status_code == 503, HEARD_S)
        print(f"heard after {time.monotonic() - killed:.2f} s")
        wait_until_gone([engine, *workers])
        server.wait_ready()
        assert client.complete(model=TINY, max_tokens=3, ignore_eos=True)["usage"]["completion_tokens"] == 3
        engine, workers = processes_of(server)
        os.kill(workers[1].pid, signal.SIGSTOP)
        server.process.kill()
        server.process.wait()
        wait_until_gone([engine, *workers])
