"""The families: what their configurations, special tokens, beginnings and ends are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet
from tokenizers import Tokenizer

from tests.families import styles

CONTEXT_SIZE = 512
SIZES = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT_SIZE,
    # So large that attention looks at something and logits differ: with the usual 0.02 all are nearly alike.
    "initializer_range": 0.1,
}
HEAD_SIZE = 64  # which every attention kernel supports
GROUPED = {**SIZES, "num_key_value_heads": 1, "head_dim": HEAD_SIZE}
WINDOW = 24  # of sliding attention: shorter than the texts, so that it shows
BEYOND = 128_009  # an end that a checkpoint with a cut vocabulary still names


@dataclass(frozen=True)
class Family:
    """One family: what it publishes, and what its models do.

    style: makes its tokenizer. model_type, config: as in config.json. tokens, tokenizer_config: as in
    tokenizer_config.json. eos: all that generation_config.json names, tokens or ids. bos: the token before
    every text. empty: the token that an empty prompt is; None: it is refused. stop: a special token that ends
    nothing. model_tokens: what config.json says otherwise than `tokens`. padded: the embedding's rows are a
    multiple of this. has_bytes: any text has tokens, as every byte has one.
    """

    style: Callable[[], Tokenizer]
    model_type: str
    tokens: dict[str, str]
    eos: tuple[str | int, ...]
    bos: str | None
    empty: str | None
    stop: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    tokenizer_config: dict[str, Any] = field(default_factory=dict)
    model_tokens: dict[str, str] = field(default_factory=dict)
    padded: int = 1
    has_bytes: bool = True


GEMMA_TOKENS = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
LLAMA_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
GEMMA_ATTENTION = {
    "sliding_window": WINDOW,
    "query_pre_attn_scalar": 32,  # not the head's size, as in the larger ones
    "hidden_activation": "gelu_pytorch_tanh",
}

FAMILIES: dict[str, Family] = {
    "llama-2": Family(
        styles.llama_2,
        "llama",
        LLAMA_TOKENS,
        eos=("</s>",),
        bos="<s>",
        empty="<s>",
        stop="<unk>",
        config={**GROUPED, "num_key_value_heads": 2, "rms_norm_eps": 1e-5},
        tokenizer_config={"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False},
    ),
    "llama-3": Family(
        styles.llama_3,
        "llama",
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
        eos=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>", BEYOND),
        bos="<|begin_of_text|>",
        empty="<|begin_of_text|>",
        stop="<|python_tag|>",
        config={
            **GROUPED,
            "rope_theta": 500_000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": CONTEXT_SIZE // 8,
            },
        },
        tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"},
    ),
    "qwen-2": Family(
        styles.qwen_2,
        "qwen2",
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        eos=("<|im_end|>", "<|endoftext|>"),
        bos=None,
        empty="<|endoftext|>",
        stop="<|im_start|>",
        config={**GROUPED, "tie_word_embeddings": True, "use_sliding_window": False},
        model_tokens={"bos_token": "<|endoftext|>"},
        tokenizer_config={"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False},
        padded=128,
    ),
    "qwen-3": Family(
        styles.qwen_3,
        "qwen3",
        {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        eos=("<|im_end|>", "<|endoftext|>"),
        bos=None,
        empty=None,
        stop="<|fim_middle|>",
        config={**GROUPED, "tie_word_embeddings": True},
        tokenizer_config={"tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False},
    ),
    "mistral": Family(
        styles.mistral,
        "mistral",
        LLAMA_TOKENS,
        eos=("</s>",),
        bos="<s>",
        empty="<s>",
        stop="[INST]",
        config={**GROUPED, "sliding_window": WINDOW},
        tokenizer_config={"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "legacy": False},
    ),
    "gemma-2": Family(
        styles.gemma,
        "gemma2",
        GEMMA_TOKENS,
        eos=("<eos>", "<end_of_turn>"),
        bos="<bos>",
        empty="<bos>",
        stop="<start_of_turn>",
        config={
            **GROUPED,
            **GEMMA_ATTENTION,
            "attn_logit_softcapping": 2.0,  # so low that they show
            "final_logit_softcapping": 3.0,
        },
        tokenizer_config={"tokenizer_class": "GemmaTokenizer", "add_bos_token": True},
    ),
    "gemma-3": Family(
        styles.gemma,
        "gemma3_text",
        GEMMA_TOKENS,
        eos=("<eos>", "<end_of_turn>"),
        bos="<bos>",
        empty="<bos>",
        stop="<start_of_turn>",
        config={
            **GROUPED,
            **GEMMA_ATTENTION,
            "sliding_window_pattern": 2,
            "rope_local_base_freq": 10_000.0,
            "rope_theta": 1_000_000.0,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
        tokenizer_config={"tokenizer_class": "GemmaTokenizer", "add_bos_token": True},
        padded=64,
    ),
    "phi-3": Family(
        styles.phi_3,
        "phi3",
        {**LLAMA_TOKENS, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
        eos=("<|endoftext|>", "<|assistant|>", "<|end|>"),
        bos=None,
        empty="<s>",
        stop="<|user|>",
        config={
            **GROUPED,
            "original_max_position_embeddings": CONTEXT_SIZE,
            "max_position_embeddings": 4 * CONTEXT_SIZE,
            "rope_theta": 10_000.0,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": [1.0 + 0.05 * k for k in range(HEAD_SIZE // 2)],
                "long_factor": [2.0 + 0.5 * k for k in range(HEAD_SIZE // 2)],
            },
        },
        tokenizer_config={"tokenizer_class": "LlamaTokenizer", "add_bos_token": False, "legacy": False},
        padded=64,
    ),
    "gpt-2": Family(
        styles.gpt_2,
        "gpt2",
        dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
        eos=("<|endoftext|>",),
        bos=None,
        empty="<|endoftext|>",
        config={
            "n_embd": 128,
            "n_head": 2,
            "n_layer": 2,
            "n_positions": CONTEXT_SIZE,
            "initializer_range": 0.1,
        },
        tokenizer_config={"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": False},
    ),
    "opt": Family(
        styles.opt,
        "opt",
        {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"},
        eos=("</s>",),
        bos="</s>",
        empty="</s>",
        stop="<s>",
        config={
            "hidden_size": 128,
            "word_embed_proj_dim": 128,
            "ffn_dim": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": CONTEXT_SIZE,
            "init_std": 0.1,
        },
        tokenizer_config={"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True},
    ),
    "gpt-neox": Family(
        styles.gpt_neox,
        "gpt_neox",
        dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>"),
        eos=("<|endoftext|>",),
        bos=None,
        empty="<|endoftext|>",
        stop="<|padding|>",
        config={**SIZES, "rotary_pct": 0.25, "use_parallel_residual": True},
        tokenizer_config={"tokenizer_class": "GPTNeoXTokenizer", "add_prefix_space": False},
        padded=128,
    ),
    "unigram": Family(
        styles.unigram,
        "llama",
        {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
        eos=("</s>",),
        bos="</s>",
        empty="</s>",
        stop="<pad>",
        config=GROUPED,
        has_bytes=False,
        tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast"},
    ),
}

# In each run: tokenizers of bytes, of SentencePiece's kind and unigram; texts with and without a token at the
# beginning, with one end and several; full and sliding attention. An engine for each family takes minutes, so
# the others are for `make test-long`.
IN_EACH_RUN = ("llama-3", "qwen-3", "gemma-3", "phi-3", "unigram")


def by_length(names: Iterable[str]) -> list[ParameterSet]:
    """Families as parameters of tests, with those marked that are not in each run."""
    return [
        pytest.param(name, marks=() if name in IN_EACH_RUN else pytest.mark.long, id=name) for name in names
    ]
