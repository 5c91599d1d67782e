"""Speculative decoding that is refused, by method, verification and runner."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from server.engine.vllm.speculation import check_speculation
from server.errors import ConfigurationError


def check(
    method: str = "ngram",
    *,
    verified: str = "standard",
    v2: bool = False,
    on_cpu: bool = True,
    stages: int = 1,
    has_adapters: bool = False,
    adaptive: bool = False,
) -> None:
    speculation = SimpleNamespace(
        method=method, rejection_sample_method=verified, enable_adaptive_verification=adaptive
    )
    config = SimpleNamespace(
        speculative_config=speculation,
        use_v2_model_runner=v2,
        lora_config=SimpleNamespace() if has_adapters else None,
        parallel_config=SimpleNamespace(pipeline_parallel_size=stages),
    )
    check_speculation("m", config, on_cpu=on_cpu)


def test_what_is_served() -> None:
    """n-grams on a CPU, and what drafts on the V2 runner."""
    check()
    for method in ("ngram", "ngram_gpu", "draft_model", "eagle3", "mtp"):
        check(method, v2=True, on_cpu=False)


@pytest.mark.parametrize("v2", [False, True])
@pytest.mark.parametrize("verified", ["synthetic", "block"])
def test_drafts_are_verified_one_by_one(verified: str, v2: bool) -> None:
    """Another verification accepts other tokens than those that would have come."""
    with pytest.raises(ConfigurationError, match=f"rejection_sample_method {verified}"):
        check(verified=verified, v2=v2)


def test_methods() -> None:
    """Each refusal names the method."""
    with pytest.raises(ConfigurationError, match=r"method suffix; on CPUs only ngram is supported"):
        check("suffix")
    with pytest.raises(ConfigurationError, match="method extract_hidden_states, which does not exist"):
        check("extract_hidden_states", v2=True, on_cpu=False)


def test_adapters() -> None:
    """On V2 as well, unless how many drafts a request has is known to the device alone."""
    check(v2=True, on_cpu=False, has_adapters=True)
    check("dspark", v2=True, on_cpu=False, adaptive=True)
    with pytest.raises(ConfigurationError, match="enable_adaptive_verification and adapters"):
        check("dspark", v2=True, on_cpu=False, adaptive=True, has_adapters=True)


def test_runners() -> None:
    """V1 on a GPU has none, nor has a pipeline of CPUs."""
    with pytest.raises(ConfigurationError, match="on vLLM's V1 model runner"):
        check(on_cpu=False)
    with pytest.raises(ConfigurationError, match="with pipeline parallelism"):
        check(stages=2)
