"""What the death of a CUDA engine leaves on the GPU: nothing. Nobody else may use the GPU meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest

from tests.gpu import nvml
from tests.serving import ON_GPU, SMOL_MODEL, Client, Server, serving, wait_for

if not ON_GPU:
    pytest.skip("there is no NVIDIA GPU, or no CUDA build", allow_module_level=True)
pytestmark = pytest.mark.gpu

# Two starts of one engine differ by what CUDA's allocator has rounded up; weights and KV cache are larger.
SLACK_BYTES = 128 << 20
FREED_S = 10


@pytest.fixture(scope="module")
def idle_bytes() -> int:
    return nvml.used_bytes()


@pytest.fixture(scope="module")
def server(idle_bytes: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("memory"), {"models": [SMOL_MODEL]}) as server:
        server.wait_ready()
        yield server


def test_a_killed_engine_leaves_no_memory(server: Server, idle_bytes: int) -> None:
    """kill -9: the engine serves again, and the GPU holds as much as before, and not the dead process."""
    with Client(server.url(), "any") as client:
        text = client.choice(temperature=0)["text"]
        before = nvml.used_bytes()
        assert before > idle_bytes + SLACK_BYTES
        (engine,) = psutil.Process(server.process.pid).children()
        assert psutil.pid_exists(engine.pid)
        engine.kill()
        wait_for(lambda: client.get("/ready").status_code == 503, 10)
        server.wait_ready()
        assert client.choice(temperature=0)["text"] == text
    assert nvml.used_bytes() < before + SLACK_BYTES
    assert engine.pid not in nvml.pids()


def test_an_ended_server_leaves_no_memory(server: Server, idle_bytes: int) -> None:
    """SIGTERM: the GPU holds what it held before the server started."""
    server.process.terminate()
    assert server.process.wait(30) == 0
    wait_for(lambda: nvml.used_bytes() < idle_bytes + SLACK_BYTES, FREED_S)
