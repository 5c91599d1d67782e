"""A server gets another configuration while requests run, on engines that are simulated."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers import byte_level, model_directory
from tests.server.process.test_workers import num_listening
from tests.serving import VERBATIM, Client, Server, serving, wait_for

TOKENS = 200  # two seconds
NUM_STREAMS = 24
MODEL = {"id": "m", "engine": "simulated"}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("model"), byte_level(), context_size=4096)


class Configured:
    """A server, and its file."""

    def __init__(self, server: Server, path: Path) -> None:
        self.server = server
        self.file = server.log.with_name("models.yaml")
        self._path = path
        self.port = server.url().rpartition(":")[2]

    def model(self, name: str, **keys: Any) -> dict[str, Any]:
        return {"id": name, "path": str(self._path), "engine": "simulated", **keys}

    def write(self, *models: dict[str, Any], **keys: Any) -> None:
        self.file.write_text(yaml.safe_dump({"host": "127.0.0.1", "port": 0, "models": [*models], **keys}))

    def reload(self) -> subprocess.CompletedProcess[str]:
        command = [*VERBATIM, "reload", "--port", self.port]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def client(self, model: str = "m") -> Client:
        return Client(self.server.url(), "any", model)

    def text(self, model: str, seed: int, num_tokens: int = TOKENS) -> str:
        """Of a stream, over a connection of its own."""
        with self.client(model) as client:
            chunks = client.chunks(prompt="hello", max_tokens=num_tokens, ignore_eos=True, seed=seed)
        return "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])

    def begin(self, pool: Executor, *asked: tuple[str, int]) -> list[Future[str]]:
        """Streams of a model with a seed each, when all of them have begun."""
        with self.client() as client:
            before = client.num_begun()
            streams = [pool.submit(self.text, *one) for one in asked]
            wait_for(lambda: client.num_begun() == before + len(asked), 60)
        return streams

    def models(self) -> list[str]:
        with self.client() as client:
            return [model["id"] for model in client.get("/v1/models").json()["data"]]


@pytest.fixture
def configured(path: Path, tmp_path: Path) -> Iterator[Configured]:
    models = [{"id": name, "path": str(path), "engine": "simulated"} for name in ("m", "leaves")]
    with serving(tmp_path, {"models": models}) as server:
        server.wait_ready()
        yield Configured(server, path)


def test_no_stream_is_lost(configured: Configured) -> None:
    """Of a model that gets another engine, and of one that is gone: each has the text of an undisturbed one;
    and at no moment is a request refused."""
    asked = [("leaves" if k % 3 == 0 else "m", k) for k in range(NUM_STREAMS)]
    statuses: list[int] = []
    with ThreadPoolExecutor(NUM_STREAMS + 1) as pool, configured.client() as client:
        undisturbed = list(pool.map(lambda one: configured.text(*one), asked))
        streams = configured.begin(pool, *asked)
        configured.write(configured.model("m", max_num_seqs=100), configured.model("comes"))
        reloading = pool.submit(configured.reload)
        while not reloading.done():
            statuses.append(client.ask(max_tokens=1).status_code)
        assert [stream.result() for stream in streams] == undisturbed
    assert reloading.result().returncode == 0, reloading.result().stderr
    assert reloading.result().stdout == (
        "the new configuration is in use; added: comes; changed: m; ended: leaves.\n"
    )
    assert set(statuses) == {200}
    assert configured.models() == ["m", "comes"]
    with configured.client("leaves") as client:
        assert client.ask().status_code == 404
    assert configured.text("comes", 1, 5) == configured.text("m", 1, 5)


def test_another_model_of_that_name(configured: Configured, tmp_path: Path) -> None:
    """Streams of the one before end there, and new requests get the other one."""
    other = model_directory(tmp_path / "other", byte_level(), context_size=2048)
    with ThreadPoolExecutor(1) as pool:
        (stream,) = configured.begin(pool, ("m", 1))
        configured.write(configured.model("m") | {"path": str(other)})
        assert configured.reload().returncode == 0
        assert stream.result() == configured.text("m", 1)
    with configured.client() as client:
        assert client.get("/v1/models/m").json()["context_size"] == 2048


def test_limits_change_in_place(configured: Configured) -> None:
    """Also those of a request, without another engine."""
    limits = {"rate_limits": {"requests_per_minute": 2}}
    configured.write(configured.model("m", limits={"n": 1}), configured.model("leaves"), **limits)
    assert configured.reload().stdout == "the new configuration is in use.\n"
    with configured.client() as client:
        assert [client.ask(max_tokens=1, n=n).status_code for n in (2, 1, 1)] == [400, 200, 429]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"drain_timeout": 1}, "drain_timeout_s"),
        ({"port": 1}, "port was 0 when the server started, and is now 1: this change takes a restart."),
        ({"models": [{"id": "new", "path": "nowhere", "engine": "simulated"}]}, "nowhere does not exist"),
        ({"api_keys_file": "nowhere.txt"}, "nowhere.txt does not exist"),
    ],
)
def test_a_file_that_is_refused(configured: Configured, keys: dict[str, Any], message: str) -> None:
    """The one who asks is told why, with exit code 1, and so is the log; the server goes on as it was."""
    configured.write(*keys.pop("models", [configured.model("m")]), **keys)
    refused = configured.reload()
    assert refused.returncode == 1
    assert message in refused.stderr
    assert message in configured.server.said()
    assert configured.models() == ["m", "leaves"]
    assert configured.text("leaves", 1, 5) == configured.text("m", 1, 5)


def test_sighup(configured: Configured) -> None:
    """Does the same, and the log says what has come of it."""
    configured.write(configured.model("m"))
    configured.server.process.send_signal(signal.SIGHUP)
    wait_for(
        lambda: "reload: the new configuration is in use; ended: leaves." in configured.server.said(), 30
    )
    assert configured.models() == ["m"]


def test_no_such_server() -> None:
    """Is said, with exit code 2."""
    command = [*VERBATIM, "reload", "--port", "1"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert asked.returncode == 2
    assert "no server of this machine listens on port 1" in asked.stderr


def test_every_process_takes_it_over(path: Path, tmp_path: Path) -> None:
    """Of a server with workers; and requests that run in them go on."""
    with serving(tmp_path, {"models": [MODEL | {"path": str(path)}], "workers": 3}) as server:
        server.wait_ready()
        configured = Configured(server, path)
        wait_for(lambda: num_listening(server.url()) == 3, 30)
        with ThreadPoolExecutor(12) as pool:
            undisturbed = list(pool.map(lambda k: configured.text("m", k), range(12)))
            streams = [pool.submit(configured.text, "m", k) for k in range(12)]
            configured.write(configured.model("m", limits={"n": 1}, max_num_seqs=9), workers=3)
            assert configured.reload().returncode == 0
            assert [stream.result() for stream in streams] == undisturbed

        def status() -> int:
            with configured.client() as client:
                return client.ask(max_tokens=1, n=2).status_code

        wait_for(lambda: {status() for _ in range(20)} == {400}, 30)


def test_other_models_in_several_processes(path: Path, tmp_path: Path) -> None:
    """New ones answer in each of them when the command returns; those that are gone end with their streams;
    another one under the same id takes over."""
    models = [{"id": name, "path": str(path), "engine": "simulated"} for name in ("m", "leaves", "changes")]
    other = model_directory(tmp_path / "other", byte_level(), context_size=64)
    with serving(tmp_path / "server", {"models": models, "workers": 3}) as server:
        server.wait_ready()
        configured = Configured(server, path)
        wait_for(lambda: num_listening(server.url()) == 3, 30)
        with ThreadPoolExecutor(24) as pool:
            undisturbed = list(pool.map(lambda k: configured.text("leaves", k), range(12)))
            streams = configured.begin(pool, *(("leaves", k) for k in range(12)))
            changed = configured.model("changes") | {"path": str(other)}
            configured.write(configured.model("m"), configured.model("comes"), changed, workers=3)
            reloaded = configured.reload()
            assert (reloaded.returncode, reloaded.stderr) == (0, "")
            assert [stream.result() for stream in streams] == undisturbed
        assert {tuple(configured.models()) for _ in range(20)} == {("m", "comes", "changes")}
        assert len({configured.text("comes", 1, 5) for _ in range(20)}) == 1
        for name, status in (("leaves", 404), ("changes", 400)):  # too long for the other one
            with configured.client(name) as client:
                long = {"prompt": "hello", "max_tokens": 100}
                assert {client.ask(**long).status_code for _ in range(20)} == {status}
        server.engines()[0].kill()  # the next worker knows the models of now
        wait_for(lambda: num_listening(server.url()) == 3, 30)
        assert {tuple(configured.models()) for _ in range(20)} == {("m", "comes", "changes")}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_gone_is_in_no_state(path: Path, tmp_path: Path, workers: int) -> None:
    """An alert for a model that is not ready does not ring for ever for one that is served no more; what it
    has done stays counted."""
    models = [{"id": name, "path": str(path), "engine": "simulated"} for name in ("m", "leaves")]
    with serving(tmp_path, {"models": models, "workers": workers}) as server:
        server.wait_ready()
        configured = Configured(server, path)
        with configured.client("leaves") as client:
            client.complete(max_tokens=1)
            text = client.get("/metrics").text
            assert all(f'verbatim_model_ready{{model="{name}"}} 1.0' in text for name in ("m", "leaves"))
            configured.write(configured.model("m"), workers=workers)
            assert configured.reload().returncode == 0
            lines = [client.get("/metrics").text.splitlines() for _ in range(4)]  # of whichever process
    for line in lines:
        assert 'verbatim_model_ready{model="m"} 1.0' in line
        left = {one.partition("{")[0] for one in line if 'model="leaves"' in one}
        assert "verbatim_requests_total" in left
        gauges = ("model_ready", "replica_ready", "model_state", "model_bytes", "candidates_waiting")
        assert left.isdisjoint(f"verbatim_{name}" for name in gauges)
