"""`verbatim simulate`, started as a client team does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving import VERBATIM, serving

READY_S = 30.0  # half a second when nothing else runs
FAR = ("torch", "vllm", "transformers", "httpx", "huggingface_hub")


def said(*arguments: str) -> tuple[int, str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("VERBATIM_")}
    done = subprocess.run(
        [*VERBATIM, "simulate", *arguments],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.returncode, done.stderr.strip()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--profile", "gpu-9b"), 'verbatim: there is no profile "gpu-9b"; did you mean "gpu-8b"?'),
        (("--fit", "none.json"), "verbatim: none.json: No such file or directory."),
        (("--fit", "a", "--profile", "none"), "verbatim: --profile and --fit cannot be given together."),
        (("--script", "none.yaml"), "verbatim: none.yaml: No such file or directory."),
        (("--script", "a", "--echo"), "verbatim: --script and --echo cannot be given together."),
        (("--config", "a", "--model", "b"), "verbatim: --config and --model cannot be given together."),
        (("--host", "::"), "key"),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_paragraph(arguments: tuple[str, ...], words: str) -> None:
    """With exit code 2."""
    code, paragraph = said(*arguments)
    assert code == 2
    assert words in paragraph
    assert "Traceback" not in paragraph


def test_it_needs_nothing_heavy() -> None:
    """Neither to start nor to answer is an engine's library imported."""
    code = f"import sys, twin.serve, twin.cli; print([name for name in {FAR} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_its_own_language_is_not_counted_anew(tmp_path: Path) -> None:
    """Nothing is written to the cache, and nothing waited for: what was counted is in the package."""
    environ = {**os.environ, "VERBATIM_CACHE": str(tmp_path)}
    code = "from twin.cli import _settings; from twin.models import load_models; import twin.latency as l; "
    code += "load_models(_settings(None, {}, None), l.Latency(l.Profile()), None)"
    subprocess.run([sys.executable, "-c", code], env=environ, check=True)
    assert list(tmp_path.iterdir()) == []


def ask(url: str, **body: Any) -> dict[str, Any]:
    asked = {"model": "m", "max_tokens": 20, **body}
    answer = httpx.post(f"{url}/v1/completions", json=asked, headers={"authorization": "Bearer any"})
    assert answer.status_code == 200, answer.text
    choice: dict[str, Any] = answer.json()["choices"][0]
    return choice


def test_it_is_there_in_a_moment(tmp_path: Path) -> None:
    """Under the names, limits and defaults of a models.yaml whose model is not on this machine; with fixed
    replies, and faults."""
    (tmp_path / "script.yaml").write_text("- {exact: ping, reply: pong}\n")
    (tmp_path / "faults.yaml").write_text("rules: [{fault: status=503, match: {prompt: 'break'}}]\n")
    config = {"models": [{"id": "m", "path": str(tmp_path / "not-here"), "limits": {"n": 2}}]}
    flags = ("--profile", "none", "--script", str(tmp_path / "script.yaml"))
    flags += ("--faults", str(tmp_path / "faults.yaml"))
    began = time.monotonic()
    with serving(tmp_path / "server", config, *flags, command="simulate") as server:
        server.wait_ready()
        assert time.monotonic() - began < READY_S
        url = server.url()
        assert ask(url, prompt="ping")["text"] == "pong"
        assert ask(url, prompt="The capital of France is", temperature=0)["text"].startswith(" Paris.")
        key = {"authorization": "Bearer any"}
        for body, status in (
            ({"prompt": "break"}, 503),
            ({"prompt": "x", "n": 3}, 400),
            ({"model": "n"}, 404),
        ):
            asked = {"model": "m", "prompt": "x", **body}
            answer = httpx.post(f"{url}/v1/completions", json=asked, headers=key)
            assert answer.status_code == status
        assert httpx.get(f"{url}/v1/models/m", headers=key).json()["context_size"] == 8192
