"""Vocabularies trained on the spot: byte-level BPE, SentencePiece's BPE with every byte, Unigram."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

TEXT = """\
The capital of France is Paris, and the capital of Germany is Berlin. Both are old cities, and it's said that
they're never the same in the morning. Once upon a time there was a little robot who wanted to learn to paint.
In 1984 there were 12,345 of them; by 2024 we'll have 1,000,000 more. I'd rather you've seen what he'd done.
    def fib(n):
        return n if n < 2 else fib(n - 1) + fib(n - 2)


Die Hauptstadt von Österreich ist Wien, größer als alle übrigen Städte. Où est la bibliothèque? Là-bas, naïve.
Столица России — Москва, а столица Болгарии — София. Жил-был маленький робот, который хотел рисовать.
日本の首都は東京です。昔々、あるところに小さなロボットがいました。中国的首都是北京。从前有一个小机器人。
عاصمة مصر هي القاهرة، وعاصمة المغرب هي الرباط. ราชอาณาจักรไทย 대한민국의 수도는 서울입니다.
"""
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level(size: int, *, regex: str | None = None, first: Sequence[AddedToken] = ()) -> Tokenizer:
    """GPT-2's kind, with its pre-tokenizer. size: tokens that are learnt, the 256 bytes among them; `first`
    come before them. regex: how a text is cut into words; None is GPT-2's own."""
    tokenizer = Tokenizer(models.BPE())
    if regex is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        cut = pre_tokenizers.Split(Regex(regex), "isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, to_bytes])
    trainer = trainers.BpeTrainer(
        vocab_size=size + len(first),
        special_tokens=list(first),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(keepends=True), trainer)
    return tokenizer


def sentencepiece(size: int, control: list[str], extra: Sequence[str] = ()) -> Tokenizer:
    """Spaces are the letter ▁, and a letter that was never seen is its bytes.

    In this order: control tokens, of which one is <unk>; every byte; extra tokens that no merge makes; `size`
    learnt ones, the letters among them.
    """
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=size, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    tokens = [*control, *BYTES, *extra, *sorted(learnt["vocab"], key=learnt["vocab"].__getitem__)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    merges = [(left, right) for left, right in learnt["merges"]]
    return Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))


def unigram(size: int, control: list[str]) -> Tokenizer:
    """The likeliest pieces instead of merges, and no bytes: what was never seen is <unk>."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}|[\n\r\t]"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=control, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    return tokenizer
