"""Filling in between two texts, as models of code are trained to: the tokens that say so, found in the
tokenizer by their names.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

import tokenizers

# What a text stands after, in the order of the prompt; a mark that nothing follows comes last. Of which
# families: Qwen's coders and CodeGemma; StarCoder and Granite; SantaCoder; DeepSeek's coders;
# Code Llama; Codestral.
PREFIX, SUFFIX, NOTHING = "prefix", "suffix", ""
KNOWN: tuple[tuple[tuple[str, str], ...], ...] = (
    (("<|fim_prefix|>", PREFIX), ("<|fim_suffix|>", SUFFIX), ("<|fim_middle|>", NOTHING)),
    (("<fim_prefix>", PREFIX), ("<fim_suffix>", SUFFIX), ("<fim_middle>", NOTHING)),
    (("<fim-prefix>", PREFIX), ("<fim-suffix>", SUFFIX), ("<fim-middle>", NOTHING)),
    (("<｜fim▁begin｜>", PREFIX), ("<｜fim▁hole｜>", SUFFIX), ("<｜fim▁end｜>", NOTHING)),
    (("▁<PRE>", PREFIX), ("▁<SUF>", SUFFIX), ("▁<MID>", NOTHING)),
    (("[SUFFIX]", SUFFIX), ("[PREFIX]", PREFIX)),
)
# Further tokens with which what is filled in ends, where the vocabulary has them.
ENDS = (
    *("<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>", "<|endoftext|>", "<|im_end|>"),
    *("<fim_pad>", "<fim-pad>", "<file_sep>", "<repo_name>", "▁<EOT>", "[MIDDLE]"),
    *("<｜end▁of▁sentence｜>", "<|EOT|>"),
)
CONTROL = frozenset({*(name for marks in KNOWN for name, _ in marks), *ENDS})
ANOTHER = "☺"  # before a text that begins no text: SentencePiece puts a space before what does


@dataclass(frozen=True, slots=True)
class FillIn:
    """A model's way. marks: ids, each with what follows it. ends: ids that end what is filled in. before: ids
    that the tokenizer puts before every prompt. spaces: whether it puts a space before every text too."""

    marks: tuple[tuple[int, str], ...]
    ends: tuple[int, ...]
    before: tuple[int, ...]
    spaces: bool

    def ids(self, plain: tokenizers.Tokenizer, prefix: str, suffix: str) -> list[int]:
        """The prompt. plain: an encoder to which names of special tokens are text: a user's text
        is not control."""
        another = ANOTHER if self.spaces else ""
        after = plain.encode(another + suffix, add_special_tokens=False)
        texts = {PREFIX: plain.encode(prefix, add_special_tokens=False).ids, NOTHING: []}
        places = zip(after.ids, after.offsets, strict=True)
        texts[SUFFIX] = [i for i, (start, _) in places if start >= len(another)]
        return [*self.before, *(i for mark, what in self.marks for i in (mark, *texts[what]))]


def find(encoder: tokenizers.Tokenizer, vocab_size: int) -> FillIn | None:
    """None: the vocabulary has no marks that are known."""
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
    """A copy to which the names of special tokens, and of those here, are text like any other.

    It takes as long as reading its file: nobody else's encoder is changed.
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
