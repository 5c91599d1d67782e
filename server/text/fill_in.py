"""Fill-in-the-middle, as code models are trained for it: finds its special tokens in the tokenizer
by their names."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import tokenizers

# The mark before each part, in the order of the prompt; a mark that nothing follows comes last. The families:
# Qwen's coders and CodeGemma; StarCoder and Granite; SantaCoder; DeepSeek's coders; Code Llama; Codestral.
PREFIX, SUFFIX, NOTHING = "prefix", "suffix", ""
KNOWN: tuple[tuple[tuple[str, str], ...], ...] = (
    (("<|fim_prefix|>", PREFIX), ("<|fim_suffix|>", SUFFIX), ("<|fim_middle|>", NOTHING)),
    (("<fim_prefix>", PREFIX), ("<fim_suffix>", SUFFIX), ("<fim_middle>", NOTHING)),
    (("<fim-prefix>", PREFIX), ("<fim-suffix>", SUFFIX), ("<fim-middle>", NOTHING)),
    (("<｜fim▁begin｜>", PREFIX), ("<｜fim▁hole｜>", SUFFIX), ("<｜fim▁end｜>", NOTHING)),
    (("▁<PRE>", PREFIX), ("▁<SUF>", SUFFIX), ("▁<MID>", NOTHING)),
    (("[SUFFIX]", SUFFIX), ("[PREFIX]", PREFIX)),
)
# Other tokens that end the filled-in text, if the vocabulary has them.
ENDS = (
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>", "<|endoftext|>", "<|im_end|>"),
    *("<fim_pad>", "<fim-pad>", "<file_sep>", "<repo_name>", "▁<EOT>", "[MIDDLE]"),
    *("<｜end▁of▁sentence｜>", "<|EOT|>"),
)
CONTROL = frozenset({*(name for marks in KNOWN for name, _ in marks), *ENDS})
# Put before a text that does not begin a prompt, because SentencePiece puts a space before the first text
ANOTHER = "☺"


@dataclass(frozen=True, slots=True)
class FillIn:
    """How a model fills in. marks: ids, each with the part that follows it. ends: ids that end the filled-in
    text. before: ids that the tokenizer puts before every prompt. spaces: whether it puts a space before
    every text too."""

    marks: tuple[tuple[int, str], ...]
    ends: tuple[int, ...]
    before: tuple[int, ...]
    spaces: bool

    def ids(self, plain: tokenizers.Tokenizer, prefix: str, suffix: str) -> list[int]:
        """The ids of the prompt. plain: an encoder that reads names of special tokens as text: a user's text
        is not control."""
        another = ANOTHER if self.spaces else ""
        after = plain.encode(another + suffix, add_special_tokens=False)
        texts = {PREFIX: plain.encode(prefix, add_special_tokens=False).ids, NOTHING: []}
        places = zip(after.ids, after.offsets, strict=True)
        texts[SUFFIX] = [i for i, (start, _) in places if start >= len(another)]
        return [*self.before, *(i for mark, what in self.marks for i in (mark, *texts[what]))]


def find(encoder: tokenizers.Tokenizer, vocab_size: int) -> FillIn | None:
    """None: the vocabulary has no known marks."""
    for marks in KNOWN:
        ids = _known(encoder, (name for name, _ in marks), vocab_size)
        if len(ids) == len(marks):
            encoded = encoder.encode("a")
            own = next(k for k, added in enumerate(encoded.special_tokens_mask) if not added)
            return FillIn(
                marks=tuple(zip(ids, (what for _, what in marks), strict=True)),
                ends=(*_known(encoder, ENDS, vocab_size), *ids),
                before=tuple(encoded.ids[:own]),
                spaces=str(encoder.id_to_token(encoded.ids[own])).startswith("▁"),
            )
    return None


def without_control(encoder: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy of the encoder that reads the names of special tokens, and of the marks, as text.

    It takes as long as reading the tokenizer's file. The given encoder is not changed.
    """
    state = json.loads(encoder.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["special"] or token["content"] in CONTROL
    copy = tokenizers.Tokenizer.from_str(json.dumps(state))
    copy.encode_special_tokens = True
    return copy


def _known(encoder: tokenizers.Tokenizer, names: Iterable[str], vocab_size: int) -> list[int]:
    ids = (encoder.token_to_id(name) for name in names)
    return [i for i in ids if i is not None and i < vocab_size]
