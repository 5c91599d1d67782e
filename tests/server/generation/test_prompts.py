from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from tokenizers import AddedToken, Tokenizer, processors

from server.contract.params import resolve
from server.contract.request import CompletionRequest
from server.engine.served import ServedModel
from server.errors import InvalidRequest
from server.generation.outputs import PromptText
from server.generation.prompts import encode_prompts
from tests.helpers import (
    ASK,
    BOS,
    CONTEXT_SIZE,
    EOS,
    URL,
    Engine,
    app_of,
    byte_level,
    model_directory,
    running,
    served,
)


def surrounded() -> Tokenizer:
    """As Llama 3's: the post-processor puts a BOS before a text; and an EOS behind it."""
    tokenizer = byte_level()
    ids = [(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)]
    tokenizer.post_processor = processors.TemplateProcessing(f"{BOS} $A {EOS}", special_tokens=ids)
    return tokenizer


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    return served(model_directory(tmp_path, surrounded()), Engine())


async def prompts(model: ServedModel, prompt: Any, **fields: Any) -> list[PromptText]:
    request = CompletionRequest(model="m", prompt=prompt, **fields)
    return await encode_prompts(request, resolve(request, model.settings, model.vocab_size), model)


async def ids(model: ServedModel, prompt: Any, **fields: Any) -> list[int]:
    (found,) = await prompts(model, prompt, **fields)
    return found.ids


# --- truncation --------------------------------------------------------------------------------------------

WXYZ = [88, 89, 90, 91]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"truncate_prompt_tokens": 6}, [0, *WXYZ, 1]),
        ({"truncate_prompt_tokens": 4}, [0, *WXYZ[2:], 1]),
        ({"truncate_prompt_tokens": 2}, [0, 1]),
        ({"truncate_prompt_tokens": 1}, [1]),
        ({"truncate_prompt_tokens": -1, "max_tokens": CONTEXT_SIZE - 3}, [0, WXYZ[3], 1]),
        ({"truncate_prompt_tokens": -1}, [0, *WXYZ, 1]),
        ({"truncate_prompt_tokens": 10**15}, [0, *WXYZ, 1]),
    ],
)
async def test_text_is_truncated_before_tokens_are_added(
    model: ServedModel, fields: dict[str, int], expected: list[int]
) -> None:
    """Its last tokens stay, and what the post-processor puts around a text is put around them."""
    assert await ids(model, "wxyz", **fields) == expected


async def test_ids_are_sliced(model: ServedModel) -> None:
    """Ids are sent as they are to be, so nothing is known of what stands before them."""
    assert await ids(model, [0, *WXYZ, 1], truncate_prompt_tokens=4) == [*WXYZ[1:], 1]


@pytest.mark.parametrize(
    ("keep", "expected"), [(6, [0, *WXYZ, 1]), (4, [0, *WXYZ[:2], 1]), (2, [0, 1]), (1, [0])]
)
async def test_text_is_truncated_on_the_other_side(
    model: ServedModel, keep: int, expected: list[int]
) -> None:
    """With truncation_side right its first tokens stay, and what is put around them."""
    assert await ids(model, "wxyz", truncate_prompt_tokens=keep, truncation_side="right") == expected


async def test_ids_are_sliced_on_the_other_side(model: ServedModel) -> None:
    """Of ids the first ones stay, and all where there are fewer."""
    asked: dict[str, Any] = {"truncation_side": "right"}
    assert await ids(model, [0, *WXYZ, 1], truncate_prompt_tokens=4, **asked) == [0, *WXYZ[:3]]
    assert await ids(model, WXYZ, truncate_prompt_tokens=9, **asked) == WXYZ


async def test_text_of_a_truncated_prompt_is_not_the_clients(model: ServedModel) -> None:
    """It is what its ids decode to; one that was not truncated is echoed as it was written."""
    asked = {"echo": True, "logprobs": 0}
    (cut,) = await prompts(model, "wxyz", truncate_prompt_tokens=4, **asked)
    (whole,) = await prompts(model, "wxyz", truncate_prompt_tokens=6, **asked)
    assert (cut.text, cut.starts) == (None, None)
    assert (whole.text, whole.starts) == ("wxyz", [0, 0, 1, 2, 3, 4])


async def test_places_only_where_they_are_told(model: ServedModel) -> None:
    """Where tokens begin is found out for echo with log-probabilities alone."""
    for fields in ({}, {"echo": True}, {"logprobs": 1}):
        (prompt,) = await prompts(model, "wxyz", **fields)
        assert prompt.starts is None


# --- special tokens ----------------------------------------------------------------------------------------


async def test_no_special_tokens_are_added(model: ServedModel) -> None:
    """add_special_tokens false puts nothing around a text, and leaves in it what the client wrote."""
    assert await ids(model, "wxyz", add_special_tokens=False) == WXYZ
    assert await ids(model, f"{BOS}wx", add_special_tokens=False) == [0, *WXYZ[:2]]
    assert await ids(model, "", add_special_tokens=False) == [0]


async def test_one_bos_is_enough(model: ServedModel, caplog: pytest.LogCaptureFixture) -> None:
    """A text that begins with the BOS itself gets no second one, and the log says so once."""
    caplog.set_level("INFO")
    for _ in range(2):
        assert await ids(model, f"{BOS}wxyz") == [0, *WXYZ, 1]
    assert await ids(model, f"{BOS}{BOS}w") == [0, 0, 88, 1]
    assert [record.message[:8] for record in caplog.records] == ["model m:"]
    assert "single_bos" in caplog.text


async def test_places_of_a_prompt_with_its_own_bos(model: ServedModel) -> None:
    """The token that was left out has no place in an echoed prompt."""
    (prompt,) = await prompts(model, f"{BOS}wx", echo=True, logprobs=0)
    assert prompt == PromptText([0, 88, 89, 1], f"{BOS}wx", [0, 3, 4, 5])


async def test_two_bos_where_that_is_wanted(tmp_path: Path) -> None:
    """With single_bos off a text gets the tokenizer's own whatever it begins with."""
    model = served(model_directory(tmp_path, surrounded()), Engine(), single_bos=False)
    assert await ids(model, f"{BOS}w") == [0, 0, 88, 1]


async def test_names_of_special_tokens_may_be_text(model: ServedModel) -> None:
    """parse_special false reads them letter by letter; requests beside it read them as ever."""
    letters = [model.tokenizer.encoder.token_to_id(letter) for letter in EOS]
    assert await ids(model, EOS, parse_special=False) == [0, *letters, 1]
    assert await ids(model, EOS) == [0, 1, 1]


# --- a suffix ----------------------------------------------------------------------------------------------


MARKS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", "<fim_pad>")


@pytest.fixture
def coder(tmp_path: Path) -> ServedModel:
    """One of StarCoder's kind, whose marks are not special in its files."""
    tokenizer = surrounded()
    tokenizer.add_tokens([AddedToken(name, normalized=False) for name in MARKS])
    return served(model_directory(tmp_path, tokenizer), Engine())


async def filled_in(coder: ServedModel, **fields: Any) -> httpx.Response:
    async with running(app_of(coder)) as client:
        return await client.post(URL, json=ASK | {"prompt": "w", "suffix": "z"} | fields)


async def test_a_suffix_is_between_marks(coder: ServedModel) -> None:
    """Of the tokenizer's own, without a template; the prompt's own BOS stays before them."""
    prefix, suffix, middle, _ = (coder.tokenizer.encoder.token_to_id(name) for name in MARKS)
    reply = (await filled_in(coder, return_token_ids=True)).json()
    assert reply["choices"][0]["prompt_token_ids"] == [0, prefix, 88, suffix, 91, middle]


async def test_what_is_filled_in_ends_with_its_own_ends(coder: ServedModel) -> None:
    """Which are in no text, though a stop sequence would be; without a suffix they are tokens as any."""
    pad = coder.tokenizer.encoder.token_to_id(MARKS[3])
    engine = Engine(lambda job, position: [89, pad, 88][min(position, 2)])
    coder = served(coder.settings.directory, engine)
    choice = (await filled_in(coder)).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("x", "stop")
    plain = (await filled_in(coder, suffix=None, max_tokens=3)).json()["choices"][0]
    assert plain["text"] == f"x{MARKS[3]}w"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"truncate_prompt_tokens": 3}, "truncate_prompt_tokens must be left out with suffix"),
        ({"prompt": "w" * 99, "suffix": "z"}, "maximum context length"),
        ({"prompt": "w", "suffix": "z" * 200_000}, "maximum context length"),
    ],
)
async def test_a_suffix_that_cannot_be(coder: ServedModel, fields: dict[str, Any], words: str) -> None:
    """It is a 400 that says why."""
    reply = await filled_in(coder, **fields)
    assert reply.status_code == 400
    assert words in reply.json()["message"]


async def test_no_template_is_wanted(coder: ServedModel) -> None:
    """An empty suffix_template says that the model was not trained to, whatever tokens it has."""
    directory = coder.settings.directory
    reply = await filled_in(served(directory, Engine(), suffix_template=""))
    assert reply.status_code == 400
    assert "has no fill-in-the-middle template" in reply.json()["message"]


# --- long texts --------------------------------------------------------------------------------------------


@pytest.fixture
def no_collection() -> Iterator[None]:
    """What all tests so far have left behind is not looked through, as a server does not either."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
async def test_the_loop_goes_on(model: ServedModel) -> None:
    """While long prompts are tokenized, other requests wait for no more than 0.1 s of work.

    Counted is what this thread computes, not how long it waits for a busy machine.
    """
    assert min([await longest_wait_s(model) for _ in range(3)]) < 0.1


async def longest_wait_s(model: ServedModel) -> float:
    """Of somebody else, while two long prompts are tokenized."""
    longest, over = 0.0, False

    async def look() -> None:
        nonlocal longest
        while not over:
            before = time.thread_time()
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - before)

    watch = asyncio.create_task(look())
    for text in ("hello w\n" * 1_000_000, ["hello w"] * 1000):
        with contextlib.suppress(InvalidRequest):
            await prompts(model, text)
    over = True
    await watch
    return longest


async def test_numbers_of_a_prompt_that_is_too_long(model: ServedModel) -> None:
    """Exact where the prompt was tokenized to its end, else said to be at least so many."""
    for text, count in (("wxyz" * 100, "402"), ("wxyz" * 1_000_000, "at least [0-9]+")):
        with pytest.raises(InvalidRequest, match=rf"however .* tokens \({count} in your prompt; 16 for"):
            await prompts(model, text)


async def test_long_text_is_truncated_from_its_end(model: ServedModel) -> None:
    """However long it is, what stays are its last tokens."""
    text = "hello w\n" * 1_000_000 + "wxyz"
    assert await ids(model, text, truncate_prompt_tokens=6) == [0, *WXYZ, 1]
    assert (await ids(model, text, truncate_prompt_tokens=-1))[-5:] == [*WXYZ, 1]


async def test_a_text_that_no_truncation_makes_fit(model: ServedModel) -> None:
    """One that is truncated to more than there is room for is too long like any other."""
    with pytest.raises(InvalidRequest, match="maximum context length is 64 tokens"):
        await prompts(model, "wxyz" * 1_000_000, truncate_prompt_tokens=10**15)


async def test_texts_that_are_long_together(model: ServedModel) -> None:
    """Each is tokenized as it is alone, in its order."""
    texts = [f"hello {'w' * (k % 40)}" for k in range(1000)]
    found = await prompts(model, texts)
    assert [prompt.ids for prompt in found] == [model.tokenizer.encode(text) for text in texts]
    assert [prompt.text for prompt in found] == texts


async def test_empty_text_has_one_place(directory: Path) -> None:
    """The BOS that stands for an empty text begins where the text does."""
    (prompt,) = await prompts(served(directory, Engine()), "", echo=True, logprobs=1)
    assert prompt == PromptText([0], "", [0])
