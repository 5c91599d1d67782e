"""Servers as their users start them: a process each, and a client that speaks to it over loopback."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from conform.subject.client import LIMITS
from server.observe.versions import CPU_BUILD, installed
from tests.gpu import nvml

SMOL = "smollm2-135m-instruct"  # the built-in model: makes sense
TINY = "tests/tiny-llama"  # random weights: fast, varied, 256 tokens of context and settings of its own
VOCAB_SIZE = 49152  # of both
CONTEXT_SIZE = 256  # of the tiny one
CAPITAL = "The capital of France is"
CAPITAL_IDS = [504, 3575, 282, 4649, 314]
PARIS_ID = 7042
EOS_ID = 2
BROKEN_ID = 40_000  # of the broken model: a token that makes NaN

START_S = 240  # a start takes 40 to 80 s; a machine that is busy with something else takes longer
END_S = 60
# On a busy disk the import of torch holds the interpreter while it waits for its libraries' pages.
ANSWER_S = 180  # an engine that is replaced on a busy machine may take two minutes

ON_GPU = nvml.num_gpus() > 0 and installed(CPU_BUILD) is None  # what the engines of these tests compute on
# On a GPU, several engines beside each other: vLLM sizes its KV cache by what is free, which another engine
# that starts meanwhile changes; a size that is given is taken as it is. The share has to be free, no more.
BESIDE_OTHERS: dict[str, Any] = {"gpu_memory_utilization": 0.05}
SMOL_MODEL: dict[str, Any] = {
    "id": SMOL,
    "builtin": SMOL,
    "kv_cache_gib": 0.5,
    "engine_args": {"kv_cache_memory_bytes": 2**29},
    **BESIDE_OTHERS,
}
SIMULATED_MODEL: dict[str, Any] = SMOL_MODEL | {"engine": "simulated"}


def tiny_model(path: Path, **settings: Any) -> dict[str, Any]:
    """float32, so that a text does not depend on what else the engine computes in the same step; eager, also
    on a GPU, where the built-in model has vLLM's CUDA graphs."""
    return {
        "id": TINY,
        "path": str(path),
        "dtype": "float32",
        "max_model_len": CONTEXT_SIZE,
        "kv_cache_gib": 0.25,
        "engine_args": {"enforce_eager": True, "kv_cache_memory_bytes": 2**28},
        **BESIDE_OTHERS,
        **settings,
    }


# The command, also in an environment that has what the server needs and not the server itself.
VERBATIM: Sequence[str | Path] = (sys.executable, "-c", "from server.cli import main; main()")


@dataclass
class Server:
    """A server process. log: all that it has said on standard output and standard error."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def url(self) -> str:
        """Where it listens, once it does."""
        found = wait_for(
            lambda: self._alive() and re.search(r"listens on (https?://\S+|unix:\S+)", self.said()), 30
        )
        return str(found[1])

    def wait_ready(self, within_s: float = START_S) -> list[dict[str, Any]]:
        """Every answer of /ready on the way that differed from the one before."""
        answers: list[dict[str, Any]] = []

        def ready() -> bool:
            self._alive()
            answer = httpx.get(self.url() + "/ready", timeout=ANSWER_S, verify=False)  # noqa: S501
            phases = {name: model["phase"] for name, model in answer.json()["models"].items()}
            if not answers or answers[-1]["phases"] != phases:
                answers.append({"status": answer.status_code, "phases": phases, "body": answer.json()})
            return answer.status_code == 200

        wait_for(ready, within_s, every_s=0.2)
        return answers

    def engines(self) -> list[psutil.Process]:
        """Every process that it has started, and those that they have."""
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def _alive(self) -> bool:
        assert self.process.poll() is None, f"the server ended with {self.process.returncode}"
        return True


@contextlib.contextmanager
def serving(
    folder: Path,
    config: dict[str, Any],
    *flags: str,
    verbatim: Sequence[str | Path] = VERBATIM,
    environ: Mapping[str, str] = os.environ,
    command: str = "serve",
) -> Iterator[Server]:
    """`verbatim serve`, or another command, with this configuration on a free port. Ends it, shows its log
    when the body fails."""
    folder.mkdir(parents=True, exist_ok=True)
    file, log = folder / "models.yaml", folder / "log.txt"
    file.write_text(yaml.safe_dump({"host": "127.0.0.1", "port": 0} | config))
    environ = {
        name: value
        for name, value in environ.items()
        if not name.startswith("VERBATIM_") or name == "VERBATIM_CACHE"
    }
    log.write_bytes(b"")
    with log.open("ab") as out:  # as a log is written by several, and after a test that adds to it
        process = subprocess.Popen(
            [*verbatim, command, "--config", file, *flags],
            stdout=out,
            stderr=subprocess.STDOUT,
            env=environ,
        )
    server = Server(process, log)
    engines: list[psutil.Process] = []
    try:
        yield server
    except BaseException:
        print(f"--- {log.name} of the server, process {process.pid}:\n{server.said()}")
        raise
    finally:
        engines = server.engines()
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for engine in engines:
            with contextlib.suppress(psutil.NoSuchProcess):
                engine.kill()  # psutil knows it from a later process of that number


def wait_for(condition: Any, timeout_s: float, *, every_s: float = 0.02) -> Any:
    """The first true value of the condition."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {timeout_s:g} s"
        time.sleep(every_s)
    return value


class Client(httpx.Client):
    """Completions of one server; of `model` unless a request names another one."""

    def __init__(self, url: str, key: str, model: str = SMOL) -> None:
        headers = {"authorization": f"Bearer {key}"}
        # There is no TLS: without `verify=False` each client reads all certificates of the system.
        super().__init__(base_url=url, headers=headers, timeout=ANSWER_S, verify=False, limits=LIMITS)
        self._model = model

    def ask(self, **fields: Any) -> httpx.Response:
        """The response to a request of these fields, whatever its status."""
        return self.post("/v3/openai/completions", json={"model": self._model, "prompt": CAPITAL} | fields)

    def complete(self, **fields: Any) -> dict[str, Any]:
        """The reply."""
        response = self.ask(**fields)
        assert response.status_code == 200, response.text
        reply: dict[str, Any] = response.json()
        return reply

    def choice(self, **fields: Any) -> dict[str, Any]:
        """The only choice of the reply."""
        (choice,) = self.complete(**fields)["choices"]
        assert isinstance(choice, dict)
        return choice

    def chunks(self, **fields: Any) -> list[dict[str, Any]]:
        """The chunks of a stream."""
        response = self.ask(stream=True, **fields)
        assert response.status_code == 200, response.text
        *chunks, done = frames(response.text)
        assert done == "[DONE]"
        return [json.loads(chunk) for chunk in chunks]

    def running(self, model: str) -> float:
        """Candidates that the engine works on, by its own account."""
        return self.metric(f'vllm:num_requests_running{{engine="0",model_name="{model}"}}')

    def num_begun(self) -> int:
        """Completions that run or have ended. To wait until so many have come, also where the first one ends
        before the last one begins."""
        begun = self.counted("verbatim_requests_total", "verbatim_requests_in_flight")
        return int(begun) - 1  # the one that asks

    def counted(self, *metrics: str) -> float:
        """The sum of all samples of these metrics, whatever their labels."""
        samples = [line.rpartition(" ") for line in self.get("/metrics").text.splitlines()]
        return sum(float(value) for name, _, value in samples if name.partition("{")[0] in metrics)

    def metric(self, name: str) -> float:
        """A sample of /metrics; 0 when it is not there."""
        for line in self.get("/metrics").text.splitlines():
            if line.startswith(name + " "):
                return float(line.removeprefix(name))
        return 0.0


def killed_midway(server: Server, client: Client, **fields: Any) -> dict[str, Any]:
    """The only choice of a stream whose engine is killed after its first chunk. A busy test may read that one
    so late that the engine has written the whole text: then it asks again."""
    body = {"model": TINY, "prompt": CAPITAL, "stream": True, **fields}
    for _ in range(5):
        text, resumed = "", client.counted("verbatim_resumed_total")
        engine = max(server.engines(), key=lambda one: one.memory_info().rss)
        with client.stream("POST", "/v1/completions", json=body) as response:
            for piece in response.iter_text():
                if not text:
                    engine.kill()
                text += piece
        *chunks, done = frames(text)
        assert done == "[DONE]"
        if client.counted("verbatim_resumed_total") > resumed:
            (choice,) = fold([json.loads(chunk) for chunk in chunks])
            return choice
        wait_for(lambda dead=engine: not dead.is_running(), START_S)
        server.wait_ready()
    raise AssertionError("each of five streams was whole before its engine was killed")


def frames(text: str) -> list[str]:
    """The data of a stream's frames."""
    assert text.endswith("\n\n")
    return [frame.removeprefix("data: ") for frame in text.split("\n\n")[:-1] if not frame.startswith(":")]


def fold(chunks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The choices that chunks add up to: texts and arrays one after the other, the last finish_reason."""
    choices: dict[int, dict[str, Any]] = {}
    for part in (choice for chunk in chunks for choice in chunk["choices"]):
        assert set(part) == {"index", "text", "logprobs", "finish_reason"}
        choice = choices.setdefault(
            part["index"], {**part, "text": "", "logprobs": None, "finish_reason": None}
        )
        assert choice["finish_reason"] is None, "a chunk after the choice's last"
        choice["text"] += part["text"]
        choice["finish_reason"] = part["finish_reason"]
        if part["logprobs"] is not None:
            whole = choice["logprobs"] or {name: [] for name in part["logprobs"]}
            choice["logprobs"] = {name: whole[name] + part["logprobs"][name] for name in whole}
    return [choices[index] for index in sorted(choices)]


def assert_alike(left: Any, right: Any) -> None:
    """Equal; log-probabilities but for the last bits, which depend on what else a step computes, and of which
    a GPU's attention cuts off more (test_logprobs_hf.py)."""
    if isinstance(left, dict) and isinstance(right, dict):
        assert list(left) == list(right)
        left, right = list(left.values()), list(right.values())
    if isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_alike(one, other)
    elif isinstance(left, float):
        assert left == pytest.approx(right, abs=2e-3 if ON_GPU else 1e-5)
    else:
        assert left == right


def as_bytes(token: str) -> bytes:
    """What a token of a reply stands for: its text, or the bytes that it spells. A row of the vocabulary that
    is only padding, which has an id for a name, has none."""
    if token.startswith("token_id:"):
        return b""
    if token.startswith("bytes:"):
        return bytes.fromhex(token.removeprefix("bytes:").replace("\\x", ""))
    return token.encode()
