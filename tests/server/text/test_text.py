from __future__ import annotations

import codecs
import contextlib
from collections.abc import Callable, Iterator
from itertools import combinations, product
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders

from server.errors import ConfigurationError
from server.text.detokenizer import Detokenizer
from server.text.stops import StopMatcher
from server.text.tokenizer import Tokenizer, load_tokenizer
from tests.helpers import BOS, EOS, VOCAB_SIZE, byte_level, model_directory, sentencepiece

# --- any text through real tokenizers ---------------------------------------------------------------------

ANY_TEXT = st.text(st.sampled_from("helo wr▁é世\n😀\x00") | st.characters(exclude_categories=["Cs"]))
KINDS: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte-level": byte_level,
    "sentencepiece": sentencepiece,
    "metaspace": lambda: sentencepiece(metaspace=True),
    "metaspace, never in front": lambda: decoding(decoders.Metaspace(prepend_scheme="never")),
    "metaspace, first in front": lambda: decoding(decoders.Metaspace(prepend_scheme="first")),
    "without a space taken away": lambda: decoding(decoders.Replace("▁", " ")),
}


def decoding(decoder: decoders.Decoder) -> tokenizers.Tokenizer:
    """SentencePiece's tokens, made text of in another way."""
    tokenizer = sentencepiece(metaspace=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoder])
    return tokenizer


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp(request.param)
    return load_tokenizer(model_directory(path, KINDS[request.param]()), VOCAB_SIZE)


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return load_tokenizer(model_directory(tmp_path_factory.mktemp("pieces"), sentencepiece()), VOCAB_SIZE)


def detokenized(tokenizer: Tokenizer, ids: list[int], *, skip_special: bool = True) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip_special=skip_special)
    return [*map(detokenizer.push, ids), detokenizer.finish()]


def prompt_text(tokenizer: Tokenizer, ids: list[int], *, skip_special: bool) -> str:
    return b"".join(tokenizer.prompt_bytes(ids, skip_special=skip_special)).decode("utf-8", "replace")


@given(text=ANY_TEXT)
def test_prompt_text_is_the_librarys(tokenizer: Tokenizer, text: str) -> None:
    """What the ids of any text add up to is what the tokenizers library decodes."""
    ids = tokenizer.encode(text)
    for skip in (True, False):
        assert prompt_text(tokenizer, ids, skip_special=skip) == tokenizer.encoder.decode(ids, skip)


@given(text=ANY_TEXT)
def test_byte_level_is_lossless(bytes_tokenizer: Tokenizer, text: str) -> None:
    """With a byte-level tokenizer any text comes back as it was."""
    assert "".join(detokenized(bytes_tokenizer, bytes_tokenizer.encode(text), skip_special=False)) == text


@given(prompt=ANY_TEXT.filter(bool), text=ANY_TEXT)
def test_completion_continues_its_prompt(tokenizer: Tokenizer, prompt: str, text: str) -> None:
    """A completion is what decoding it together with its prompt adds, the space at its start included."""
    start, more = tokenizer.encode("o" + prompt + "o"), tokenizer.encode(text)
    together = tokenizer.encoder.decode(start + more)
    assert tokenizer.encoder.decode(start) + "".join(detokenized(tokenizer, more)) == together


@given(ids=st.lists(st.integers(0, 264)))
def test_any_ids(bytes_tokenizer: Tokenizer, ids: list[int]) -> None:
    """Ids in any order, half characters among them, decode as the library decodes them all at once."""
    assert "".join(detokenized(bytes_tokenizer, ids)) == bytes_tokenizer.encoder.decode(ids)


@given(ids=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=8), skip=st.booleans())
def test_any_ids_are_decoded_as_the_library_does(tokenizer: Tokenizer, ids: list[int], skip: bool) -> None:
    """Whatever the decoder, and wherever special tokens and spaces stand, as long as the bytes are text."""
    content = b"".join(tokenizer.prompt_bytes(ids, skip_special=skip))
    with contextlib.suppress(UnicodeDecodeError):  # of a run of bytes that is none, the library gives up all
        assert content.decode() == tokenizer.encoder.decode(ids, skip)


@given(ids=st.lists(st.integers(0, VOCAB_SIZE - 1)), skip=st.booleans())
def test_tokens_add_up(tokenizer: Tokenizer, ids: list[int], skip: bool) -> None:
    """The tokens' bytes are the text, wherever the tokenizer cuts; padding and skipped tokens have none."""
    content = b"".join(b"" if skip and i in tokenizer.special else tokenizer.table[i] for i in ids)
    assert "".join(detokenized(tokenizer, ids, skip_special=skip)) == content.decode("utf-8", "replace")


@given(text=ANY_TEXT)
def test_characters_stay_whole(bytes_tokenizer: Tokenizer, text: str) -> None:
    """A token that ends within a character gives nothing of it, and the next ones give it whole."""
    ids, done = bytes_tokenizer.encode(text), b""
    for token_id, piece in zip(ids, detokenized(bytes_tokenizer, ids, skip_special=False), strict=False):
        before = codecs.getincrementaldecoder("utf-8")().decode(done)
        done += bytes_tokenizer.table[token_id]
        assert before + piece == codecs.getincrementaldecoder("utf-8")().decode(done)


def test_special_tokens(tokenizer: Tokenizer) -> None:
    """Special tokens are in the text only when they are not skipped."""
    ids = tokenizer.encode(f"{BOS}he{EOS}")
    assert prompt_text(tokenizer, ids, skip_special=True).strip() == "he"
    assert prompt_text(tokenizer, ids, skip_special=False).replace(" ", "") == f"{BOS}he{EOS}"


def test_added_tokens_are_as_written(tmp_path: Path) -> None:
    """A token that was added to a byte-level vocabulary is its text, not what its characters encode."""
    tokenizer = byte_level()
    tokenizer.add_tokens(["né Ġ"])
    loaded = load_tokenizer(model_directory(tmp_path, tokenizer), VOCAB_SIZE)
    assert "".join(detokenized(loaded, loaded.encode("he né Ġ é"))) == "he né Ġ é"


# --- names of tokens ---------------------------------------------------------------------------------------


def test_names_are_unique(tokenizer: Tokenizer) -> None:
    """No two tokens have the same name, padding included."""
    assert len(set(tokenizer.names)) == len(tokenizer.names) == VOCAB_SIZE


def test_names_say_the_bytes(tokenizer: Tokenizer) -> None:
    """A token's name is its text, or its bytes in hexadecimal, or an id where it has no bytes of its own."""
    for token_id, name in enumerate(tokenizer.names):
        if name.startswith("token_id:"):
            assert name == f"token_id:{token_id}"
        elif name.startswith("bytes:"):
            assert bytes.fromhex(name.removeprefix("bytes:").replace("\\x", "")) == tokenizer.table[token_id]
        else:
            assert name.encode() == tokenizer.table[token_id]


def name_of(tokenizer: Tokenizer, token: str) -> str:
    return tokenizer.names[tokenizer.encoder.get_vocab()[token]]


def test_letters_have_plain_names(pieces: Tokenizer) -> None:
    """SentencePiece's token for the letter keeps the plain name; that for the same byte is spelt out."""
    assert (name_of(pieces, "h"), name_of(pieces, "<0x68>")) == ("h", "bytes:\\x68")


def test_lone_byte_has_a_plain_name(pieces: Tokenizer) -> None:
    """A byte that has no other token is written as text where it is text."""
    assert (name_of(pieces, "<0x0A>"), name_of(pieces, "<0xE4>")) == ("\n", "bytes:\\xe4")


# --- loading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "{}", "[]", None])
def test_broken_tokenizer(tmp_path: Path, text: str | None) -> None:
    """A tokenizer that cannot be read is an error that names the file."""
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json cannot be read"):
        load_tokenizer(tmp_path, 10)


@pytest.mark.parametrize(
    ("decoder", "words"),
    [
        (None, "of type None"),
        (decoders.WordPiece(), "of type WordPiece"),
        (decoders.BPEDecoder(), "of type BPEDecoder"),
        (
            decoders.Sequence([decoders.ByteLevel(), decoders.Replace("e", "a")]),
            "steps that this server does not implement",
        ),
        (
            decoders.Sequence([decoders.ByteFallback(), decoders.Strip("e", 0, 1)]),
            "steps that this server does not implement",
        ),
    ],
)
def test_unknown_decoder(tmp_path: Path, decoder: decoders.Decoder | None, words: str) -> None:
    """A tokenizer that decodes in a way this server does not know is refused, not guessed at."""
    tokenizer = byte_level()
    tokenizer.decoder = decoder
    with pytest.raises(ConfigurationError, match=f"{words}.*supported are ByteLevel"):
        load_tokenizer(model_directory(tmp_path, tokenizer), VOCAB_SIZE)


def test_tokenizer_larger_than_the_model(directory: Path) -> None:
    """Every id of the tokenizer has its bytes, those beyond the model's vocabulary included."""
    assert len(load_tokenizer(directory, 10).table) == 265


def test_no_truncation_no_padding(tmp_path: Path) -> None:
    """Truncation and padding that a tokenizer was saved with do not touch prompts."""
    tokenizer = byte_level()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=100)
    loaded = load_tokenizer(model_directory(tmp_path, tokenizer), VOCAB_SIZE)
    assert [len(encoded.ids) for encoded in loaded.encode_all(["e" * 50, "e"])] == [50, 1]


# --- stop sequences ----------------------------------------------------------------------------------------

STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=4).map(tuple)
SPLIT = st.lists(st.text("ab", max_size=5), max_size=8)


def naive(text: str, stops: tuple[str, ...], *, include: bool) -> tuple[str, bool]:
    """The specification: read character by character, and end at the first that completes a sequence."""
    for end in range(1, len(text) + 1):
        complete = [stop for stop in stops if text[:end].endswith(stop)]
        if complete:
            return text[: end if include else end - max(map(len, complete))], True
    return text, False


def matched(parts: list[str], stops: tuple[str, ...], *, include: bool) -> Iterator[tuple[str, bool]]:
    matcher = StopMatcher(stops, include=include)
    for part in parts:
        given, stopped = matcher.push(part)
        yield given, stopped
        if stopped:
            return
    yield matcher.finish(), False


@given(parts=SPLIT, stops=STOPS, include=st.booleans())
def test_stop(parts: list[str], stops: tuple[str, ...], include: bool) -> None:
    """However text is cut into tokens, it ends where reading character by character ends it."""
    given = list(matched(parts, stops, include=include))
    assert ("".join(text for text, _ in given), given[-1][1]) == naive("".join(parts), stops, include=include)


@pytest.mark.parametrize("include", [False, True])
def test_stop_of_any_length(include: bool) -> None:
    """The same for every short text that comes character by character, and every sequence in it."""
    for text in ("".join(letters) for size in range(1, 7) for letters in product("ab", repeat=size)):
        for start, end in combinations(range(len(text) + 1), 2):
            stops = (text[start:end],)
            given = "".join(part for part, _ in matched(list(text), stops, include=include))
            assert given == naive(text, stops, include=include)[0], (text, stops)


@given(parts=SPLIT, stops=STOPS)
def test_held_back(parts: list[str], stops: tuple[str, ...]) -> None:
    """Only text that may be the start of a sequence that is to be left out is held back, and all of it."""
    seen = given = ""
    for part, (text, stopped) in zip(parts, matched(parts, stops, include=False), strict=False):
        seen, given = seen + part, given + text
        if stopped:
            return
        starts = (stop[:size] for stop in stops for size in range(1, len(stop)))
        assert len(seen) - len(given) == max((len(s) for s in starts if seen.endswith(s)), default=0)


@given(parts=SPLIT, stops=STOPS)
def test_nothing_held_back_when_included(parts: list[str], stops: tuple[str, ...]) -> None:
    """A sequence that stays in the text holds nothing back."""
    for part, (text, stopped) in zip(parts, matched(parts, stops, include=True), strict=False):
        assert stopped or text == part


def test_longest_of_several() -> None:
    """Of sequences that are complete with the same character, the longest counts."""
    assert next(matched(["xab"], ("b", "ab"), include=False)) == ("x", True)


@given(parts=SPLIT.filter(bool), stops=STOPS, include=st.booleans())
def test_inactive(parts: list[str], stops: tuple[str, ...], include: bool) -> None:
    """Before min_tokens a complete sequence is text like any other, and does not stop later either."""
    matcher = StopMatcher(stops, include=include)
    text = "".join(matcher.push(part, active=False)[0] for part in parts)
    given, stopped = matcher.push("c")
    assert (text + given, stopped) == ("".join(parts) + "c", False)
