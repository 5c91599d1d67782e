"""A tokenizer in the style of each family: small vocabulary, the published pipeline.

A tokenizer.json says more than a vocabulary: which tokens are looked for first, what is done to a text before
it is cut, what is put in front of it, and how ids become text again.
"""

from __future__ import annotations

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors

from tests.families import vocabulary

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3 = rf"{CONTRACTIONS}|{WORDS}|\p{{N}}{{1,3}}|{REST}"
QWEN = rf"{CONTRACTIONS}|{WORDS}|\p{{N}}|{REST}"


def special(*names: str, rstrip: bool = False) -> list[AddedToken]:
    return [AddedToken(name, special=True, normalized=False, rstrip=rstrip) for name in names]


def plain(*names: str) -> list[AddedToken]:
    """Looked for before a text is cut, and no less text for it."""
    return [AddedToken(name, special=False, normalized=False) for name in names]


def template(tokenizer: Tokenizer, bos: str) -> processors.TemplateProcessing:
    """One token before every text."""
    return processors.TemplateProcessing(
        single=f"{bos} $A",
        pair=f"{bos} $A {bos}:1 $B:1",
        special_tokens=[(bos, tokenizer.token_to_id(bos))],
    )


def gpt_2() -> Tokenizer:
    tokenizer = vocabulary.byte_level(700)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_tokens(special("<|endoftext|>"))
    return tokenizer


def opt() -> Tokenizer:
    """GPT-2's with other special tokens, of which </s> is the beginning and the end."""
    tokenizer = vocabulary.byte_level(700, first=special("<s>", "<pad>", "</s>", "<unk>"))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = template(tokenizer, "</s>")
    return tokenizer


def gpt_neox() -> Tokenizer:
    """Runs of spaces are tokens that were added, in a text that was normalized before."""
    tokenizer = vocabulary.byte_level(700, first=special("<|endoftext|>", "<|padding|>"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.add_tokens([AddedToken(" " * size, normalized=True) for size in range(24, 1, -1)])
    return tokenizer


def llama_3() -> Tokenizer:
    """A word that is a token is that token, whatever the merges make of it."""
    tokenizer = vocabulary.byte_level(700, regex=LLAMA_3)
    tokenizer.model.ignore_merges = True
    tokenizer.decoder = decoders.ByteLevel()
    names = ["begin_of_text", "end_of_text", *(f"reserved_special_token_{k}" for k in range(4))]
    names += ["start_header_id", "end_header_id", "eom_id", "eot_id", "python_tag"]
    tokenizer.add_tokens(special(*(f"<|{name}|>" for name in names)))
    offsets = processors.ByteLevel(trim_offsets=False)
    tokenizer.post_processor = processors.Sequence([offsets, template(tokenizer, "<|begin_of_text|>")])
    return tokenizer


def qwen_2() -> Tokenizer:
    tokenizer = vocabulary.byte_level(700, regex=QWEN)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    return tokenizer


def qwen_3() -> Tokenizer:
    """Qwen 2's with tokens for tools and thoughts, which are text."""
    tokenizer = qwen_2()
    tokenizer.add_tokens(special("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"))
    tokenizer.add_tokens(plain("<tool_call>", "</tool_call>", "<think>", "</think>"))
    return tokenizer


def llama_2() -> Tokenizer:
    """A space is put before each part of a text between special tokens."""
    tokenizer = vocabulary.sentencepiece(500, ["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = without_first_space()
    tokenizer.add_tokens(special("<unk>", "<s>", "</s>"))
    tokenizer.post_processor = template(tokenizer, "<s>")
    return tokenizer


def phi_3() -> Tokenizer:
    """Llama 2's with chat tokens that swallow the blanks behind them, and no BOS."""
    tokenizer = llama_2()
    tokenizer.add_tokens([AddedToken("</s>", special=False, normalized=False, rstrip=True)])
    tokenizer.add_tokens(special("<|endoftext|>"))
    names = ["assistant", "placeholder1", "system", "end", "user"]
    tokenizer.add_tokens(special(*(f"<|{name}|>" for name in names), rstrip=True))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    return tokenizer


def mistral() -> Tokenizer:
    """As of version 3: a space before the text alone, tokens for instructions and tools."""
    control = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]"]
    tokenizer = vocabulary.sentencepiece(500, control)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = without_first_space()
    tokenizer.add_tokens(special(*control))
    tokenizer.post_processor = template(tokenizer, "<s>")
    return tokenizer


def gemma() -> Tokenizer:
    """No space is put in front, and none taken away; runs of line ends and of spaces are tokens."""
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<unused0>", "<start_of_turn>", "<end_of_turn>"]
    runs = ["\n" * size for size in range(2, 6)] + ["▁" * size for size in range(2, 6)]
    tokenizer = vocabulary.sentencepiece(500, control, [*runs, "<table>", "</table>"])
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_tokens(special(*control))
    tokenizer.add_tokens(plain(*runs, "<table>", "</table>"))
    tokenizer.post_processor = template(tokenizer, "<bos>")
    return tokenizer


def unigram() -> Tokenizer:
    """XGLM's, whose texts begin with their end."""
    tokenizer = vocabulary.unigram(500, ["<s>", "<pad>", "</s>", "<unk>"])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = template(tokenizer, "</s>")
    return tokenizer


def without_first_space() -> decoders.Sequence:
    return decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
