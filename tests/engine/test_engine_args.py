"""vLLM's engine arguments, one by one: each is refused, or does no harm to what this server promises.

Whoever raises the version of vLLM finds the new ones here, and says which they are.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from server.config.engine_args import OWN_KEYS, REFUSED
from server.config.model import ModelSettings
from server.engine.vllm.devices import check_engine_args
from server.engine.vllm.engine import VLLMEngine
from server.engine.vllm.host import engine_config
from server.engine.vllm.stats import EngineMetrics
from server.errors import ConfigurationError
from tests.serving import ON_GPU

pytest.importorskip("vllm")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, when vLLM is imported
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

# Speed, memory, numerics, logs, adapters, pictures, or without effect where the front end is not vLLM's.
# kv_transfer_config, load_format and distributed_executor_backend have values that are refused;
# speculative_config and its kin are looked at where the runner is known (speculation.py).
PASSED = Path(__file__).with_name("engine_args.txt").read_text("utf-8").split()


def test_each_is_looked_at() -> None:
    """None is passed on that nobody has thought of, and none refused that vLLM no longer has."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    fields = {field.name for field in dataclasses.fields(AsyncEngineArgs)}
    assert fields == {*PASSED, *REFUSED, *OWN_KEYS}
    assert not set(PASSED) & {*REFUSED, *OWN_KEYS}


@pytest.mark.skipif(ON_GPU, reason="the model runs on V2 there")
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            {"method": "draft_model", "model": "PATH"},
            "by the method draft_model; on CPUs only ngram is supported",
        ),
        (
            {"rejection_sample_method": "synthetic", "synthetic_acceptance_length": 1.5},
            "with rejection_sample_method synthetic, which may change the text",
        ),
    ],
)
def test_speculation_that_is_refused(smol_path: Path, arguments: dict[str, Any], reason: str) -> None:
    """A method, or a verification, with which a text could be another one; by what vLLM takes it for."""
    speculation = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 3, **arguments}
    if speculation["method"] != "ngram":
        del speculation["prompt_lookup_max"]
        speculation["model"] = str(smol_path)
    settings = ModelSettings(id="m", path=smol_path, engine_args={"speculative_config": speculation})
    with pytest.raises(ConfigurationError, match=f"model m: .* speculative decoding {reason}"):
        engine_config(settings, 64)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"log_config_file": "nowhere"}, "File does not exist"),
        ({"kv_transfer_config": {"kv_connector": "LMCacheMPConnector", "kv_role": "kv_both"}}, "lmcache"),
    ],
)
def test_a_configuration_that_cannot_be_made(tiny_path: Path, arguments: dict[str, Any], reason: str) -> None:
    """Whatever vLLM fails with, it is not tried again. Of all arguments that are passed on, with 496 values
    between them, these ended with other errors than a ValueError and its kin (2026-11-27), and so did a
    speculative model that is nowhere, for which vLLM would ask the network.
    """
    settings = ModelSettings(id="m", path=tiny_path, engine_args=arguments)
    with pytest.raises(ConfigurationError, match=f"model m: vLLM refuses it, or its engine_args: .*{reason}"):
        engine_config(settings, 64)


@pytest.mark.skipif(ON_GPU, reason="it is for GPUs")
async def test_what_the_cpu_build_says_late(tiny_path: Path) -> None:
    """What is refused before an engine is made would end it, after it has read its weights."""
    arguments = {"enforce_eager": True, "kv_offloading_size": 1.0}
    settings = ModelSettings(id="m", path=tiny_path, kv_cache_gib=0.25, engine_args=arguments)
    with pytest.raises(ConfigurationError, match="refused on a CPU"):
        check_engine_args(settings)
    engine = VLLMEngine(settings, 64, EngineMetrics(CollectorRegistry()).of("m"), warms_up=False)
    try:
        with pytest.raises(ConfigurationError, match="only supported on CUDA-alike and XPU GPUs"):
            await engine.start(lambda status: None)
    finally:
        await engine.close()


@pytest.mark.long
@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"model_type": "bert", "architectures": ["BertForSequenceClassification"]}, "pooling"),
        ({"model_type": "llama", "architectures": ["LlamaForTokenClassification"]}, "pooling"),
        ({"model_type": "bart", "architectures": ["BartForConditionalGeneration"]}, "encoder-decoder"),
    ],
)
def test_models_that_continue_no_text_are_refused(tmp_path: Path, config: dict[str, str], kind: str) -> None:
    """By what vLLM takes them for, before an engine is made."""
    shape = {"hidden_size": 128, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 256}
    (tmp_path / "config.json").write_text(json.dumps({**shape, "max_position_embeddings": 64, **config}))
    settings = ModelSettings(id="m", path=tmp_path, engine_args={"load_format": "dummy"})
    with pytest.raises(ConfigurationError, match=f"model m: {config['architectures'][0]} .* {kind},"):
        engine_config(settings, 64)
