"""Fields of other servers that would change the reply, and that this server does not support.

Ignoring such a field would return another text than was asked for, so any value but the neutral one is a 400.
A field that is not listed here is unknown and ignored, as the hosted service does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from server.contract.request import shown
from server.errors import InvalidRequest

# Field -> the value that changes nothing. None: only null, or leaving the field out, changes nothing.
NEUTRAL: dict[str, Any] = {
    # vLLM
    "early_stopping": False,
    "guided_choice": None,
    "guided_decoding_backend": None,
    "guided_grammar": None,
    "guided_json": None,
    "guided_json_object": False,
    "guided_regex": None,
    "guided_whitespace_pattern": None,
    "length_penalty": 1.0,
    "logits_processors": [],
    "prompt_embeds": None,
    "prompt_logprobs": None,
    "repetition_detection": None,
    "return_tokens_as_token_ids": False,
    "thinking_token_budget": None,
    "use_beam_search": False,
    "vllm_xargs": {},
    "watermarking": False,
    # SGLang
    "custom_logit_processor": None,
    "custom_params": None,
    "ebnf": None,
    "json_schema": None,
    "lora_path": None,
    "min_new_tokens": 0,
    "no_stop_trim": True,  # this server includes the stop sequence in the text
    "regex": None,
    "sampling_seed": None,
    "stop_regex": [],
    "structural_tag": None,
    # Text Generation Inference and transformers
    "adapter_id": None,
    "do_sample": True,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "max_new_tokens": None,
    "no_repeat_ngram_size": 0,
    "num_beams": 1,
    "penalty_alpha": 0.0,
    "return_full_text": False,
    "truncate": None,
    "typical_p": 1.0,
    "watermark": False,
    # llama.cpp and servers built on it
    "dry_multiplier": 0.0,
    "dynatemp_range": 0.0,
    "grammar": "",
    "mirostat": 0,
    "n_predict": None,
    "n_probs": 0,
    "repeat_penalty": 1.0,
    "samplers": None,
    "smoothing_factor": 0.0,
    "tfs_z": 1.0,
    "top_a": 0.0,
    "top_n_sigma": -1.0,
    "xtc_probability": 0.0,
}

# The name of the same function here.
INSTEAD = {
    "ebnf": "structured_outputs.grammar",
    "guided_choice": "structured_outputs.choice",
    "guided_grammar": "structured_outputs.grammar",
    "guided_json": "structured_outputs.json",
    "guided_json_object": "structured_outputs.json_object",
    "guided_regex": "structured_outputs.regex",
    "json_schema": "structured_outputs.json",
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "n_predict": "max_tokens",
    "n_probs": "logprobs",
    "no_stop_trim": "include_stop_str_in_output: false",
    "prompt_logprobs": "echo with logprobs",
    "regex": "structured_outputs.regex",
    "repeat_penalty": "repetition_penalty",
    "return_full_text": "echo",
    "sampling_seed": "seed",
    "truncate": "truncate_prompt_tokens",
}


def refuse_unsupported(fields: Mapping[str, Any]) -> list[str]:
    """The names among the further fields of a request that are entirely unknown.

    Raises InvalidRequest for a field that this server does not support and whose value would
    change the reply.
    """
    for name, value in fields.items():
        if name in NEUTRAL and value not in (None, NEUTRAL[name]):
            neutral = "" if NEUTRAL[name] is None else f" or send {shown(NEUTRAL[name])}"
            instead = f"; here it is {INSTEAD[name]}" if name in INSTEAD else ""
            raise InvalidRequest(
                f"{name} (current value: {shown(value)}) is not supported by this server: leave it out"
                f"{neutral}{instead}",
                name,
            )
    return [name for name in fields if name not in NEUTRAL]
