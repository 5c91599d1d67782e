"""The life of engines and their server: start, clients that leave, deaths, drains, nothing left behind."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.engine.conftest import KEYS, Started
from tests.serving import (
    ANSWER_S,
    BROKEN_ID,
    CAPITAL,
    SMOL,
    SMOL_MODEL,
    TINY,
    Client,
    Server,
    frames,
    serving,
    tiny_model,
    wait_for,
)
from tests.timing import assert_within, seconds_until

pytestmark = pytest.mark.engine

LONG: dict[str, Any] = {"model": SMOL, "prompt": CAPITAL, "max_tokens": 4000, "ignore_eos": True, "n": 4}
# About six seconds of the tiny model with a longer context.
BUSY: dict[str, Any] = {"model": TINY, "prompt": CAPITAL, "max_tokens": 1500, "ignore_eos": True, "seed": 1}
LEAVES_S = 1.0
PROMPTLY_S = 30.0
# A first request that compiles takes 4 to 20 s more; without, two equal requests differ by tenths.
FIRST_MAY_BE_SLOWER_S = 2.0


def test_port_is_open_before_the_engines_are(started: Started) -> None:
    """/health answers 200 at once; /ready 503 with every model's phase, then 200."""
    assert started.health_status == 200
    *before, after = started.answers
    assert {answer["status"] for answer in before} == {503}
    for model in (SMOL, TINY):
        phases = [answer["phases"][model] for answer in started.answers]
        assert [phase for phase in ("importing", "loading weights", "warming up") if phase in phases]
        assert phases[-1] == "ready"
    assert after["body"]["status"] == "ready"


def test_two_models_answer_under_their_own_ids(client: Client) -> None:
    """At the same time, each with its own engine."""
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(lambda model: client.choice(model=model, temperature=0)["text"], [SMOL, TINY]))
    assert texts[0].startswith(" Paris.")
    assert not texts[1].startswith(" Paris.")


def test_first_request_with_logprobs_is_not_slower(started: Started) -> None:
    """Everything that compiles or allocates lazily has been warmed up when /ready says so."""
    assert started.first_s < 3 * started.second_s + FIRST_MAY_BE_SLOWER_S


def test_metrics_have_both_engines_gauges(client: Client) -> None:
    """vLLM's own, told apart by model_name, and ours beside them."""
    text = client.get("/metrics").text
    for model in (SMOL, TINY):
        for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
            assert f'vllm:{name}{{engine="0",model_name="{model}"}}' in text
        assert f'verbatim_model_ready{{model="{model}"}} 1.0' in text
        assert client.metric(f'verbatim_engine_restarts{{model="{model}"}}') == 0
    assert text.count("# TYPE vllm:num_requests_running gauge") == 1


def test_metrics_count_by_model_and_key(client: Client) -> None:
    """Requests, tokens and errors, with the key's name and not the key."""
    labels = f'{{key="alice",model="{TINY}"}}'
    names = ("verbatim_prompt_tokens_total", "verbatim_completion_tokens_total")
    before = [client.metric(name + labels) for name in names]
    client.complete(model=TINY, max_tokens=7, ignore_eos=True, n=2)
    assert client.ask(model=TINY, unknown=1).status_code == 400
    assert [client.metric(name + labels) for name in names] == [before[0] + 5, before[1] + 14]
    assert KEYS["alice"] not in client.get("/metrics").text
    assert (
        f'verbatim_requests_total{{key="alice",model="{TINY}",status="200"}}' in client.get("/metrics").text
    )


def test_metrics_of_the_engine_count_requests(client: Client) -> None:
    """vLLM's own counters and histograms move by what a request was."""
    labels = f'{{engine="0",model_name="{TINY}"}}'
    length = f'{{engine="0",finished_reason="length",model_name="{TINY}"}}'
    moves = {
        f"vllm:prompt_tokens_total{labels}": 2 * 5,  # each candidate has its prompt
        f"vllm:generation_tokens_total{labels}": 14,
        f"vllm:request_success_total{length}": 2,
        f"vllm:time_to_first_token_seconds_count{labels}": 2,
        f"vllm:request_time_per_output_token_seconds_count{labels}": 2,
        f"vllm:e2e_request_latency_seconds_count{labels}": 2,
    }
    before = {name: client.metric(name) for name in moves}
    client.complete(model=TINY, max_tokens=7, ignore_eos=True, n=2)
    assert {name: client.metric(name) - before[name] for name in moves} == moves


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "candidates", [{"n": 4}, {"n": 1, "prompt": [CAPITAL, "One", "Two"]}], ids=["n", "prompts"]
)
def test_client_that_leaves_stops_its_generation(
    client: Client, stream: bool, candidates: dict[str, Any]
) -> None:
    """Long before its end, streamed or not, for every candidate."""
    count = 4 if candidates["n"] == 4 else 3
    assert_within(
        LEAVES_S, lambda: _seconds_after_leaving(client, LONG | candidates | {"stream": stream}, count)
    )


def test_ranked_candidates_stop_with_their_client(client: Client) -> None:
    """Also those that would never have been returned."""
    assert_within(LEAVES_S, lambda: _seconds_after_leaving(client, LONG | {"n": 1, "best_of": 5}, 5))


def test_stop_sequence_ends_the_engines_work(client: Client) -> None:
    """The engine does not know the sequence: the server ends the candidate."""

    def stopped() -> float:
        client.complete(**LONG | {"n": 2, "stop": " ", "temperature": 0})
        return seconds_until(lambda: client.running(SMOL) == 0)

    assert_within(LEAVES_S, stopped)


# Two servers of a tiny model each, started together to save time: one, whose requests do not outlive their
# engine, loses that and is then told to end; the other one, whose model is broken, is killed.


@pytest.fixture(scope="module")
def servers(
    tiny_path: Path, broken_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Server]]:
    configs = [
        {"models": [tiny_model(path) | {"max_model_len": 2048}], "drain_timeout_s": 300}
        for path in (tiny_path, broken_path)
    ]
    configs[0]["resume"] = False
    configs[1]["workers"] = 2
    folder = tmp_path_factory.mktemp("servers")
    with serving(folder / "mortal", configs[0]) as mortal, serving(folder / "doomed", configs[1]) as doomed:
        mortal.wait_ready()
        doomed.wait_ready()
        yield mortal, doomed


@pytest.fixture
def mortal(servers: tuple[Server, Server]) -> Server:
    return servers[0]


@pytest.fixture
def mortal_client(mortal: Server) -> Iterator[Client]:
    with Client(mortal.url(), "any") as client:
        yield client


def test_death_of_the_engine_without_resuming(mortal: Server, mortal_client: Client) -> None:
    """kill -9: streams end with one error frame, replies are a 503, and so is /ready, until it comes back."""
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(mortal_client.ask, **BUSY)
        stream = pool.submit(mortal_client.ask, **BUSY, stream=True, n=2)
        wait_for(lambda: mortal_client.running(TINY) == 3, 30)
        before = mortal.engines()
        _engine_process(before).kill()
        wait_for(lambda: mortal_client.get("/ready").status_code == 503, 30)
        refused = mortal_client.ask(model=TINY)
        _assert_unavailable(whole.result(30))
        _assert_unavailable(refused)
        _assert_one_error_frame(stream.result(30))
    mortal.wait_ready()
    assert (
        mortal_client.complete(model=TINY, max_tokens=5, ignore_eos=True)["usage"]["completion_tokens"] == 5
    )
    assert mortal_client.metric(f'verbatim_engine_restarts{{model="{TINY}"}}') == 1
    assert not _engines_of(before)


def test_sigterm_drains(mortal: Server, mortal_client: Client) -> None:
    """/ready and new requests are a 503, running ones finish, then exit code 0 and no process left."""
    engines = mortal.engines()
    with ThreadPoolExecutor(2) as pool:
        whole = pool.submit(mortal_client.complete, **BUSY)
        stream = pool.submit(mortal_client.chunks, **BUSY)
        wait_for(lambda: mortal_client.running(TINY) == 2, 30)
        mortal.process.send_signal(signal.SIGTERM)
        wait_for(lambda: mortal_client.get("/ready").status_code == 503, 30)
        assert mortal_client.get("/health").status_code == 200
        _assert_unavailable(mortal_client.ask(model=TINY))
        assert whole.result(120)["usage"]["completion_tokens"] == BUSY["max_tokens"]
        assert stream.result(120)[-1]["usage"]["completion_tokens"] == BUSY["max_tokens"]
    assert mortal.process.wait(30) == 0
    assert not _engines_of(engines)
    wait_for(lambda: not _still_there(engines), 30)  # multiprocessing's own helper ends after its parent


def test_workers_share_an_engine(servers: tuple[Server, Server]) -> None:
    """Whichever process has a connection: the same seed, the same text; a client that leaves stops its work;
    when the engine dies, what runs goes on in the next one, to the text of an undisturbed run."""
    server, seeded = servers[1], BUSY | {"max_tokens": 40}
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(8) as pool:
        clients = [stack.enter_context(Client(server.url(), "any")) for _ in range(8)]
        texts = pool.map(lambda client: client.choice(**seeded)["text"], clients)
        assert len(set(texts)) == 1
        for client in clients[:4]:
            assert_within(
                LEAVES_S, lambda client=client: _seconds_after_leaving(client, BUSY, 1, clients[-1])
            )
        greedy = BUSY | {"temperature": 0, "max_tokens": 700}
        whole = clients[0].choice(**greedy)["text"]
        running = [pool.submit(client.choice, **greedy) for client in clients]
        wait_for(lambda: clients[-1].running(TINY) == 8, 30)
        _engine_process(server.engines()).kill()
        assert [one.result()["text"] for one in running] == [whole] * 8
        assert clients[0].metric(f'verbatim_resumed_total{{engine="0",model="{TINY}"}}') == 8
        assert all(client.get("/ready").status_code == 200 for client in clients)


def test_nan_fails_its_request_alone(servers: tuple[Server, Server]) -> None:
    """A prompt that makes NaN is a 500, streamed or not, and the log says why; what runs beside it, and comes
    after it, is as it would be without."""
    server = servers[1]
    with Client(server.url(), "any") as client, ThreadPoolExecutor(8) as pool:
        asked = {"model": TINY, "prompt": CAPITAL, "max_tokens": 60, "ignore_eos": True, "temperature": 0}
        alone = client.choice(**asked)["text"]
        broken = asked | {"prompt": [*[504] * 60, BROKEN_ID, *[314] * 60]}
        others = [pool.submit(client.choice, **asked) for _ in range(4)]
        failed = [pool.submit(client.ask, **broken, stream=stream) for stream in (False, True, False)]
        for response in (one.result() for one in failed):
            assert (response.status_code, response.json()["reason"]) == (500, "INTERNAL_ERROR")
        assert [one.result()["text"] for one in others] == [alone] * 4
        for _ in range(3):  # nothing else runs, so this gets the blocks of the KV cache that had the NaN
            assert client.ask(**broken).status_code == 500
            assert client.choice(**asked)["text"] == alone
        wait_for(lambda: client.running(TINY) == 0, 30)
    wait_for(lambda: "logits are NaN" in server.said(), 30)


def test_kill_of_the_server_takes_its_engine_along(servers: tuple[Server, Server]) -> None:
    """kill -9 of the server: soon no process of its engine is left, long before its work would be done."""
    server = servers[1]
    engines = server.engines()
    assert _engine_process(engines)
    with Client(server.url(), "any") as client, _asking(client, BUSY | {"n": 64}):
        wait_for(lambda: client.running(TINY) > 0, 60)  # all 64 at once may be too many for a busy machine
        server.process.kill()
        server.process.wait()
        wait_for(lambda: not _still_there(engines), 15)


def _imports_torch(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any("libtorch" in file.path for file in process.memory_maps())
    return False


def _is_engine(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.name() == "VLLM::EngineCore"
    return False


@pytest.mark.parametrize("has_begun", [_imports_torch, _is_engine])
def test_sigterm_while_starting(
    tiny_path: Path, tmp_path: Path, has_begun: Callable[[psutil.Process], bool]
) -> None:
    """Exit code 0 within seconds, and no process left, amid the import and amid the engine's start."""
    with serving(tmp_path, {"models": [tiny_model(tiny_path)]}) as server:
        wait_for(lambda: any(map(has_begun, server.engines())), 60)
        assert httpx.get(server.url() + "/ready", timeout=ANSWER_S).status_code == 503
        processes = server.engines()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PROMPTLY_S) == 0
        wait_for(lambda: not _still_there(processes), 30)
    assert "Traceback" not in server.said()


def test_taken_port_is_one_paragraph(smol_path: Path, tmp_path: Path) -> None:
    """Exit code 2, and what to type instead."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with serving(tmp_path, {"models": [SMOL_MODEL], "port": port}) as server:
            assert server.process.wait(30) == 2
    assert f"port {port} on 127.0.0.1 is taken" in server.said()
    assert "Traceback" not in server.said()
    assert len(server.said().strip().splitlines()) == 1


def test_unknown_engine_argument_names_the_nearest(tiny_path: Path, tmp_path: Path) -> None:
    """It ends the start, before any engine process is made."""
    model = tiny_model(tiny_path) | {"engine_args": {"enable_prefix_cachin": False}}
    with serving(tmp_path, {"models": [model]}) as server:
        assert server.process.wait(90) == 2
    assert "enable_prefix_cachin" in server.said()
    assert "enable_prefix_caching" in server.said()
    assert "Traceback" not in server.said()


@contextlib.contextmanager
def _asking(client: Client, body: dict[str, Any]) -> Iterator[None]:
    """A request whose client leaves at the end of the block, without a word."""
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: {client.headers['authorization']}\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as connection:
        connection.sendall(head.encode() + content)
        yield


def _seconds_after_leaving(
    client: Client, body: dict[str, Any], num_candidates: int, watcher: Client | None = None
) -> float:
    """How long the engine still works on a request whose client has left."""
    watcher = watcher or client
    with _asking(client, body):
        wait_for(lambda: watcher.running(body["model"]) == num_candidates, 30)
    return seconds_until(lambda: watcher.running(body["model"]) == 0)


def _assert_unavailable(response: httpx.Response) -> None:
    assert (response.status_code, response.json()["reason"]) == (503, "SERVICE_NOT_AVAILABLE")
    assert 0 < int(response.headers["retry-after"]) <= 60


def _assert_one_error_frame(response: httpx.Response) -> None:
    *chunks, failure, done = frames(response.text)
    assert response.status_code == 200
    assert not any('"error"' in chunk for chunk in chunks)
    assert (json.loads(failure)["code"], json.loads(failure)["reason"]) == (503, "SERVICE_NOT_AVAILABLE")
    assert json.loads(failure)["error"]["message"]
    assert done == "[DONE]"


def _engine_process(processes: list[psutil.Process]) -> psutil.Process:
    return next(process for process in processes if process.name() == "VLLM::EngineCore")


def _engines_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    """vLLM's that still run, the engine's and its workers'."""
    return [process for process in _still_there(processes) if process.name().startswith("VLLM")]


def _still_there(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that run; one that has ended and that nobody has asked for its status does not."""
    running = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                running.append(process)
    return running
