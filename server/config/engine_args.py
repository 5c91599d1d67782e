"""vLLM's engine arguments that are not passed on: each by its name, with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Set by a key of the model; a second value under engine_args would win or lose depending on vLLM's mood.
OWN_KEYS = {
    "dtype": "dtype",
    "max_model_len": "max_model_len",
    "max_num_seqs": "max_num_seqs",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "tensor_parallel_size": "tensor_parallel_size",
    "pipeline_parallel_size": "pipeline_parallel_size",
    "quantization": "quantization",
    "device_ids": "devices",
    "enable_sleep_mode": "sleep_level",
}

# The values of those below that change nothing, and are let pass; else None and false.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "aux_output_config": ({},),
    "config_format": ("hf",),
    "convert": ("auto", "none"),
    "data_parallel_backend": ("mp",),
    "data_parallel_size": (1,),
    "data_parallel_size_local": (1,),
    "generation_config": ("auto", "vllm"),
    "io_processor_plugin": ("",),
    "logits_processors": ([],),
    "logprobs_mode": ("raw_logprobs",),
    "model_class_overrides": ({},),
    "nnodes": (1,),
    "node_rank": (0,),
    "override_generation_config": ({},),
    "reasoning_config": ({},),
    "reasoning_parser": ("",),
    "reasoning_parser_plugin": ("",),
    "runner": ("auto", "generate"),
    "scheduling_policy": ("priority",),
    "skip_tokenizer_init": (True,),
    "stream_interval": (1,),
    "structured_outputs_config": ({},),
    "tokenizer_mode": ("auto",),
    "worker_cls": ("auto",),
    "worker_extension_cls": ("",),
    "_api_process_count": (1,),
    "_api_process_rank": (0,),
}

_FROM_PATH = "it follows from path or builtin"
_TOKENS_ONLY = "the engine gets and returns tokens; this server does everything with text"
_LOGPROBS = "by the contract log-probabilities are those of the raw model distribution"
_CHANGES_TOKENS = "it would change the generated tokens, which only requests may do"
_OTHER_OUTPUTS = "the engine would send data that this server does not read"
_ONE_ENGINE = "several engines in one are not supported; use replicas, or tensor_parallel_size"
_ONE_MACHINE = "all processes of an engine run on one machine here"
_NO_TEXT = "the model has to generate text"
_DEFAULTS = "use the model's key defaults for what a request leaves out"
_GRAMMARS = "this server handles grammars itself, and applies them from the first token on"
_OTHER_CODE = "this server guarantees what an engine does in a step, and does not know such a class"
_OTHER_WEIGHTS = "only the model's directory decides what is served"

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("model", "model_weights", "served_model_name", "hf_config_path"), _FROM_PATH),
    **dict.fromkeys(
        ("tokenizer", "tokenizer_mode", "skip_tokenizer_init", "tokenizer_revision"), _TOKENS_ONLY
    ),
    **dict.fromkeys(("enable_prompt_embeds", "enable_mm_embeds", "tokens_only"), _TOKENS_ONLY),
    "logprobs_mode": _LOGPROBS,
    "logits_processors": "this server uses its own logits processor there",
    "watermark_config": _CHANGES_TOKENS,
    "diffusion_config": _CHANGES_TOKENS,
    "enable_trace_replay": _CHANGES_TOKENS,
    "return_sampling_mask": _OTHER_OUTPUTS,
    "aux_output_config": _OTHER_OUTPUTS,
    "enable_return_routed_experts": _OTHER_OUTPUTS,
    **dict.fromkeys(
        ("runner", "convert", "pooler_config", "mm_encoder_only", "io_processor_plugin"), _NO_TEXT
    ),
    **dict.fromkeys(("generation_config", "override_generation_config"), _DEFAULTS),
    **dict.fromkeys(("model_class_overrides", "weight_transfer_config"), _OTHER_WEIGHTS),
    "config_format": "this server reads config.json too",
    **dict.fromkeys(
        ("structured_outputs_config", "reasoning_parser", "reasoning_parser_plugin", "reasoning_config"),
        _GRAMMARS,
    ),
    **dict.fromkeys(("scheduler_cls", "worker_cls", "worker_extension_cls"), _OTHER_CODE),
    "scheduling_policy": "requests have priorities, which other policies ignore",
    "kv_sharing_fast_prefill": "vLLM crashes at the first request for log-probabilities of a prompt",
    "stream_interval": "use the server's key stream_interval",
    "enable_log_requests": "this server writes the request log",
    "ec_transfer_config": _ONE_ENGINE,
    **dict.fromkeys(("enable_elastic_ep", "elastic_ep_max_dp_size"), _ONE_ENGINE),
    **dict.fromkeys(("fault_tolerance_config", "enable_fault_tolerance"), "this server restarts engines"),
    **dict.fromkeys(("_api_process_count", "_api_process_rank"), "use the server's key workers"),
    **dict.fromkeys(("max_num_queued_reqs", "max_num_queued_tokens"), "use the server's key max_pending"),
    **dict.fromkeys(("nnodes", "node_rank", "master_addr", "master_port"), _ONE_MACHINE),
    **dict.fromkeys(
        (
            "data_parallel_size",
            "data_parallel_rank",
            "data_parallel_start_rank",
            "data_parallel_size_local",
            "data_parallel_address",
            "data_parallel_rpc_port",
            "data_parallel_hybrid_lb",
            "data_parallel_external_lb",
            "data_parallel_multi_port_external_lb",
            "data_parallel_backend",
        ),
        _ONE_ENGINE,
    ),
}

# Values of arguments that are otherwise passed on.
REFUSED_VALUES: Mapping[tuple[str, Any], str] = {
    ("load_format", "pt"): "loading a pickle can run any code, so only safetensors are read",
    ("load_format", "npcache"): "loading a pickle can run any code, so only safetensors are read",
    ("distributed_executor_backend", "external_launcher"): "this server starts the processes of an engine",
}

# What vLLM's CPU build cannot do, and says late, with an error that looks as if another try might help.
_ONE_MEMORY = "without a GPU, weights and KV cache are in the machine's memory anyway"
REFUSED_ON_CPU: Mapping[str, str] = {
    "kv_offloading_size": _ONE_MEMORY,
    "kv_transfer_config": _ONE_MEMORY,
    "offload_group_size": _ONE_MEMORY,
    "offload_backend": _ONE_MEMORY,
}
# The values of those that pass there, besides None and 0; connectors, by their names.
PASSED_ON_CPU: Mapping[str, tuple[str, ...]] = {
    "offload_backend": ("auto", "uva"),
    "kv_transfer_config": ("LMCacheConnectorV1", "LMCacheMPConnector"),
}

# Connectors that keep what an engine has computed for the same engine. Others carry it between engines.
OFFLOADING = {
    "OffloadingConnector",
    "SimpleCPUOffloadConnector",
    "LMCacheConnectorV1",
    "LMCacheMPConnector",
}


def refusal(name: str, value: Any) -> str | None:
    """Why an engine argument is not passed on; None: it is."""
    if name in OWN_KEYS:
        return f'set "{OWN_KEYS[name]}" as a key of the model, not "{name}" under engine_args'
    reason = REFUSED.get(name)
    neutral = (None, *NEUTRAL.get(name, (False,)))
    if reason is not None and any(value == other and type(value) is type(other) for other in neutral):
        reason = None  # (0 is False for Python)
    elif isinstance(value, str):
        reason = reason or REFUSED_VALUES.get((name, value))
    elif name == "kv_transfer_config" and isinstance(value, Mapping):
        reason = next(_transfer_problems(value), None)
    return None if reason is None else f'engine_args has "{name}: {value}", which is refused: {reason}'


def refusal_on_cpu(name: str, value: Any) -> str | None:
    """The same, by vLLM's CPU build."""
    reason = REFUSED_ON_CPU.get(name)
    said = value.get("kv_connector") if isinstance(value, Mapping) else value
    if reason is None or not said or said in PASSED_ON_CPU.get(name, ()):
        return None
    return f'engine_args has "{name}: {value}", which is refused on a CPU: {reason}'


def _transfer_problems(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("kv_load_failure_policy") == "recompute":
        yield "with kv_load_failure_policy recompute a candidate's tokens could change half-way"
    if config.get("kv_role") not in (None, "kv_both"):
        yield f"kv_role {config['kv_role']} is one half of an engine; {_ONE_ENGINE}"
    if config.get("kv_connector") not in OFFLOADING:
        yield f"of the connectors only those that offload are served: {', '.join(sorted(OFFLOADING))}"
