from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from server.text import long
from server.text.encoding import Reading
from server.text.long import part, tokens_at_least
from server.text.tokenizer import Tokenizer, load_tokenizer
from tests.helpers import VOCAB_SIZE, byte_level, model_directory, sentencepiece
from tests.timing import cost_s

# Texts that are not tokenized whole, with pieces so short that texts of tests are long.

STYLES: dict[str, Callable[[], tokenizers.Tokenizer]] = {
    "byte-level": byte_level,
    "sentencepiece": sentencepiece,
    "metaspace": lambda: sentencepiece(metaspace=True),
}
WORDS = ["hello", " w", "or", " ", "   ", "\n", "é", "😀", "</s>", "hellohello", "x" * 30]
TEXT = st.lists(st.sampled_from(WORDS), min_size=20, max_size=200).map("".join)


@pytest.fixture(scope="module", params=STYLES)
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("style")
    return load_tokenizer(model_directory(path, STYLES[request.param]()), VOCAB_SIZE)


@pytest.fixture(scope="module", autouse=True)
def short_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long, "PIECE_CHARS", 40)
        patch.setattr(long, "CHARS_PER_TOKEN", 1)
        patch.setattr(long, "SLACK", 8)
        yield


@given(text=TEXT, limit=st.integers(0, 300))
def test_no_text_is_said_to_be_longer_than_it_is(tokenizer: Tokenizer, text: str, limit: int) -> None:
    """What is found is above the limit, and never above what the text has."""
    found = tokens_at_least(tokenizer, text, limit)
    assert found is None or limit < found <= len(tokenizer.encode(text))


@given(text=TEXT, num_tokens=st.integers(1, 100))
def test_an_ending_has_the_last_tokens(tokenizer: Tokenizer, text: str, num_tokens: int) -> None:
    """The last tokens of the ending are the last of the whole text."""
    end = part(tokenizer, text, num_tokens, "left")
    assert text.endswith(end)
    assert tokenizer.encode(end)[-num_tokens:] == tokenizer.encode(text)[-num_tokens:]


@given(text=TEXT, num_tokens=st.integers(1, 100))
def test_a_beginning_has_the_first_tokens(tokenizer: Tokenizer, text: str, num_tokens: int) -> None:
    """The first tokens of the beginning are the first of the whole text."""
    beginning = part(tokenizer, text, num_tokens, "right")
    assert text.startswith(beginning)
    assert tokenizer.encode(beginning)[:num_tokens] == tokenizer.encode(text)[:num_tokens]


class Counting:
    """A tokenizer, and how many characters it was given."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.num_chars, self._tokenizer = 0, tokenizer

    def encode_all(self, texts: list[str]) -> list[object]:
        self.num_chars += sum(map(len, texts))
        return [*self._tokenizer.encode_all(texts)]


@pytest.mark.parametrize("text", ["hello world " * 10_000, "x" * 120_000, " " * 120_000, "😀" * 120_000])
def test_a_text_that_is_too_long_is_read_no_further(bytes_tokenizer: Tokenizer, text: str) -> None:
    """No more than it takes to know, whatever it consists of; nor for its end."""
    counting = Counting(bytes_tokenizer)
    assert (tokens_at_least(counting, text, 100) or 0) > 100  # type: ignore[arg-type]
    assert len(part(counting, text, 100, "left")) < 2000  # type: ignore[arg-type]
    assert counting.num_chars < 2500


def test_a_text_of_few_tokens_is_read_to_its_end(bytes_tokenizer: Tokenizer) -> None:
    """One that has many characters to a token is not refused for its length."""
    assert tokens_at_least(bytes_tokenizer, "hello" * 100, 100) is None


def test_truncation_takes_no_longer_than_tokenizing(bytes_tokenizer: Tokenizer) -> None:
    """What is left out of a long text is not moved token by token."""
    text = "x " * 150_000
    (kept,) = bytes_tokenizer.encode_all([text], Reading(keep=100_000))
    assert kept.ids == bytes_tokenizer.encode(text)[-100_000:]
    truncating_s = cost_s(lambda: bytes_tokenizer.encode_all([text], Reading(keep=100_000)))
    assert truncating_s < 5 * cost_s(lambda: bytes_tokenizer.encode(text))
