"""vLLM's engine arguments that are not passed on: each by its name, with the reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# A key of the model sets these. With a second value under engine_args, vLLM might use either.
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

# Values of the arguments below that change nothing and are accepted. Default: None and false.
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

_FROM_PATH = "the key `path` or `builtin` of the model sets it"
_TOKENS_ONLY = "the engine only sees token ids; this server converts text"
_LOGPROBS = "the contract wants the log-probabilities of the raw model distribution"
_CHANGES_TOKENS = "it would change the sampled tokens, which only requests may do"
_OTHER_OUTPUTS = "it makes the engine send data that this server does not read"
_ONE_ENGINE = "one engine cannot be several here; use replicas or tensor_parallel_size"
_ONE_MACHINE = "all processes of an engine run on one machine here"
_NO_TEXT = "this server only serves models that continue a text"
_DEFAULTS = "set defaults of requests under `defaults` of the model"
_GRAMMARS = "this server enforces grammars itself, from the first token on"
_OTHER_CODE = "this server cannot guarantee its results with a class of others in the engine"
_OTHER_WEIGHTS = "this server only serves the files in the model's directory"

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("model", "model_weights", "served_model_name", "hf_config_path"), _FROM_PATH),
    **dict.fromkeys(
        ("tokenizer", "tokenizer_mode", "skip_tokenizer_init", "tokenizer_revision"), _TOKENS_ONLY
    ),
    **dict.fromkeys(("enable_prompt_embeds", "enable_mm_embeds", "tokens_only"), _TOKENS_ONLY),
    "logprobs_mode": _LOGPROBS,
    "logits_processors": "this server puts its own logits processor there, for bias, penalties and min_p",
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
    "config_format": "this server reads config.json itself",
    **dict.fromkeys(
        ("structured_outputs_config", "reasoning_parser", "reasoning_parser_plugin", "reasoning_config"),
        _GRAMMARS,
    ),
    **dict.fromkeys(("scheduler_cls", "worker_cls", "worker_extension_cls"), _OTHER_CODE),
    "scheduling_policy": "the server schedules requests by priority, which other policies ignore",
    "kv_sharing_fast_prefill": "vLLM crashes at the first request for the log-probabilities of a prompt",
    "stream_interval": "the server's own key stream_interval sets the tokens of a chunk",
    "enable_log_requests": "the server writes its own request log",
    "ec_transfer_config": _ONE_ENGINE,
    **dict.fromkeys(("enable_elastic_ep", "elastic_ep_max_dp_size"), _ONE_ENGINE),
    **dict.fromkeys(
        ("fault_tolerance_config", "enable_fault_tolerance"), "the server restarts engines itself"
    ),
    **dict.fromkeys(
        ("_api_process_count", "_api_process_rank"),
        "the server's key `workers` sets the number of API processes",
    ),
    **dict.fromkeys(
        ("max_num_queued_reqs", "max_num_queued_tokens"), "the server's key max_pending limits the queue"
    ),
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

# Values that are refused of arguments that are otherwise passed on.
REFUSED_VALUES: Mapping[tuple[str, Any], str] = {
    ("load_format", "pt"): "loading a pickle can run any code, so the server only reads safetensors",
    ("load_format", "npcache"): "loading a pickle can run any code, so the server only reads safetensors",
    (
        "distributed_executor_backend",
        "external_launcher",
    ): "the server starts the processes of the engine itself",
}

# vLLM's CPU build does not support these, and fails late with an error that looks temporary.
_ONE_MEMORY = "without a GPU, weights and KV cache are in the machine's memory already"
REFUSED_ON_CPU: Mapping[str, str] = {
    "kv_offloading_size": _ONE_MEMORY,
    "kv_transfer_config": _ONE_MEMORY,
    "offload_group_size": _ONE_MEMORY,
    "offload_backend": _ONE_MEMORY,
}
# Values of these that are accepted on a CPU, besides None and 0; for connectors, their names.
PASSED_ON_CPU: Mapping[str, tuple[str, ...]] = {
    "offload_backend": ("auto", "uva"),
    "kv_transfer_config": ("LMCacheConnectorV1", "LMCacheMPConnector"),
}

# Connectors that keep results of an engine for the same engine. Others carry them between engines.
OFFLOADING = {
    "OffloadingConnector",
    "SimpleCPUOffloadConnector",
    "LMCacheConnectorV1",
    "LMCacheMPConnector",
}


def refusal(name: str, value: Any) -> str | None:
    """Why an engine argument is not passed on; None: it is."""
    if name in OWN_KEYS:
        return f'set "{OWN_KEYS[name]}" as a key of the model, instead of "{name}" under engine_args'
    reason = REFUSED.get(name)
    neutral = (None, *NEUTRAL.get(name, (False,)))
    if reason is not None and any(value == other and type(value) is type(other) for other in neutral):
        reason = None  # for Python, 0 equals False
    elif isinstance(value, str):
        reason = reason or REFUSED_VALUES.get((name, value))
    elif name == "kv_transfer_config" and isinstance(value, Mapping):
        reason = next(_transfer_problems(value), None)
    return None if reason is None else f'engine_args has "{name}: {value}", which is refused: {reason}'


def refusal_on_cpu(name: str, value: Any) -> str | None:
    """Why vLLM's CPU build does not take an engine argument; None: it does."""
    reason = REFUSED_ON_CPU.get(name)
    said = value.get("kv_connector") if isinstance(value, Mapping) else value
    if reason is None or not said or said in PASSED_ON_CPU.get(name, ()):
        return None
    return f'engine_args has "{name}: {value}", which is refused on a CPU: {reason}'


def _transfer_problems(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("kv_load_failure_policy") == "recompute":
        yield "with kv_load_failure_policy recompute, the tokens of a candidate could change midway"
    if config.get("kv_role") not in (None, "kv_both"):
        yield f"kv_role {config['kv_role']} makes it one half of an engine; {_ONE_ENGINE}"
    if config.get("kv_connector") not in OFFLOADING:
        yield f"only connectors that offload are supported: {', '.join(sorted(OFFLOADING))}"
