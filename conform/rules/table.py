"""The request fields of contract.md, value by value: what is accepted, what is refused, and the words
of the refusal.

For any server with any engine: this file knows the contract and nothing of the server. The rows only depend
on the model's vocabulary and context. Each row changes fields of BASE.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Body = dict[str, Any]
Row = tuple[str, Any, str]  # field, value, words of the message

BASE: Body = {"prompt": "hello", "max_tokens": 2}
INT64 = 2**63
# For a model without a fill-in-the-middle template; other models answer it (rules/prompts.py).
NO_TEMPLATE: Row = ("suffix", "x", "has no fill-in-the-middle template")


def accepted(vocab_size: int) -> list[tuple[Body, Body]]:
    """Accepted fields of a request -> their meaning, if they have one."""
    last = vocab_size - 1
    return [
        ({}, {"max_tokens": 2, "n": 1, "best_of": 1, "seed": None, "temperature": 1.0, "top_p": 1.0}),
        ({}, {"frequency_penalty": 0.0, "presence_penalty": 0.0, "repetition_penalty": 1.0, "min_p": 0.0}),
        ({}, {"stop": (), "include_stop": True, "logit_bias": {}, "num_logprobs": None, "echo": False}),
        ({}, {"ignore_eos": False, "min_tokens": 0, "stop_token_ids": (), "skip_special_tokens": True}),
        ({}, {"top_k": 0}),
        ({"max_tokens": None}, {"max_tokens": 16}),
        ({"max_tokens": 1}, {"max_tokens": 1}),
        ({"stream": True}, {}),
        ({"stream": False}, {}),
        ({"stream": None}, {}),
        ({"stream_options": None}, {}),
        ({"stream": True, "stream_options": {}}, {}),
        ({"stream": True, "stream_options": {"include_usage": None}}, {}),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, {}),
        ({"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}, {}),
        ({"stream": True, "stream_options": {"include_usage": False, "more": 1}}, {}),
        ({"n": 1}, {"n": 1, "best_of": 1}),
        ({"n": 128, "max_tokens": 1}, {"n": 128, "best_of": 128}),
        ({"n": None, "best_of": None}, {"n": 1, "best_of": 1}),
        ({"n": 2, "best_of": 2, "stream": True}, {"n": 2, "best_of": 2}),
        ({"n": 2, "best_of": 3}, {"n": 2, "best_of": 3}),
        ({"best_of": 1}, {"n": 1, "best_of": 1}),
        ({"best_of": 128, "max_tokens": 1}, {"n": 1, "best_of": 128}),
        ({"seed": 0}, {"seed": 0}),
        ({"seed": INT64 - 1}, {"seed": INT64 - 1}),
        ({"seed": -INT64}, {"seed": -INT64}),
        ({"frequency_penalty": -2}, {"frequency_penalty": -2.0}),
        ({"frequency_penalty": 2.0}, {"frequency_penalty": 2.0}),
        ({"presence_penalty": -2.0}, {"presence_penalty": -2.0}),
        ({"presence_penalty": 2}, {"presence_penalty": 2.0}),
        ({"repetition_penalty": 1e-9}, {"repetition_penalty": 1e-9}),
        ({"repetition_penalty": 2}, {"repetition_penalty": 2.0}),
        ({"stop": None}, {"stop": ()}),
        ({"stop": []}, {"stop": ()}),
        ({"stop": "a"}, {"stop": ("a",)}),
        ({"stop": ["a", "b", "c", "\n\n"]}, {"stop": ("a", "b", "c", "\n\n")}),
        ({"include_stop_str_in_output": False}, {"include_stop": False}),
        ({"include_stop_str_in_output": True}, {"include_stop": True}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": 2}, {"temperature": 2.0}),
        ({"temperature": 0, "n": 2}, {"temperature": 0.0, "n": 2}),
        ({"temperature": None}, {"temperature": 1.0}),
        ({"top_p": 1e-9}, {"top_p": 1e-9}),
        ({"top_p": 1}, {"top_p": 1.0}),
        ({"top_k": 1}, {"top_k": 1}),
        ({"top_k": 128}, {"top_k": 128}),
        ({"top_k": 0}, {"top_k": 0}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"min_p": 0}, {"min_p": 0.0}),
        ({"min_p": 1}, {"min_p": 1.0}),
        ({"logit_bias": {}}, {"logit_bias": {}}),
        ({"logit_bias": {"0": -100, str(last): 100}}, {"logit_bias": {0: -100.0, last: 100.0}}),
        ({"logit_bias": {"7": 0.5}}, {"logit_bias": {7: 0.5}}),
        ({"allowed_token_ids": [7, 8, 7, last]}, {"allowed_token_ids": (7, 8, last)}),
        ({"bad_words": []}, {"bad_words": ()}),
        ({"bad_words": ["hello", " w"]}, {}),
        ({"response_format": {"type": "text"}}, {"grammar": None}),
        ({"response_format": {"type": "json_object"}}, {}),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}}}}, {}),
        ({"structured_outputs": {"choice": ["a", "b"]}}, {}),
        ({"structured_outputs": {"regex": "[ab]+", "choice": None}}, {}),
        ({"structured_outputs": {"json": '{"type":"integer"}', "disable_any_whitespace": True}}, {}),
        ({"structured_outputs": {"grammar": 'start: "a" | "b"'}}, {}),
        ({"structured_outputs": {"json_object": True}}, {}),
        ({"structured_outputs": {"json_object": True, "whitespace_pattern": " ?"}}, {}),
        ({"logprob_token_ids": []}, {"logprob_token_ids": ()}),
        ({"logprob_token_ids": [7, 7, last], "logprobs": 1}, {"logprob_token_ids": (7, last)}),
        ({"logprobs": 0}, {"num_logprobs": 0}),
        ({"logprobs": 5}, {"num_logprobs": 5}),
        ({"echo": True}, {"echo": True}),
        ({"ignore_eos": True}, {"ignore_eos": True}),
        ({"min_tokens": 2}, {"min_tokens": 2}),
        ({"stop_token_ids": []}, {"stop_token_ids": ()}),
        ({"stop_token_ids": [5, 5, last]}, {"stop_token_ids": (5, last)}),
        ({"skip_special_tokens": False}, {"skip_special_tokens": False}),
        ({"truncate_prompt_tokens": 1}, {"truncate_prompt_tokens": 1}),
        ({"truncate_prompt_tokens": -1}, {"truncate_prompt_tokens": -1}),
        ({"truncation_side": "right"}, {"truncation_side": "right"}),
        ({"truncation_side": "left"}, {"truncation_side": "left"}),
        ({"add_special_tokens": False}, {"add_special_tokens": False}),
        ({"parse_special": False}, {"parse_special": False}),
        ({"return_token_ids": True}, {"return_token_ids": True}),
        ({"return_candidates": True, "best_of": 2}, {"return_candidates": True, "best_of": 2}),
        ({"return_candidates": True, "stream": True}, {"return_candidates": False}),
        ({"cache_salt": "0" * 128}, {"cache_salt": "0" * 128}),
        ({"spaces_between_special_tokens": False}, {}),
        ({"stream_interval": 7, "stream": True}, {}),
        ({"stream_interval": 10**9}, {}),
        ({"priority": 1000}, {}),
        ({"user": "someone"}, {}),
        ({"suffix": None}, {}),
        ({"suffix": ""}, {}),
        ({"prompt": [0, last]}, {}),
        ({"functions": [], "model_config": 1, "__class__": {}, "": None}, {}),
    ]


OUT_OF_RANGE: dict[str, list[tuple[Any, str]]] = {  # each out of its range, and the range in words
    "max_tokens": [(-1, "0 or more"), (2**70, "0 or more")],
    "n": [(value, "between 1 and 128") for value in (0, -1, 129)],
    "best_of": [(value, "between n and 128") for value in (0, 129)],
    "seed": [(value, "within 64 bits") for value in (INT64, -INT64 - 1, 2**64)],
    "frequency_penalty": [(value, "between -2 and 2") for value in (-2.01, 2.01)],
    "presence_penalty": [(value, "between -2 and 2") for value in (-2.01, 2.01)],
    "repetition_penalty": [(value, "greater than 0 and at most 2") for value in (0, -1, 2.01)],
    "temperature": [(value, "between 0 and 2") for value in (-0.1, 2.01, 9)],
    "top_p": [(value, "greater than 0 and at most 1") for value in (0, -0.1, 1.01)],
    "top_k": [(value, "between 1 and 128") for value in (-2, 129)],
    "min_p": [(value, "between 0 and 1") for value in (-0.1, 1.01)],
    "logprobs": [(value, "between 0 and 5") for value in (-1, 6)],
    "min_tokens": [(value, "between 0 and max_tokens") for value in (-1, 3)],
    "truncate_prompt_tokens": [(value, "1 or more") for value in (0, -2)],
    "stream_interval": [(value, "1 or more") for value in (0, -1)],
    "priority": [*((value, "between -1000 and 1000") for value in (-1001, 1001)), (-1, "0 or more")],
}
INTEGERS = {
    "max_tokens", "n", "best_of", "seed", "top_k", "logprobs", "min_tokens", "truncate_prompt_tokens",
    "priority", "stream_interval",
}  # fmt: skip
BOOLEANS = (
    "stream", "echo", "ignore_eos", "skip_special_tokens", "include_stop_str_in_output", "add_special_tokens",
    "parse_special", "return_token_ids", "return_candidates", "spaces_between_special_tokens",
)  # fmt: skip


def _rows(fields: Iterable[str], values: list[Any], words: str) -> list[Row]:
    return [(field, value, words) for field in fields for value in values]


def refused(vocab_size: int) -> list[Row]:
    """Values that break the rule of their field; for a model without a fill-in-the-middle template."""
    ids = f"between 0 and {vocab_size - 1}"
    large_ids = (str(vocab_size), "9" * 30, "-1")
    no_decimals = ("", "a", "05", "1.0", " 5", "٥", "²", "9" * 5000)
    return [
        *((field, value, words) for field, pairs in OUT_OF_RANGE.items() for value, words in pairs),
        *_rows(sorted(INTEGERS), ["1", True, 1.5, [1], {}], "must be an integer"),
        *_rows(sorted(OUT_OF_RANGE.keys() - INTEGERS), ["1", True, [1]], "must be a number"),
        *_rows(BOOLEANS, ["true", 1, 0, []], "must be true or false"),
        *_rows(["model", "user", "suffix"], [1, True, ["m"]], "must be a string"),
        *_rows(["prompt"], [1, 1.5, True, {}], "must be a string, an array of strings"),
        *_rows(["prompt"], [[], [[]], [[1], []], [[], [1]]], "none of the arrays empty"),
        *_rows(["prompt"], [["a", 1], [1, "a"], [1, [1]], [[1], "a"], [[1, "a"]]], "array of token ids"),
        *_rows(["prompt"], [[1.5], [True], [-1], [[-1]], [None], [["a"]], [[["a"]]]], "array of token ids"),
        ("prompt", [vocab_size], f"token id {vocab_size} at position 0"),
        ("prompt", [[1], [2, 2**62]], f"token id {2**62} at position 1"),
        *_rows(["prompt"], [[2**31], [2**63], [2**64]], "prompt"),
        *_rows(["stop"], [1, True, [1], ["a", None], {}], "must be a string or an array of strings"),
        ("stop", ["a"] * 5, "at most 4"),
        *_rows(["stop"], ["", ["a", ""]], "must not contain an empty string"),
        *_rows(["logit_bias"], [[], "a", 1, True], "must be an object from token ids"),
        *_rows(["logit_bias"], [{"5": "1"}, {"5": True}, {"5": None}, {"5": []}], 'logit_bias["5"]'),
        ("logit_bias", {"5": 100.5}, 'logit_bias["5"] (current value: 100.5) must be between -100 and 100'),
        ("logit_bias", {"5": -101}, "must be between -100 and 100"),
        *_rows(["logit_bias"], [{key: 1} for key in large_ids], ids),
        *_rows(["logit_bias"], [{key: 1} for key in no_decimals], "decimal strings"),
        *_rows(["stop_token_ids"], [1, ["1"], [True], [-1], [1.5]], "must be an array of token ids"),
        ("stop_token_ids", [vocab_size], ids),
        *_rows(["logprob_token_ids"], [1, ["1"], [True], [-1]], "must be an array of token ids"),
        ("logprob_token_ids", [vocab_size], ids),
        ("logprob_token_ids", [*range(129)], "at most 128"),
        ("logprob_token_ids", [5], "must be left out without logprobs"),
        *_rows(
            ["allowed_token_ids"], [[], 1, ["1"], [True], [-1]], "must be an array of token ids, not empty"
        ),
        ("allowed_token_ids", [5, vocab_size], ids),
        *_rows(["bad_words"], ["a", 1, [1], ["a", None], {}], "must be an array of strings"),
        *_rows(["bad_words"], [[""], ["a", " "]], "must be words"),
        ("bad_words", ["a"] * 129, "at most 128"),
        *_rows(["truncation_side"], ["", "both", 1, True], 'must be "left" or "right"'),
        *_rows(
            ["cache_salt"],
            ["", "a@b", "a/b", "a\\b", "a\0", "a" * 129, 1, True, ["a"]],
            "1 to 128 characters",
        ),
        *_rows(["response_format", "structured_outputs"], [1, True, [], "a"], "must be an object"),
        *_rows(["response_format"], [{}, {"type": "xml"}, {"type": 1}], "response_format.type"),
        *_rows(
            ["response_format"], [{"type": "json_schema", "json_schema": 1}], "response_format.json_schema"
        ),
        *_rows(["structured_outputs"], [{}, {"regex": "a", "choice": ["b"]}], "must have exactly one of"),
        *_rows(["structured_outputs"], [{"structural_tag": 1}], "structured_outputs.structural_tag"),
        *_rows(
            ["structured_outputs"],
            [{"structural_tag": "a"}, {"structural_tag": {"structures": [], "triggers": ["a"]}}],
            "structured_outputs has no valid grammar",
        ),
        *_rows(
            ["structured_outputs"],
            [{"regex": "a", "whitespace_pattern": " "}, {"json": {}, "whitespace_pattern": 1}],
            "structured_outputs.whitespace_pattern",
        ),
        *_rows(["structured_outputs"], [{"regex": 1}, {"regex": ""}], "structured_outputs.regex"),
        *_rows(
            ["structured_outputs"],
            [{"choice": []}, {"choice": "a"}, {"choice": [1]}],
            "structured_outputs.choice",
        ),
        *_rows(["structured_outputs"], [{"json": 1}, {"json": ["a"]}], "structured_outputs.json"),
        *_rows(
            ["structured_outputs"],
            [{"regex": "(["}, {"json": "{"}, {"json": {"type": "x"}}, {"grammar": "start: a"}],
            "structured_outputs has no valid grammar",
        ),
        *_rows(["stream_options"], [1, True, [], "a"], "must be an object"),
        *_rows(["stream_options"], [{"include_usage": True}, {}], "must be null unless stream is true"),
        NO_TEMPLATE,
    ]


# (fields that do not go together, or that are missing; the field to change; words of the message)
TOGETHER: list[tuple[Body, str, str]] = [
    ({"n": 3, "best_of": 2}, "best_of", "best_of (current value: 2) must be between n (3) and 128"),
    ({"best_of": 2, "stream": True}, "best_of", "must be n (1) in a stream"),
    (
        {"stream": True, "stream_options": {"include_usage": 1}},
        "stream_options",
        "stream_options.include_usage",
    ),
    ({"max_tokens": None, "min_tokens": 17}, "min_tokens", "max_tokens (16)"),
    ({"prompt": [[1]] * 40, "n": 128}, "prompt", "40 prompts × 128 candidates"),
    ({"prompt": [[1]] * 1025}, "prompt", "at most 1024 prompts"),
    ({"model": None}, "model", "model is required"),
    ({"prompt": None}, "prompt", "prompt is required"),
    ({"prompt": [5], "suffix": "x"}, "suffix", "suffix"),
    ({"structured_outputs": {"choice": ["a"]}, "min_tokens": 1}, "min_tokens", "with structured_outputs"),
    ({"structured_outputs": {"choice": ["a"]}, "ignore_eos": True}, "ignore_eos", "with structured_outputs"),
    (
        {"response_format": {"type": "json_object"}, "allowed_token_ids": [5]},
        "allowed_token_ids",
        "with response_format",
    ),
    (
        {"response_format": {"type": "json_object"}, "structured_outputs": {"choice": ["a"]}},
        "response_format",
        "with structured_outputs",
    ),
]


def too_long(context_size: int) -> list[tuple[int, int, str]]:
    """(tokens of a prompt, max_tokens, the field to change): together they exceed the context."""
    return [
        (context_size, 1, "max_tokens"),
        (context_size + 1, 1, "prompt"),
        (context_size + 1, 0, "prompt"),
        (context_size - 4, 5, "max_tokens"),
        (1, context_size, "max_tokens"),
        (1, INT64, "max_tokens"),
    ]


def too_long_words(context_size: int, num_prompt: int, max_tokens: int) -> str:
    """OpenAI's message, in which clients search for the numbers."""
    return (
        f"This model's maximum context length is {context_size} tokens, however you requested "
        f"{num_prompt + max_tokens} tokens ({num_prompt} in your prompt; {max_tokens} for the completion)."
    )


# The subject of each row of TOGETHER, in its order.
TOGETHER_NAMES = (
    "best-of-below-n", "best-of-in-a-stream", "include-usage-of-another-type", "min-tokens-over-the-default",
    "too-many-candidates", "too-many-prompts", "model-is-missing", "prompt-is-missing", "suffix-after-ids",
    "min-tokens-of-a-grammar", "no-end-of-a-grammar", "allowed-tokens-of-a-grammar", "two-grammars",
)  # fmt: skip


NO_JSON_OBJECTS = [
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"{",
    b"{} {}",
    b"prompt=x",
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b"[" * 5000,
    b'{"model": "m", "prompt": "\\ud800"}',
    *(
        b'{"model": "m", "prompt": "a", "%s": %s}' % (field, number)
        for field in (b"temperature", b"anything")
        for number in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-1e999")
    ),
    b'{"model": "m", "prompt": "a", "temperature": ' + b"[" * 900 + b"]" * 900 + b"}",
]
CONTENT_TYPES = ["application/json", "text/plain", "application/x-www-form-urlencoded", "nonsense", ""]
