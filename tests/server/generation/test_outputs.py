from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, FinishReason, TopLogprobs
from server.generation.logprobs import Logprobs
from server.generation.outputs import CandidateText, Choice, Delta, PromptText, fold, merged
from server.text.encoding import Reading
from server.text.tokenizer import Tokenizer
from tests.helpers import VOCAB_SIZE

PLAIN = GenerationParams(max_tokens=100)
WITH_LOGPROBS = replace(PLAIN, num_logprobs=2)
IDS = st.lists(st.integers(0, 264), min_size=1, max_size=12)


def outputs(
    ids: Sequence[int], sizes: Sequence[int] = (), end: FinishReason | None = "length"
) -> list[EngineOutput]:
    """An engine's outputs for these ids, so many at a time and the rest at once."""
    cuts, start = [], 0
    for size in [*sizes, len(ids)]:
        cuts.append(list(ids[start : start + size]))
        start += size
    cuts = [cut for cut in cuts if cut]
    return [EngineOutput(cut, positions(cut), finish_reason=end if cut is cuts[-1] else None) for cut in cuts]


def positions(ids: Sequence[int]) -> TopLogprobs:
    """Of each id and two others."""
    top = TopLogprobs(3)
    for token_id in ids:
        top.extend(TopLogprobs(3, [token_id, 5, 6], [-0.1 - token_id / 7, -0.5, -1.5]))
    return top


def told(
    tokenizer: Tokenizer,
    params: GenerationParams,
    parts: list[EngineOutput],
    prompt: PromptText | None = None,
) -> Choice:
    """The choice that a candidate's deltas add up to."""
    candidate = CandidateText(0, prompt or PromptText([5]), params, tokenizer)
    deltas = []
    for output in parts:
        deltas.append(candidate.push(output))
        if deltas[-1].finish_reason is not None:
            break
    return fold(1, deltas)[0]


def arrays(choice: Choice) -> dict[str, list[Any]]:
    assert choice.logprobs is not None
    return choice.logprobs.arrays()


def scored(token_id: int, value: float, offset: int) -> Logprobs:
    """One token, with its own value only."""
    return Logprobs("abcdefghij", TopLogprobs(1, [token_id], [value]), [offset])


def written(tokenizer: Tokenizer, text: str) -> PromptText:
    """A prompt of text."""
    (encoded,) = tokenizer.encode_all([text], Reading(with_starts=True))
    return PromptText(encoded.ids, text, encoded.starts)


def content(name: str) -> bytes:
    if name.startswith("bytes:"):
        return bytes.fromhex(name.removeprefix("bytes:").replace("\\x", ""))
    return name.encode()


# --- text, tokens and offsets ------------------------------------------------------------------------------


@given(ids=IDS, sizes=st.lists(st.integers(1, 4)), stop=st.lists(st.sampled_from(["he", "o", "é", "\ufffd"])))
def test_grouping_does_not_matter(
    bytes_tokenizer: Tokenizer, ids: list[int], sizes: list[int], stop: list[str]
) -> None:
    """However an engine groups its tokens, the folded deltas are the same."""
    params = replace(WITH_LOGPROBS, stop=tuple(stop), include_stop=False)
    assert told(bytes_tokenizer, params, outputs(ids, sizes)) == told(bytes_tokenizer, params, outputs(ids))


@given(ids=IDS)
def test_tokens_add_up(bytes_tokenizer: Tokenizer, ids: list[int]) -> None:
    """The tokens, those that are written as bytes included, add up to the text."""
    params = replace(WITH_LOGPROBS, skip_special_tokens=False)
    choice = told(bytes_tokenizer, params, outputs(ids))
    assert choice.logprobs is not None
    assert b"".join(map(content, arrays(choice)["tokens"])).decode("utf-8", "replace") == choice.text


@given(text=st.text(st.sampled_from("helo w é😀\n"), min_size=1))
def test_offsets(bytes_tokenizer: Tokenizer, text: str) -> None:
    """text_offset is where a token's text begins, in characters of the text."""
    choice = told(bytes_tokenizer, WITH_LOGPROBS, outputs(bytes_tokenizer.encode(text)))
    assert choice.logprobs is not None
    for token, offset in zip(arrays(choice)["tokens"], choice.logprobs.text_offset, strict=True):
        assert choice.text.startswith("😀" if token.startswith("bytes:") else token, offset)


def test_offsets_of_half_characters(bytes_tokenizer: Tokenizer) -> None:
    """The bytes of one character have its offset, all of them; what follows has the next."""
    ids = bytes_tokenizer.encode("e😀e")
    choice = told(bytes_tokenizer, WITH_LOGPROBS, outputs(ids))
    assert choice.logprobs is not None
    assert choice.text == "e😀e"
    assert choice.logprobs.text_offset == [0, 1, 1, 1, 1, 2]
    assert arrays(choice)["tokens"] == [
        "e",
        "bytes:\\xf0",
        "bytes:\\x9f",
        "bytes:\\x98",
        "bytes:\\x80",
        "e",
    ]


E, HALF, OTHER_HALF, EURO = [70], [174], [160], [160, 226, 107]  # e, the first byte of 😀, of €, and €
END = [1]


@pytest.mark.parametrize(
    ("ids", "text", "offsets"),
    [
        (HALF + E, "\ufffde", [0, 1]),
        (E + HALF + HALF + E, "e\ufffd\ufffde", [0, 1, 2, 3]),
        (HALF + OTHER_HALF, "\ufffd\ufffd", [0, 1]),
        (HALF + EURO + E, "\ufffd€e", [0, 1, 1, 1, 2]),
        (HALF + END, "\ufffd", [0, 1]),
        (HALF + END + EURO, "\ufffd€", [0, 0, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("sizes", [[], [1, 1, 1, 1]])
def test_offsets_after_a_character_that_is_never_completed(
    bytes_tokenizer: Tokenizer, ids: list[int], text: str, offsets: list[int], sizes: list[int]
) -> None:
    """What comes after it stands after its U+FFFD, also a special token that ends the text."""
    for prompt, completion in ((None, ids), (ids[:1], ids[1:])):
        params = ECHO if prompt else WITH_LOGPROBS
        parts = outputs(completion, sizes)
        parts[0].prompt_logprobs = positions([])
        choice = told(bytes_tokenizer, params, parts, PromptText(prompt or [5]))
        assert choice.logprobs is not None
        assert (choice.text, choice.logprobs.text_offset) == (text, offsets)


def test_unfinished_character(bytes_tokenizer: Tokenizer) -> None:
    """Half a character at the end becomes U+FFFD, with the last delta."""
    assert told(bytes_tokenizer, PLAIN, outputs(bytes_tokenizer.encode("e😀")[:-1])).text == "e\ufffd"


# --- log-probabilities -------------------------------------------------------------------------------------


@given(st.floats(max_value=0.0, allow_nan=False), st.booleans())
def test_sampled_value_bit_for_bit(bytes_tokenizer: Tokenizer, value: float, among: bool) -> None:
    """top_logprobs holds for the sampled token the very float of token_logprobs, at least -9999."""
    ids, values = [7, 5, 6], [value, -0.5, -1.5]
    if among:
        ids[1], values[1] = 7, value
    choice = told(
        bytes_tokenizer, WITH_LOGPROBS, [EngineOutput([7], TopLogprobs(3, ids, values), None, "length")]
    )
    told_of = arrays(choice)
    (top,), (own,) = told_of["top_logprobs"], told_of["token_logprobs"]
    assert own == max(value, -9999.0)
    assert top[told_of["tokens"][0]] == own
    assert len(top) == (2 if among else 3)


def test_minus_infinity(bytes_tokenizer: Tokenizer) -> None:
    """JSON has no infinity: a token that was impossible has -9999, as OpenAI writes it."""
    impossible = TopLogprobs(2, [7, 5], [float("-inf"), float("-inf")])
    choice = told(bytes_tokenizer, WITH_LOGPROBS, [EngineOutput([7], impossible, None, "length")])
    assert [*arrays(choice).values()] == [["&"], [-9999.0], [{"$": -9999.0, "&": -9999.0}], [0]]


def test_own_value_only(bytes_tokenizer: Tokenizer) -> None:
    """logprobs 0 gives the sampled tokens' own values."""
    own = TopLogprobs(1, [7], [-0.25])
    choice = told(bytes_tokenizer, replace(PLAIN, num_logprobs=0), [EngineOutput([7], own, None, "length")])
    assert [*arrays(choice).values()] == [["&"], [-0.25], [{"&": -0.25}], [0]]


def test_not_asked(bytes_tokenizer: Tokenizer) -> None:
    """Log-probabilities that only ranking needed stay inside."""
    assert told(bytes_tokenizer, PLAIN, outputs([7])).logprobs is None


# --- the end -----------------------------------------------------------------------------------------------


def stopped(tokenizer: Tokenizer, text: str, **params: Any) -> tuple[str, str | None]:
    choice = told(tokenizer, replace(PLAIN, **params), outputs(tokenizer.encode(text)))
    return choice.text, choice.finish_reason


def test_stop_is_in_the_text(bytes_tokenizer: Tokenizer) -> None:
    """The text ends with the stop sequence, in the middle of a token if need be."""
    assert stopped(bytes_tokenizer, "we hello", stop=("el",)) == ("we hel", "stop")


def test_stop_is_left_out(bytes_tokenizer: Tokenizer) -> None:
    """Where it is not wanted the text ends before it."""
    assert stopped(bytes_tokenizer, "we hello", stop=("el",), include_stop=False) == ("we h", "stop")


def test_start_of_a_stop_at_the_end(bytes_tokenizer: Tokenizer) -> None:
    """Text that was held back for a sequence which never came is given at the end."""
    assert stopped(bytes_tokenizer, "we hel", stop=("elo",), include_stop=False) == ("we hel", "length")


def test_stop_that_the_end_completes(bytes_tokenizer: Tokenizer) -> None:
    """Half a character that nothing follows is U+FFFD, also where a sequence asks for that."""
    half = outputs(bytes_tokenizer.encode("e😀")[:-1])
    choice = told(bytes_tokenizer, replace(PLAIN, stop=("\ufffd",), include_stop=False), half)
    assert (choice.text, choice.finish_reason) == ("e", "stop")


def test_min_tokens(bytes_tokenizer: Tokenizer) -> None:
    """A sequence that is complete within min_tokens is text."""
    assert stopped(bytes_tokenizer, "oooo", stop=("o",), min_tokens=2) == ("ooo", "stop")


def test_tokens_after_the_end_do_not_count(bytes_tokenizer: Tokenizer) -> None:
    """The token that completes the sequence is the last that counts, also in a larger output."""
    candidate = CandidateText(0, PromptText([5]), replace(WITH_LOGPROBS, stop=("h",)), bytes_tokenizer)
    delta = candidate.push(outputs(bytes_tokenizer.encode("e h e e"), end=None)[0])
    assert (delta.text, delta.finish_reason, delta.num_tokens) == ("e h", "stop", 3)
    assert delta.logprobs is not None
    assert len(delta.logprobs.arrays()["tokens"]) == 3


@pytest.mark.parametrize(
    ("skip", "include", "text"),
    [(True, True, "e"), (True, False, "e"), (False, True, "e</s>"), (False, False, "e")],
)
def test_end_token(bytes_tokenizer: Tokenizer, skip: bool, include: bool, text: str) -> None:
    """The token that ends a completion is a token of it, in its text when special tokens and stops are."""
    params = replace(WITH_LOGPROBS, skip_special_tokens=skip, include_stop=include)
    choice = told(bytes_tokenizer, params, outputs([bytes_tokenizer.encode("e")[0], 1], end="stop"))
    assert (choice.text, choice.finish_reason) == (text, "stop")
    assert choice.logprobs is not None
    assert arrays(choice)["tokens"] == ["e", "</s>"]


# --- echo --------------------------------------------------------------------------------------------------

ECHO = replace(WITH_LOGPROBS, echo=True)


def with_prompt(ids: list[int], completion: list[int]) -> list[EngineOutput]:
    parts = outputs(completion, [1])
    parts[0].prompt_logprobs = positions(ids[1:])
    return parts


def test_echo(bytes_tokenizer: Tokenizer) -> None:
    """The prompt's text comes first; its first token has no log-probability, offsets run on."""
    prompt, completion = bytes_tokenizer.encode("he é"), bytes_tokenizer.encode(" world")
    choice = told(bytes_tokenizer, ECHO, with_prompt(prompt, completion), written(bytes_tokenizer, "he é"))
    assert choice.text == "he é world"
    assert choice.logprobs is not None
    assert arrays(choice)["tokens"] == ["he", " ", "é", " w", "or", "l", "d"]
    assert (arrays(choice)["token_logprobs"][0], arrays(choice)["top_logprobs"][0]) == (
        None,
        None,
    )
    assert None not in arrays(choice)["token_logprobs"][1:]
    assert choice.logprobs.text_offset == [0, 2, 3, 4, 6, 8, 9]


def test_echo_of_ids_is_decoded(bytes_tokenizer: Tokenizer) -> None:
    """A prompt of ids is echoed as its text, and a character that it leaves half is completed."""
    ids = bytes_tokenizer.encode("e😀")
    choice = told(bytes_tokenizer, ECHO, with_prompt(ids[:3], ids[3:]), PromptText(ids[:3]))
    assert choice.text == "e😀"
    assert choice.logprobs is not None
    assert choice.logprobs.text_offset == [0, 1, 1, 1, 1]


def test_echo_is_not_searched(bytes_tokenizer: Tokenizer) -> None:
    """A stop sequence in the prompt does not end the completion."""
    params = replace(ECHO, stop=("he",))
    prompt = bytes_tokenizer.encode("he")
    choice = told(
        bytes_tokenizer,
        params,
        with_prompt(prompt, bytes_tokenizer.encode("o")),
        written(bytes_tokenizer, "he"),
    )
    assert (choice.text, choice.finish_reason) == ("heo", "length")


def test_echo_alone(bytes_tokenizer: Tokenizer) -> None:
    """With max_tokens 0 the reply is the prompt, and the token that the engine had to make is not in it."""
    prompt = bytes_tokenizer.encode("hello é")
    params = replace(ECHO, max_tokens=0)
    choice = told(bytes_tokenizer, params, with_prompt(prompt, [9]), written(bytes_tokenizer, "hello é"))
    assert (choice.text, choice.finish_reason) == ("hello é", "length")
    assert choice.logprobs is not None
    assert arrays(choice)["tokens"] == ["hello", " ", "é"]


@given(
    prompt=st.text(st.sampled_from("he é😀\n"), min_size=1), completion=IDS, sizes=st.lists(st.integers(1, 4))
)
def test_echo_offsets(
    bytes_tokenizer: Tokenizer, prompt: str, completion: list[int], sizes: list[int]
) -> None:
    """Every offset is in the text, which begins with the prompt as the client wrote it."""
    ids = bytes_tokenizer.encode(prompt)
    parts = outputs(completion, sizes)
    parts[0].prompt_logprobs = positions(ids[1:])
    choice = told(bytes_tokenizer, ECHO, parts, written(bytes_tokenizer, prompt))
    assert choice.text.startswith(prompt)
    assert choice.logprobs is not None
    assert len(arrays(choice)["tokens"]) == len(ids) + len(completion)
    assert choice.logprobs.text_offset == sorted(choice.logprobs.text_offset)
    assert choice.logprobs.text_offset[-1] <= len(choice.text)
    assert choice.logprobs.text_offset[len(ids)] == len(prompt)


def test_echo_of_a_text_has_the_tokenizers_places(bytes_tokenizer: Tokenizer) -> None:
    """Whatever the tokens decode to, they begin in the text where the tokenizer has found them."""
    ids = bytes_tokenizer.encode("ffi")
    prompt, completion = PromptText(ids, "ﬃ é", [0, 0, 2]), bytes_tokenizer.encode("e")
    choice = told(bytes_tokenizer, ECHO, with_prompt(ids, completion), prompt)
    assert choice.text == "ﬃ ée"
    assert choice.logprobs is not None
    assert choice.logprobs.text_offset == [0, 0, 2, 3]


# --- fold --------------------------------------------------------------------------------------------------


def test_fold() -> None:
    """Deltas of several choices, in any order between them, add up to the choices."""
    one, two = scored(0, -1.0, 0), scored(1, -2.0, 1)
    deltas = [Delta(1, "x"), Delta(0, "a", one), Delta(1, "y", None, "stop"), Delta(0, "b", two, "length")]
    both = Logprobs("abcdefghij", TopLogprobs(1, [0, 1], [-1.0, -2.0]), [0, 1])
    assert fold(2, deltas) == [Choice(0, "ab", both, "length"), Choice(1, "xy", None, "stop")]


@given(
    st.lists(
        st.builds(
            Delta,
            st.integers(0, 2),
            st.text(max_size=3),
            st.none() | st.builds(scored, st.integers(0, 9), st.floats(-9, 0), st.just(0)),
            num_tokens=st.integers(0, 3),
        )
    ),
    st.integers(0, 20),
)
def test_merged(deltas: list[Delta], cut: int) -> None:
    """Deltas merged into one a choice, some or all of them, say the same."""
    some = [*merged(deltas[:cut]), *deltas[cut:]]
    assert fold(3, some) == fold(3, deltas)
    assert sum(delta.num_tokens for delta in some) == sum(delta.num_tokens for delta in deltas)
    assert len({delta.index for delta in merged(deltas)}) == len(merged(deltas)) <= 3


def test_fold_leaves_deltas_alone() -> None:
    """Folding twice gives the same twice."""
    deltas = [
        Delta(0, "a", scored(0, -1.0, 0)),
        Delta(0, "b", scored(1, -1.0, 1)),
    ]
    assert fold(1, deltas) == fold(1, deltas)


def test_padding_is_no_text(bytes_tokenizer: Tokenizer) -> None:
    """An id of the padded vocabulary, which a random model may sample, has no text and a name of its own."""
    choice = told(bytes_tokenizer, WITH_LOGPROBS, outputs([VOCAB_SIZE - 1]))
    assert choice.text == ""
    assert arrays(choice)["tokens"] == [f"token_id:{VOCAB_SIZE - 1}"]


# --- token ids ---------------------------------------------------------------------------------------------


@given(IDS, st.lists(st.integers(1, 4), max_size=6))
def test_ids_are_those_of_the_tokens(bytes_tokenizer: Tokenizer, ids: list[int], sizes: list[int]) -> None:
    """However they come: the prompt's once, and of the completion those that belong to it."""
    params, prompt = replace(PLAIN, return_token_ids=True), PromptText([5, 6])
    candidate = CandidateText(0, prompt, params, bytes_tokenizer)
    deltas = [candidate.push(output) for output in outputs(ids, sizes)]
    assert [delta.prompt_token_ids for delta in deltas] == [[5, 6], *[None] * (len(deltas) - 1)]
    (choice,) = fold(1, deltas)
    assert (choice.prompt_token_ids, choice.token_ids) == ([5, 6], ids)
    assert choice.text == told(bytes_tokenizer, PLAIN, outputs(ids, sizes)).text


def test_ids_end_with_the_stop_sequence(bytes_tokenizer: Tokenizer) -> None:
    """What an engine has sent beyond it belongs to no choice; an empty completion has none."""
    ids = bytes_tokenizer.encode("abcdef")
    stopped = replace(PLAIN, return_token_ids=True, stop=("cd",))
    assert told(bytes_tokenizer, stopped, outputs(ids)).token_ids == ids[:4]
    empty = replace(stopped, max_tokens=0)
    assert told(bytes_tokenizer, empty, [EngineOutput([], finish_reason="length")]).token_ids == []
