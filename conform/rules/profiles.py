"""How APIs differ in the values that they accept, by field and kind of rule."""

from __future__ import annotations

# Fields that OpenAI's endpoint does not have, and refuses as unknown.
NOT_OPENAIS = {
    "repetition_penalty", "top_k", "min_p", "ignore_eos", "min_tokens", "stop_token_ids",
    "skip_special_tokens", "include_stop_str_in_output", "truncate_prompt_tokens", "priority", "unknown",
    "truncation_side", "add_special_tokens", "parse_special", "allowed_token_ids", "bad_words",
    "return_token_ids", "return_candidates", "cache_salt", "spaces_between_special_tokens", "stream_interval",
    "structured_outputs", "logprob_token_ids",
}  # fmt: skip
OPENAI = {
    ("best_of", "range"): "best_of is at most 20",
    ("best_of", "accepted"): "best_of is at most 20",
    ("top_p", "range"): "top_p may be 0",
}

# vLLM reads requests with pydantic, which converts a value of another type if it can.
LAX = "values of another type are converted where that is possible"
NO_BEST_OF = "there is no best_of any more, and the field is ignored"
VLLM = {
    ("n", "range"): "n is at most 16384 (VLLM_MAX_N_SEQUENCES)",
    ("best_of", "range"): NO_BEST_OF,
    ("best_of", "type"): NO_BEST_OF,
    ("best-of-below-n", "together"): NO_BEST_OF,
    ("best-of-in-a-stream", "together"): NO_BEST_OF,
    ("include-usage-of-another-type", "together"): LAX,
    ("model-is-missing", "together"): "without a model the server's first one answers",
    ("too-many-candidates", "together"): "as many candidates as n × prompts gives",
    ("repetition_penalty", "range"): "repetition_penalty has no upper bound",
    ("top_k", "range"): "top_k has no upper bound",
    ("logprobs", "range"): "logprobs is at most 20 (--max-logprobs)",
    ("priority", "range"): "priority is any integer",
    ("logit_bias", "type"): f"values beyond 100 are clamped, and {LAX}",
    ("temperature", "accepted"): "n is 1 at temperature 0",
    ("min-tokens-of-a-grammar", "together"): "if the grammar leaves no token, the reply is broken",
    ("no-end-of-a-grammar", "together"): "after the grammar's end any text may follow",
    ("allowed-tokens-of-a-grammar", "together"): "both apply, even if they leave no token",
    ("two-grammars", "together"): "structured_outputs is used",
    ("response_format", "accepted"): "a JSON schema needs a name",
    ("structured_outputs", "accepted"): "json_object is refused",
    ("stream_options", "type"): "an empty object is accepted without stream",
}


def differences(field: str, kind: str) -> dict[str, str]:
    """Profile -> what is so with that API. kind: range, type, accepted or together."""
    found = {"openai": OPENAI.get((field, kind), ""), "vllm": VLLM.get((field, kind), "")}
    if kind == "accepted" and field in NOT_OPENAIS:
        found["openai"] = "there is no such field"
    if kind == "type":
        found["vllm"] = found["vllm"] or LAX
    return {profile: words for profile, words in found.items() if words}
