"""The server on vLLM's CUDA build with a simulated GPU: it starts, answers, recovers. Tokens are noise."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.serving import SMOL, SMOL_MODEL, Client, Server, serving, wait_for

RUN = Path(os.environ.get("FAKE_GPU", "/nonexistent")) / "run"
if not RUN.is_file():
    pytest.skip("FAKE_GPU names no simulated GPU: see make test-hostgpu", allow_module_level=True)
pytestmark = pytest.mark.hostgpu

ALL = {"repetition_penalty": 1.2, "frequency_penalty": 0.5, "min_p": 0.1, "logit_bias": {"7042": 5}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    model = SMOL_MODEL | {
        "max_model_len": 2048,
        "gpu_memory_utilization": 0.01,
        "engine_args": {"enforce_eager": True},
    }
    # Kernels do nothing here, the one that counts NaN included: it would find whatever was in memory.
    environ = os.environ | {"VLLM_COMPUTE_NANS_IN_LOGITS": "0"}
    folder = tmp_path_factory.mktemp("hostgpu-serve")
    with serving(folder, {"models": [model]}, verbatim=(RUN, "verbatim"), environ=environ) as server:
        server.wait_ready()
        yield server


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url(), "any") as client:
        yield client


def test_it_runs_on_the_v2_runner(server: Server) -> None:
    """vLLM's choice on CUDA, and the log says so."""
    assert f"model {SMOL}: on vLLM's V2 model runner" in server.said()


def test_a_reply_is_whole(client: Client) -> None:
    """With every transform on."""
    reply = client.complete(max_tokens=8, ignore_eos=True, **ALL)
    assert reply["usage"]["completion_tokens"] == 8


def test_a_stream_has_its_chunks(client: Client) -> None:
    """Down to the usage."""
    chunks = client.chunks(max_tokens=5, ignore_eos=True, **ALL)
    assert chunks[-1]["usage"]["completion_tokens"] == 5


def test_grammars_mask_is_applied(server: Server, client: Client) -> None:
    """vLLM's V2 runner sends it to the device and launches its kernel, beside ours."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    reply = client.complete(max_tokens=6, response_format=form, **ALL)
    assert reply["usage"]["completion_tokens"] >= 1
    assert client.get("/ready").status_code == 200


def test_candidates_are_ranked(client: Client) -> None:
    """best_of, each candidate a request of its own to the engine."""
    reply = client.complete(max_tokens=4, n=2, best_of=4, ignore_eos=True, temperature=1)
    assert [choice["index"] for choice in reply["choices"]] == [0, 1]


def test_a_killed_engine_comes_back(server: Server, client: Client) -> None:
    """kill -9 of the engine's process: the model restarts and answers again, and the dead one is gone."""
    (engine,) = psutil.Process(server.process.pid).children()
    engine.kill()
    wait_for(lambda: client.get("/ready").status_code == 503, 30)
    server.wait_ready()
    assert client.complete(max_tokens=2)["choices"]
    assert not psutil.pid_exists(engine.pid)
