"""Models of one GPU that sleep to make room for each other: the server on vLLM's CUDA build with a simulated
GPU. That their engines sleep and wake as they are told; tokens are noise, and times are the host's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.serving import SMOL_MODEL, START_S, Client, Server, serving, wait_for

RUN = Path(os.environ.get("FAKE_GPU", "/nonexistent")) / "run"
if not RUN.is_file():
    pytest.skip("FAKE_GPU names no simulated GPU: see make test-hostgpu", allow_module_level=True)
pytestmark = [pytest.mark.hostgpu, pytest.mark.timeout(900)]  # two starts, on any machine

LEVELS = {"a": 1, "b": 2}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two models that have to share, each of which sleeps at a level of its own."""
    common = SMOL_MODEL | {
        "max_model_len": 2048,
        "gpu_memory_utilization": 0.01,
        "engine_args": {"enforce_eager": True},
        "load": "on_demand",
        "size_gib": 2,
        "asleep_gib": 0.5,
    }
    models = [common | {"id": name, "sleep_level": level} for name, level in LEVELS.items()]
    groups = {"g": {"models": [*LEVELS], "memory_gib": 3, "min_loaded_s": 0}}
    environ = os.environ | {"VLLM_COMPUTE_NANS_IN_LOGITS": "0"}
    folder = tmp_path_factory.mktemp("hostgpu-swap")
    config = {"models": models, "groups": groups}
    with serving(folder, config, verbatim=(RUN, "verbatim"), environ=environ) as server:
        server.wait_ready()
        yield server


def state(server: Server, name: str) -> str:
    with Client(server.url(), "any", name) as client:
        return str(client.get("/ready").json()["models"][name]["state"])


def answers(server: Server, name: str) -> None:
    with Client(server.url(), "any", name) as client:
        client.timeout = START_S  # it may have to be started
        reply = client.complete(max_tokens=8, ignore_eos=True, repetition_penalty=1.2, min_p=0.1)
    assert reply["usage"]["completion_tokens"] == 8


def engines(server: Server) -> set[int]:
    return {one.pid for one in psutil.Process(server.process.pid).children()}


def test_each_is_woken_by_its_next_request(server: Server) -> None:
    """At both levels, twice; no process is started or ended for it."""
    answers(server, "a")
    answers(server, "b")
    assert (state(server, "a"), state(server, "b")) == ("asleep", "loaded")
    there = engines(server)
    for awake, asleep in ("ab", "ba", "ab", "ba"):
        answers(server, awake)
        assert (state(server, awake), state(server, asleep)) == ("loaded", "asleep")
    assert engines(server) == there
    said = server.said()
    assert "could not be woken" not in said
    assert "cannot sleep" not in said


def test_one_that_is_killed_in_its_sleep(server: Server) -> None:
    """Is unloaded, and its next request starts it again."""
    before = engines(server)
    asleep = next(name for name in LEVELS if state(server, name) == "asleep")
    children = sorted(psutil.Process(server.process.pid).children(), key=lambda one: one.create_time())
    children[[*LEVELS].index(asleep)].kill()  # they were started in this order
    wait_for(lambda: state(server, asleep) == "unloaded", 30)
    answers(server, asleep)
    assert len(engines(server) - before) == 1
