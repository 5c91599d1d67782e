"""Whether fastokens gives the ids of the library tokenizers, for real tokenizers, and how long both take.

    python -m benchmarks.encoders DIRECTORY… [--seconds 60] [--json FILE]

DIRECTORY: a model's, or any with a tokenizer.json. For each, every character of Unicode is read, and for some
seconds random texts: scripts, spaces, special tokens and parts of them, pieces of this project's files. Both
must give the same ids, the same marks of what was added, and the same places in the text. Ends with 1 if they
do not.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import report
from benchmarks.report import machine, write
from server.errors import ConfigurationError
from server.text.encoding import Reading
from server.text.tokenizer import Tokenizer, load_tokenizer

ROOT = Path(__file__).resolve().parent.parent
LARGEST = 1_000_000  # a model's vocabulary, which these directories need not tell
SURROGATES = range(0xD800, 0xE000)
SPACES = " \t\n\r\v\f\u0085\u00a0\u2003\u200b\u200d\u3000"
SIGNS = "abcXYZ.,;:!?-_=/\\()[]{}<>|#@$%^&*~`\"'0123456789"
ODD = (
    *(
        "'s",
        "'S",
        "'LL",
        "n't",
        "don'T",
        "'ſ",
        "123",
        "1234567",
        "٣٤٥",
        "½",
        "²",
        "e\u0301",
        "Å",
        "ﬁ",
        "한글",
        "ǅ",
    ),
    *("ß", "İ", "ſ", "K", "👩\u200d👩\u200d👧", "🇩🇪", "▁", " ▁"),
)
SCRIPTS = (
    *((0x20, 0x7F), (0, 0x250), (0x300, 0x3000), (0x3000, 0xD800), (0xE000, 0x10000), (0x10000, 0x20000)),
    (0x20000, 0x110000),
)
ROUNDS, WORDS = 20, 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIRECTORY")
    parser.add_argument("--seconds", type=float, default=60, help="of random texts, for each tokenizer")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    pieces = [path.read_text() for path in sorted([*ROOT.glob("docs/**/*.md"), *ROOT.glob("server/**/*.py")])]
    rows = []
    for directory in options.directories:
        row = compare(directory, pieces, options.seconds)
        print(row, flush=True)
        rows.append(row)
    _print(rows)
    if options.json:
        write(options.json, {"machine": machine("encoders"), "seconds": options.seconds, "tokenizers": rows})
    sys.exit(any(row.get("differ") for row in rows))


def compare(directory: Path, pieces: Sequence[str], seconds: float) -> dict[str, Any]:
    """What was compared, and how much of it differs."""
    name = {"tokenizer": directory.name}
    try:
        tokenizer = load_tokenizer(directory, LARGEST)
    except ConfigurationError as error:
        return {**name, "not_loaded": error.message.replace(f"{directory}/", "")}
    start = time.perf_counter()
    tokenizer.fast.load()
    if not tokenizer.fast.is_loaded:
        return {**name, "fast": False}
    row: dict[str, Any] = {**name, "load_s": round(time.perf_counter() - start, 2)}
    draw, differ, num_fast, num = random.Random(1), list[str](), 0, 0
    for text, how in _all(tokenizer, draw, pieces, seconds):
        num += 1
        if (fast := tokenizer.read_fast(text, how)) is not None:
            num_fast += 1
            if [fast] != tokenizer.read_with_library([text], how):
                differ.append(text)
    row |= {"texts": num, "read_by_fastokens": num_fast, "differ": len(differ), "examples": differ[:3]}
    words = [word for piece in pieces for word in piece.split()]
    texts = [" ".join(draw.choices(words, k=WORDS)) for _ in range(ROUNDS)]
    for what, read in (
        ("fastokens_us", lambda text, how: tokenizer.encode_all([text], how)),
        ("library_us", lambda text, how: tokenizer.read_with_library([text], how)),
    ):
        for suffix, how in (("", Reading()), ("_places", Reading(with_starts=True))):
            row[what + suffix] = round(_us_a_token(read, texts, how), 3)
    return row


def _all(
    tokenizer: Tokenizer, draw: random.Random, pieces: Sequence[str], seconds: float
) -> Iterator[tuple[str, Reading]]:
    for first in range(0, sys.maxunicode + 1, 32):
        characters = [chr(code) for code in range(first, first + 32) if code not in SURROGATES]
        for between in ("a", " "):
            yield between.join(characters), Reading()
    special, end = list(tokenizer.special_ids) or [""], time.monotonic() + seconds
    while time.monotonic() < end:
        text = "".join(_piece(draw, pieces, special) for _ in range(draw.choice((1, 2, 3, 5, 10, 40))))
        yield text, Reading(adds_special=draw.random() < 0.7, with_starts=draw.random() < 0.5)


def _piece(draw: random.Random, pieces: Sequence[str], special: Sequence[str]) -> str:
    kind = draw.choice(("script", "spaces", "special", "part of one", "text", "text", "odd", "signs"))
    if kind == "script":
        codes = [draw.randrange(*draw.choice(SCRIPTS)) for _ in range(draw.randrange(1, 12))]
        return "".join(chr(code) for code in codes if code not in SURROGATES)
    if kind == "text":
        piece = draw.choice(pieces)
        first = draw.randrange(len(piece) + 1)
        return piece[first : first + draw.randrange(60)]
    if kind in ("special", "part of one"):
        name = draw.choice(special)
        return name if kind == "special" else name[: draw.randrange(len(name) + 1)]
    return draw.choice({"spaces": SPACES, "odd": ODD, "signs": SIGNS}[kind]) * draw.randrange(1, 9)


def _us_a_token(read: Callable[[str, Reading], Any], texts: Sequence[str], how: Reading) -> float:
    """The least of all texts."""
    found = list[float]()
    for text in texts:
        start = time.process_time()
        (encoded, *_) = read(text, how)
        found.append((time.process_time() - start) / len(encoded.ids))
    return min(found) * 1e6


def _print(rows: Sequence[dict[str, Any]]) -> None:
    keys = (
        "texts",
        "read_by_fastokens",
        "differ",
        "fastokens_us",
        "library_us",
        "fastokens_us_places",
        "library_us_places",
    )
    columns = (
        "tokenizer",
        "texts",
        "read by fastokens",
        "differ",
        "fastokens",
        "library",
        "fastokens, places",
        "library, places",
    )
    cells = ((row["tokenizer"], *(str(row.get(key, "")) for key in keys)) for row in rows)
    Console().print(report.table("fastokens beside the library tokenizers, µs a token", columns, cells))


if __name__ == "__main__":
    main()
