"""Starts of engines that cannot succeed end; whatever else is served goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.serving import SIMULATED_MODEL, SMOL, START_S, Client, serving
from tests.tiny_llama import TOKENIZER_FILES

pytestmark = pytest.mark.engine

SHAPE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "vocab_size": 49152}
CLASSIFIER = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
# vLLM's Llama knows one activation, and says so when it makes the layers.
ODD = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "gelu"}


def directory(path: Path, tokenizer_from: Path, config: dict[str, Any]) -> Path:
    """A model without weights."""
    path.mkdir()
    heads = {"num_attention_heads": 2, "max_position_embeddings": 256, "n_positions": 256}
    (path / "config.json").write_text(json.dumps({**SHAPE, **heads, **config}))
    for name in TOKENIZER_FILES:
        if (tokenizer_from / name).is_file():
            shutil.copy(tokenizer_from / name, path / name)
    return path


def model(path: Path, name: str, **engine_args: Any) -> dict[str, Any]:
    more = {"engine_args": {"load_format": "dummy", "enforce_eager": True, **engine_args}}
    return {"id": name, "path": str(path), "max_model_len": 64, "kv_cache_gib": 0.05, **more}


def test_one_that_cannot_run_is_marked_and_the_others_are_served(smol_path: Path, tmp_path: Path) -> None:
    """/ready has the reason, also where a process of the engine's own knew it, and is 200; who asks for it is
    told the same."""
    odd = model(directory(tmp_path / "odd", smol_path, ODD), "odd", distributed_executor_backend="mp")
    config = {"models": [odd, SIMULATED_MODEL]}
    with serving(tmp_path / "server", config) as server, Client(server.url(), "any") as client:
        (*_, answer) = server.wait_ready()
        response = client.ask(model="odd")
        assert client.complete(model=SMOL)["usage"]["completion_tokens"] > 0
    found = answer["body"]["models"]["odd"]
    assert (found["phase"], answer["body"]["models"][SMOL]["phase"]) == ("failed", "ready")
    assert found["detail"].startswith("model odd cannot be served: Unsupported activation: gelu")
    assert (response.status_code, response.json()["reason"]) == (503, "SERVICE_NOT_AVAILABLE")
    assert found["detail"] in response.json()["message"]


def test_alone_it_ends_the_server(smol_path: Path, tmp_path: Path) -> None:
    """Exit code 2, and a sentence that names the model."""
    path = directory(tmp_path / "classifier", smol_path, CLASSIFIER)
    with serving(tmp_path, {"models": [model(path, "classifier")]}) as server:
        assert server.process.wait(START_S) == 2
    assert "verbatim: model classifier: BertForSequenceClassification" in server.said()
    assert "Traceback" not in server.said()
