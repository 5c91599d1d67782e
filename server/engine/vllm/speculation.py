"""Which speculative decoding is served: that which leaves every text as it is without."""

from __future__ import annotations

from typing import Any

from server.errors import ConfigurationError

# Methods of vLLM's that do other things than to draft tokens.
NO_DRAFTS = ("custom_class", "extract_hidden_states")


def check_speculation(name: str, config: Any, *, on_cpu: bool) -> None:
    """Raises ConfigurationError. name: the model's. config: vLLM's configuration, which
    has a speculative_config."""
    if (reason := _problem(config, on_cpu=on_cpu)) is not None:
        raise ConfigurationError(f"model {name}: engine_args asks for speculative decoding {reason}")


def _problem(config: Any, *, on_cpu: bool) -> str | None:
    speculation = config.speculative_config
    method, verification = speculation.method, speculation.rejection_sample_method
    if verification != "standard":
        return f"with rejection_sample_method {verification}, which may change the text; leave it out"
    if method in NO_DRAFTS:
        return f"by the method {method}, which is none; take ngram"
    if config.use_v2_model_runner:
        if config.lora_config is not None and speculation.enable_adaptive_verification:
            return (
                "with enable_adaptive_verification and adapters, which vLLM cannot tell apart; leave it out"
            )
        return None
    if not on_cpu:
        return (
            "on vLLM's V1 model runner, which has none beside this server's own sampling; leave it out, or"
            " have the model on V2 (VLLM_USE_V2_MODEL_RUNNER)"
        )
    if method != "ngram":
        return f"by the method {method}; on CPUs it is ngram alone"
    if config.parallel_config.pipeline_parallel_size > 1:
        return "over a pipeline, where nobody has tried it on CPUs; take tensor_parallel_size"
    return None
