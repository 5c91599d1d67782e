"""contract.md's request, field by field, over HTTP."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conform.rules import table
from tests.serving import (
    CAPITAL,
    CAPITAL_IDS,
    CONTEXT_SIZE,
    EOS_ID,
    PARIS_ID,
    SMOL,
    TINY,
    VOCAB_SIZE,
    Client,
    as_bytes,
    wait_for,
)

pytestmark = pytest.mark.engine

GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6}

REFUSED = table.refused(VOCAB_SIZE)
OPTIONAL = sorted({name for name, _, _ in REFUSED} - {"model", "prompt"})


@pytest.mark.parametrize(("field", "value", "words"), REFUSED, ids=lambda value: str(value)[:30])
def test_value_outside_its_range_is_a_400_that_names_field_and_rule(
    client: Client, field: str, value: Any, words: str
) -> None:
    """A wrong type or value is refused, never clamped; the message says which field and what is allowed."""
    refuses(client, table.BASE | {field: value}, field, words)


@pytest.mark.parametrize(("body", "field", "words"), table.TOGETHER, ids=lambda value: str(value)[:30])
def test_fields_that_do_not_go_together(client: Client, body: dict[str, Any], field: str, words: str) -> None:
    """Nor those that are missing: the message names the one to change."""
    refuses(client, table.BASE | body, field, words)


def refuses(client: Client, body: dict[str, Any], field: str, words: str) -> None:
    response = client.ask(**body)
    reply = response.json()
    assert (response.status_code, reply["reason"]) == (400, "INVALID_REQUEST_BODY")
    assert reply["metadata"]["field"] == field
    assert field in reply["message"]
    assert words in reply["message"]


@pytest.mark.parametrize("body", [body for body, _ in table.accepted(VOCAB_SIZE)], ids=str)
def test_value_at_the_edge_of_its_range_is_accepted(client: Client, body: dict[str, Any]) -> None:
    """Bounds are inclusive, and top_k 0 and -1 mean off."""
    assert client.ask(**table.BASE | body).status_code == 200


def test_null_is_not_given(client: Client) -> None:
    """null for every optional field gives what a request without them gives."""
    plain = client.choice(seed=1)
    assert client.choice(**{**dict.fromkeys(OPTIONAL), "seed": 1}) == plain


def test_max_tokens_is_16_by_default(client: Client) -> None:
    """A request that does not say gets 16 tokens."""
    assert client.complete(ignore_eos=True)["usage"]["completion_tokens"] == 16


def test_model_default_goes_before_the_contract_and_the_request_before_both(client: Client) -> None:
    """The tiny model's defaults say five tokens, greedily."""
    reply = client.complete(model=TINY, ignore_eos=True)
    assert reply["usage"]["completion_tokens"] == 5
    assert reply["choices"] == client.complete(model=TINY, ignore_eos=True, top_k=1)["choices"]
    assert client.complete(model=TINY, ignore_eos=True, max_tokens=3)["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("body", table.NO_JSON_OBJECTS, ids=lambda body: str(body)[:60])
def test_body_that_is_no_json_object_of_finite_numbers_is_refused(client: Client, body: bytes) -> None:
    """Only a JSON object is a request, and JSON has no NaN."""
    response = client.post("/v1/completions", content=body)
    assert (response.status_code, response.json()["reason"]) == (400, "INVALID_REQUEST_BODY")


@pytest.mark.parametrize("content_type", table.CONTENT_TYPES)
def test_any_content_type_with_a_json_object_is_accepted(client: Client, content_type: str) -> None:
    """Clients forget the header."""
    body = json.dumps({"model": SMOL, "prompt": CAPITAL, "max_tokens": 1})
    headers = {"content-type": content_type} if content_type else {}
    assert client.post("/v1/completions", content=body, headers=headers).status_code == 200


def test_token_ids_and_their_text_are_the_same_prompt(client: Client) -> None:
    """A string, its array, its ids and an array of them ask for the same."""
    choice = client.choice(prompt=CAPITAL, **GREEDY)
    for prompt in ([CAPITAL], CAPITAL_IDS, [CAPITAL_IDS]):
        assert client.choice(prompt=prompt, **GREEDY) == choice


def test_several_prompts_are_answered_each(client: Client) -> None:
    """Texts and ids come in arrays, and every one is answered in its place."""
    texts = ["One two three", CAPITAL]
    alone = [client.choice(prompt=text, **GREEDY)["text"] for text in texts]
    together = client.complete(prompt=texts, **GREEDY)
    assert [choice["text"] for choice in together["choices"]] == alone
    assert [choice["index"] for choice in together["choices"]] == [0, 1]


def test_empty_prompt_is_the_bos_token(client: Client) -> None:
    """An empty text begins a text, and counts one token."""
    reply = client.complete(prompt="", **GREEDY)
    assert reply["usage"]["prompt_tokens"] == 1
    assert reply["choices"] == client.complete(prompt=[1], **GREEDY)["choices"]


@pytest.mark.parametrize(("num_prompt", "max_tokens", "field"), table.too_long(CONTEXT_SIZE))
def test_request_over_the_context_length_is_refused(
    client: Client, num_prompt: int, max_tokens: int, field: str
) -> None:
    """By the model's own context, in OpenAI's words."""
    body = {"model": TINY, "prompt": [5] * num_prompt, "max_tokens": max_tokens}
    refuses(client, body, field, table.too_long_words(CONTEXT_SIZE, num_prompt, max_tokens))


@pytest.mark.parametrize(("prompt_tokens", "max_tokens"), [(255, 1), (1, 255), (256, 0)])
def test_request_may_fill_the_context(client: Client, prompt_tokens: int, max_tokens: int) -> None:
    """Prompt and completion together may be as long as the context."""
    reply = client.complete(model=TINY, prompt=[5] * prompt_tokens, max_tokens=max_tokens, ignore_eos=True)
    assert reply["usage"]["total_tokens"] == prompt_tokens + max_tokens


def test_n_gives_n_different_choices(client: Client) -> None:
    """n samples of one prompt, which counts once."""
    reply = client.complete(model=TINY, n=4, temperature=1, max_tokens=12)
    assert len({choice["text"] for choice in reply["choices"]}) == 4
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2, 3]
    assert reply["usage"]["prompt_tokens"] == len(CAPITAL_IDS)


def test_greedy_candidates_are_equal(client: Client) -> None:
    """n > 1 at temperature 0 is legal and returns equal texts."""
    reply = client.complete(model=TINY, n=3, temperature=0)
    assert len({choice["text"] for choice in reply["choices"]}) == 1


@pytest.mark.parametrize(
    ("limited", "value"), [("n", 5), ("best_of", 9), ("stop", list("abcdefg")), ("prompt", ["a"] * 4)]
)
def test_model_may_limit_what_a_request_asks_for(client: Client, limited: str, value: Any) -> None:
    """More than a model's own limit is a 400 like more than the contract's."""
    response = client.ask(model=TINY, **{limited: value})
    assert (response.status_code, response.json()["metadata"]["field"]) == (400, limited)


def test_model_may_allow_more_stop_sequences(client: Client) -> None:
    """The limit of four is configurable."""
    client.complete(model=TINY, stop=list("abcdef"))


def test_best_of_returns_the_likeliest_candidates_first(client: Client) -> None:
    """Of the candidates that n = 8 shows, the two of the highest mean log-probability; usage counts what was
    generated of the others too."""
    asked: dict[str, Any] = {
        "seed": 5,
        "temperature": 1.3,
        "logprobs": 0,
        "max_tokens": 6,
        "ignore_eos": True,
    }
    every = client.complete(n=8, **asked)
    best = client.complete(n=2, best_of=8, **asked)
    ranked = sorted(every["choices"], key=lambda choice: -sum(choice["logprobs"]["token_logprobs"]))
    assert [choice["text"] for choice in best["choices"]] == [choice["text"] for choice in ranked[:2]]
    assert [choice["index"] for choice in best["choices"]] == [0, 1]
    assert 2 * 6 < best["usage"]["completion_tokens"] <= 8 * 6


def test_best_of_needs_no_logprobs(client: Client) -> None:
    """Ranking asks the engine for what the client did not ask for, and shows none of it; without giving up,
    usage counts every candidate whole."""
    reply = client.complete(model=TINY, n=1, best_of=3, temperature=1, max_tokens=4, ignore_eos=True)
    assert reply["choices"][0]["logprobs"] is None
    assert reply["usage"]["completion_tokens"] == 12


def test_seed_makes_a_text_again(client: Client) -> None:
    """The same seed and parameters give the same texts, another seed others."""
    asked: dict[str, Any] = {"model": TINY, "n": 2, "temperature": 1, "max_tokens": 8}
    choices = client.complete(seed=42, **asked)["choices"]
    assert client.complete(seed=42, **asked)["choices"] == choices
    assert client.complete(seed=44, **asked)["choices"] != choices


def test_seeds_of_candidates_are_not_those_of_other_requests(client: Client) -> None:
    """Neither the candidates of neighbouring seeds nor those of equal prompts in one request are the same."""
    asked: dict[str, Any] = {"model": TINY, "temperature": 1, "max_tokens": 24}
    replies = [client.complete(seed=seed, n=4, **asked) for seed in (42, 43, 44, -42)]
    replies.append(client.complete(seed=42, prompt=[CAPITAL_IDS, [*CAPITAL_IDS]], n=1, **asked))
    texts = [choice["text"] for reply in replies for choice in reply["choices"]]
    assert len(set(texts)) == len(texts) - 1  # the first prompt's candidate is the first of all once more


def test_logit_bias_is_added_before_sampling(client: Client) -> None:
    """+100 forces a token, -100 forbids it, and half a logit moves a probability by what it should."""
    assert client.choice(logit_bias={str(PARIS_ID): 100}, **GREEDY)["text"] == " Paris" * 6
    assert "Paris" not in client.choice(logit_bias={str(PARIS_ID): -100.0}, **GREEDY)["text"]
    first = {**GREEDY, "max_tokens": 1}
    (tops,) = client.choice(logprobs=2, **first)["logprobs"]["top_logprobs"]
    lead = max(tops.values()) - min(tops.values())
    assert client.choice(logit_bias={str(PARIS_ID): -lead + 0.2}, **first)["text"] == " Paris"
    assert client.choice(logit_bias={str(PARIS_ID): -lead - 0.2}, **first)["text"] != " Paris"


@pytest.mark.parametrize(
    "narrow", [{"top_k": 1}, {"top_p": 0.000001}, {"min_p": 1}, {"temperature": 0}], ids=str
)
def test_narrowest_sampling_is_greedy(client: Client, narrow: dict[str, Any]) -> None:
    """Each filter alone leaves only the likeliest token, whatever the temperature."""
    greedy = client.choice(temperature=0, max_tokens=8)["text"]
    assert client.choice(**{"temperature": 2, "max_tokens": 8} | narrow)["text"] == greedy


def test_filters_limit_what_can_be_sampled(client: Client) -> None:
    """top_k 3 samples from the three likeliest tokens only."""
    top = client.choice(max_tokens=1, logprobs=3, temperature=0)["logprobs"]["top_logprobs"][0]
    reply = client.complete(n=64, max_tokens=1, temperature=2, top_k=3)
    texts = {choice["text"] for choice in reply["choices"]}
    assert len(texts) > 1
    assert texts <= set(top)


def test_additive_penalties_count_generated_tokens_only(client: Client) -> None:
    """A model repeats itself in the end: both change that, and neither looks at the prompt."""
    asked: dict[str, Any] = {"model": TINY, "max_tokens": 40, "logprobs": 0, "ignore_eos": True}
    plain = client.choice(**asked)["logprobs"]["tokens"]
    for penalty in ("frequency_penalty", "presence_penalty"):
        tokens = client.choice(**asked, **{penalty: 2})["logprobs"]["tokens"]
        assert len(set(tokens)) > len(set(plain))
        prompt = CAPITAL + plain[0] * 5
        first = client.choice(model=TINY, prompt=prompt, max_tokens=1)["text"]
        assert client.choice(model=TINY, prompt=prompt, max_tokens=1, **{penalty: 2})["text"] == first


def test_repetition_penalty_counts_the_prompt_too(client: Client) -> None:
    """A token of the prompt is less likely than without the penalty."""
    prompt = "Paris is the capital of France. I say it again: Paris, Paris. The capital of France is"
    asked: dict[str, Any] = {"prompt": prompt, "max_tokens": 1, "temperature": 0}
    assert client.choice(**asked)["text"] == " Paris"
    assert client.choice(repetition_penalty=2, **asked)["text"] != " Paris"


def test_stop_sequence_is_included(client: Client) -> None:
    """The returned text ends with the stop sequence, wherever tokens cut it."""
    for stop in ("Paris", ["nothing", "ris."], " Paris.", "s"):
        choice = client.choice(stop=stop, **GREEDY)
        assert choice["finish_reason"] == "stop"
        assert choice["text"].endswith(stop if isinstance(stop, str) else stop[1])
        assert " Paris.".startswith(choice["text"])


def test_stop_sequence_may_be_left_out(client: Client) -> None:
    """By the request, or by the model's setting, which the request may override."""
    assert client.choice(stop="ris.", include_stop_str_in_output=False, **GREEDY)["text"] == " Pa"
    word = client.choice(model=TINY)["text"][:4]
    assert client.choice(model=TINY, stop=word)["text"] == ""
    assert client.choice(model=TINY, stop=word, include_stop_str_in_output=True)["text"] == word


def test_first_complete_stop_sequence_ends_the_text(client: Client) -> None:
    """Not the first in the list."""
    assert client.choice(stop=["The", "."], **GREEDY)["text"] == " Paris."


def test_stop_is_looked_for_in_the_completion_alone(client: Client) -> None:
    """An echoed prompt that contains a stop sequence ends nothing."""
    choice = client.choice(echo=True, stop="France", **GREEDY)
    assert choice["text"].startswith(CAPITAL + " Paris.")


def test_usage_counts_tokens_up_to_the_stop(client: Client) -> None:
    """What the engine may have computed beyond is nobody's."""
    assert client.complete(stop=".", **GREEDY)["usage"]["completion_tokens"] == 2


def test_eos_ends_the_text_unless_ignored(client: Client) -> None:
    """The end token is not shown, finish_reason is stop; ignore_eos goes on to max_tokens."""
    forced: dict[str, Any] = {"logit_bias": {str(EOS_ID): 100}, **GREEDY}
    reply = client.complete(**forced)
    assert (reply["choices"][0]["text"], reply["choices"][0]["finish_reason"]) == ("", "stop")
    reply = client.complete(ignore_eos=True, **forced)
    assert (reply["choices"][0]["finish_reason"], reply["usage"]["completion_tokens"]) == ("length", 6)


def test_min_tokens_keeps_the_end_away(client: Client) -> None:
    """The end token and stop tokens are not sampled before, and a stop sequence does not stop."""
    reply = client.complete(logit_bias={str(EOS_ID): 100}, min_tokens=3, **GREEDY)
    assert reply["usage"]["completion_tokens"] == 4
    assert client.choice(stop="Paris", min_tokens=3, **GREEDY)["text"].startswith(" Paris.\n")
    assert (
        "Paris"
        not in client.choice(stop_token_ids=[PARIS_ID], min_tokens=3, **GREEDY | {"max_tokens": 3})["text"]
    )


def test_stop_token_ids_end_the_text(client: Client) -> None:
    """The token that ended it is shown or left out as a stop sequence is."""
    choice = client.choice(stop_token_ids=[PARIS_ID], **GREEDY)
    assert (choice["text"], choice["finish_reason"]) == (" Paris", "stop")
    choice = client.choice(stop_token_ids=[PARIS_ID], include_stop_str_in_output=False, **GREEDY)
    assert (choice["text"], choice["finish_reason"]) == ("", "stop")


def test_special_tokens_are_skipped_unless_wanted(client: Client) -> None:
    """skip_special_tokens false shows them in the completion and in the echoed prompt."""
    forced: dict[str, Any] = {"logit_bias": {"1": 100}, "max_tokens": 2, "prompt": [1, 504], "echo": True}
    assert client.choice(**forced)["text"] == "The"
    shown = client.choice(skip_special_tokens=False, **forced)["text"]
    assert shown == "<|im_start|>The<|im_start|><|im_start|>"


def test_prompt_may_be_truncated(client: Client) -> None:
    """The last so many tokens stay; -1 keeps what leaves room for max_tokens."""
    reply = client.complete(truncate_prompt_tokens=2, echo=True, **GREEDY)
    assert reply["usage"]["prompt_tokens"] == 2
    assert reply["choices"][0]["text"].startswith(" France is")
    reply = client.complete(model=TINY, prompt=[5] * 1000, truncate_prompt_tokens=-1, max_tokens=6)
    assert reply["usage"]["prompt_tokens"] == CONTEXT_SIZE - 6


def test_suffix_fills_the_models_template(client: Client) -> None:
    """A model with a fill-in-the-middle template is given prompt and suffix in its order."""
    filled = client.choice(model=TINY, prompt="<suf>world<pre>hello", max_tokens=5)
    assert client.choice(model=TINY, prompt="hello", suffix="world", max_tokens=5) == filled
    lengths = [
        client.complete(model=TINY, prompt="hello", suffix=suffix)["usage"]["prompt_tokens"]
        for suffix in ("world", "")
    ]
    assert lengths[0] > lengths[1]


def test_unknown_field_is_ignored_unless_the_model_is_strict(client: Client) -> None:
    """strict_fields makes it a 400 that names the field."""
    client.complete(max_tokens=1, temprature=1)
    response = client.ask(model=TINY, temprature=1)
    assert (response.status_code, response.json()["metadata"]["field"]) == (400, "temprature")


def test_user_is_found_in_the_request_log(client: Client, started: Any) -> None:
    """And nowhere else."""
    assert "somebody-7" not in json.dumps(client.complete(max_tokens=1, user="somebody-7"))
    wait_for(lambda: "user=somebody-7" in started.server.said(), 5)  # written when the reply has gone


def test_include_obfuscation_has_no_effect(client: Client) -> None:
    """OpenAI's field is accepted in a stream."""
    chunks = client.chunks(stream_options={"include_obfuscation": True}, **GREEDY)
    assert set(chunks[0]) == {"id", "object", "created", "model", "choices"}


def test_echo_covers_any_bytes(client: Client) -> None:
    """A prompt of ids that are no text by themselves is echoed as the text they make together."""
    choice = client.choice(prompt="naïve 🦊 日本", echo=True, max_tokens=0, logprobs=1)
    tokens = choice["logprobs"]["tokens"]
    assert any(token.startswith("bytes:\\x") for token in tokens)
    assert b"".join(map(as_bytes, tokens)).decode() == choice["text"] == "naïve 🦊 日本"
