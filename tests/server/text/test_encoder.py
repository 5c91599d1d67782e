from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import fastokens
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from server.text.encoder import FastEncoder
from server.text.encoding import Reading
from server.text.tokenizer import Tokenizer, load_tokenizer
from server.weights.builtin import builtin_path
from tests.helpers import BOS, EOS, VOCAB_SIZE, byte_level, model_directory, sentencepiece, until

# fastokens gives what the library tokenizers gives.

PIECES = ["he", "hello", " w", "\n\n", "é", "e\u0301", "世", "😀", "▁", "'s", "12"]
PIECES += [BOS, EOS, "<|im_start|>", "<|im"]
TEXT = st.lists(st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"])).map("".join)
HOW = st.builds(
    Reading,
    keep=st.none() | st.integers(1, 8),
    side=st.sampled_from(["left", "right"]),
    adds_special=st.booleans(),
    parses_special=st.booleans(),
    single_bos=st.booleans(),
    with_starts=st.booleans(),
)
MADE: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte-level": byte_level,
    "sentencepiece": sentencepiece,
}


def made(folder: Path, encoder: tokenizers.Tokenizer) -> Tokenizer:
    return load_tokenizer(model_directory(folder, encoder), VOCAB_SIZE)


def loaded(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.fast.load()
    return tokenizer


@pytest.fixture(scope="module", params=["built-in", *MADE])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    if request.param == "built-in":
        return loaded(load_tokenizer(builtin_path("smollm2-135m-instruct"), 49152))
    return loaded(made(tmp_path_factory.mktemp("made"), MADE[request.param]()))


@given(texts=st.lists(TEXT, min_size=1, max_size=3), how=HOW)
def test_both_give_the_same(tokenizer: Tokenizer, texts: list[str], how: Reading) -> None:
    assert tokenizer.encode_all(texts, how) == tokenizer.read_with_library(texts, how)


def test_it_is_fastokens_that_reads(tokenizer: Tokenizer) -> None:
    """The comparison above compares two libraries."""
    assert tokenizer.read_fast("hello", Reading()) is not None
    assert tokenizer.read_fast("hello", Reading(with_starts=True)) is not None


async def test_it_is_loaded_when_the_first_text_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library reads texts until then."""
    going, load = threading.Event(), FastEncoder.load
    monkeypatch.setattr(FastEncoder, "load", lambda self: going.wait() and load(self))
    tokenizer = made(tmp_path, byte_level())
    assert tokenizer.encode_all(["hello"])[0].ids == tokenizer.encode("hello")
    assert tokenizer.read_fast("hello", Reading()) is None
    going.set()
    await until(lambda: tokenizer.fast.is_loaded)
    assert tokenizer.read_fast("hello", Reading()) is not None


def test_without_a_thread_the_library_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    tokenizer = made(tmp_path, byte_level())
    monkeypatch.setattr(threading.Thread, "start", start)
    assert tokenizer.encode_all(["hello"])[0].ids == tokenizer.encode("hello")


def test_an_end_while_it_is_loaded() -> None:
    """A process that ends waits for it: cut off within Rust, it could be aborted."""
    code = f"""
import atexit
from pathlib import Path
from server.text.tokenizer import load_tokenizer
tokenizer = load_tokenizer(Path({str(builtin_path("smollm2-135m-instruct"))!r}), 49152)
atexit.register(lambda: print(tokenizer.fast.is_loaded))
tokenizer.encode_all(["hello"])
assert not tokenizer.fast.is_loaded
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"True\n", b"")


def test_loading_it_leaves_little_memory() -> None:
    """81 MB of this process's would stay, of which 54 only reading the file took."""
    code = f"""
from pathlib import Path
from server.text.tokenizer import load_tokenizer
tokenizer = load_tokenizer(Path({str(builtin_path("smollm2-135m-instruct"))!r}), 49152)
pages = lambda: int(Path("/proc/self/statm").read_text().split()[1])
before = pages()
tokenizer.fast.load()
print((pages() - before) * 4096 / 1e6)
"""
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert float(ended.stdout) < 50


def test_a_byte_that_the_vocabulary_lacks() -> None:
    """The built-in model has no token for it: fastokens refuses the text."""
    tokenizer = loaded(load_tokenizer(builtin_path("smollm2-135m-instruct"), 49152))
    first, second = tokenizer.encode_all(["a\x04b", "ab"])
    assert (first.ids, second.ids) == (tokenizer.encode("a\x04b"), tokenizer.encode("ab"))


def test_what_it_does_not_support_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        tokenizer = loaded(made(tmp_path, sentencepiece(metaspace=True)))
    assert (
        "tokenizer.json: prompts are tokenized without fastokens, because pre-tokenizer error: "
        in caplog.text
    )
    assert tokenizer.encode_all(["hello"])[0].ids == tokenizer.encode("hello")


def test_one_that_reads_otherwise_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = byte_level()
    other.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    found = fastokens.Tokenizer.from_json_str(other.to_str())
    monkeypatch.setattr(fastokens, "Tokenizer", SimpleNamespace(from_json_str=lambda _: found))
    tokenizer = loaded(made(tmp_path, byte_level()))
    assert not tokenizer.fast.is_loaded
    assert "tokenizer.json: fastokens is not used, because it tokenizes " in caplog.text


def test_a_tokenizer_whose_special_tokens_are_text_is_left_to_the_library(tmp_path: Path) -> None:
    """The setting is not in the file that fastokens reads."""
    directory = model_directory(tmp_path, byte_level())
    (directory / "tokenizer_config.json").write_text('{"split_special_tokens": true}')
    tokenizer = loaded(load_tokenizer(directory, VOCAB_SIZE))
    assert tokenizer.encode_all([BOS])[0].ids == [tokenizer.encode(one)[0] for one in BOS]
