"""Which kinds of speculative decoding are supported: those that leave every text unchanged."""

from __future__ import annotations

from typing import Any

from server.errors import ConfigurationError

# vLLM's methods that do something other than drafting tokens.
NO_DRAFTS = ("custom_class", "extract_hidden_states")


def check_speculation(name: str, config: Any, *, on_cpu: bool) -> None:
    """Raise ConfigurationError if it is not supported. name: the model's. config: vLLM's configuration, with
    a speculative_config."""
    if (reason := _problem(config, on_cpu=on_cpu)) is not None:
        raise ConfigurationError(f"model {name}: engine_args asks for speculative decoding {reason}")


def _problem(config: Any, *, on_cpu: bool) -> str | None:
    speculation = config.speculative_config
    method, verification = speculation.method, speculation.rejection_sample_method
    if verification != "standard":
        return f"with rejection_sample_method {verification}, which may change the text; remove it"
    if method in NO_DRAFTS:
        return f"by the method {method}, which does not exist; use ngram"
    if config.use_v2_model_runner:
        if config.lora_config is not None and speculation.enable_adaptive_verification:
            return (
                "together with enable_adaptive_verification and adapters, which vLLM does not support;"
                " remove one of them"
            )
        return None
    if not on_cpu:
        return (
            "on vLLM's V1 model runner, where it does not work with this server's own sampling; remove it,"
            " or run the model on V2 (VLLM_USE_V2_MODEL_RUNNER)"
        )
    if method != "ngram":
        return f"by the method {method}; on CPUs only ngram is supported"
    if config.parallel_config.pipeline_parallel_size > 1:
        return "with pipeline parallelism, which is untested on CPUs; use tensor_parallel_size"
    return None
