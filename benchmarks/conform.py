"""Tests our server and vLLM's against the rules of the contract, on one machine with the same model.

    python -m benchmarks.conform MODEL [--out FOLDER]

MODEL is a directory; `python tests/tiny_llama.py MODEL` makes one that is fast, and whose texts in float32 do
not depend on the rest of the batch. The servers run one after the other, each started with its own command.
vLLM's is scored twice: by the rules of its own API, and by those of the hosted API, which shows what changes
for a client that moves from one to the other. FOLDER gets a JSON and a Markdown file for each.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console

from benchmarks.report import machine
from benchmarks.servers import Server, verbatim, vllm
from conform import difference, report
from conform.every import rules
from conform.runner import Run, connect, run
from conform.subject.client import Client

MODEL = "tests/tiny-llama"
CONTEXT_SIZE = 256  # small enough for the rules about a full context
KV_CACHE_BYTES = 2**28


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        runs = dict(_runs(Path(name), options.model.resolve(), console))
    here = machine("conform") | {"command": "python -m benchmarks.conform MODEL"}
    ours = runs["verbatim"]
    for name, done in runs.items():
        value = {"machine": here, **json.loads(report.as_json(done))}
        stem = options.out / f"conform-{name}-cpu"
        stem.with_suffix(".json").write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
        text = report.as_markdown(done)
        if name == "vllm-as-hosted":
            text += "\n" + "\n".join(difference.as_markdown(ours, done)) + "\n"
        stem.with_suffix(".md").write_text(text)
    console.print(difference.table(ours, runs["vllm-as-hosted"]))


def _runs(folder: Path, model: Path, console: Console) -> Iterator[tuple[str, Run]]:
    settings = {
        "id": MODEL,
        "path": str(model),
        "dtype": "float32",
        "max_model_len": CONTEXT_SIZE,
        "gpu_memory_utilization": 0.05,
        "engine_args": {"enforce_eager": True, "kv_cache_memory_bytes": KV_CACHE_BYTES},
    }
    flags = [
        f"--served-model-name={MODEL}",
        "--dtype=float32",
        f"--max-model-len={CONTEXT_SIZE}",
        "--enforce-eager",
        f"--kv-cache-memory-bytes={KV_CACHE_BYTES}",
        "--gpu-memory-utilization=0.05",
    ]
    starts: dict[str, tuple[Callable[[], AbstractContextManager[Server]], dict[str, str]]] = {
        "verbatim": (lambda: verbatim(folder / "ours", [settings]), {"verbatim": "hosted"}),
        "vllm": (lambda: vllm(folder / "vllm", model, flags), {"vllm": "vllm", "vllm-as-hosted": "hosted"}),
    }
    for start, profiles in starts.values():
        with start() as server:
            for name, profile in profiles.items():
                done = _put(f"http://127.0.0.1:{server.port}", profile)
                console.print(name, report.totals(done), report.summary(done))
                yield name, done


def _put(url: str, profile: str) -> Run:
    """Test every rule, including the hard ones."""
    subject = connect(url, profile, MODEL, None, lambda base: Client(base, "none"))
    try:
        return run(subject, rules())
    finally:
        subject.client.close()


if __name__ == "__main__":
    main()
