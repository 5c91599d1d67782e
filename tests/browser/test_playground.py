"""The playground, as somebody uses it."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import pytest

from tests.browser.conftest import KEY, MODEL, Open, complete, fill, wait_for_end


def sent(page: Any) -> list[dict[str, Any]]:
    """The bodies of the completion requests that the page sends from now on."""
    bodies: list[dict[str, Any]] = []
    page.on(
        "request", lambda request: bodies.append(json.loads(request.post_data)) if request.post_data else None
    )
    return bodies


def test_it_loads_without_a_key_and_from_the_server_alone(opened: Open, twin: str) -> None:
    """Every request is for the server itself, and none has a key."""
    asked: list[Any] = []
    page = opened(twin)
    page.on("request", lambda request: asked.append(request))
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert asked
    assert {request.url.startswith(twin) for request in asked} == {True}
    assert not [request for request in asked if "authorization" in request.all_headers()]


def test_every_field_is_there_with_its_rule(page: Any, twin: str) -> None:
    """As the server describes them: a field that is added to the contract is on the page."""
    schema = httpx.get(f"{twin}/openapi.json").json()["components"]["schemas"]["CompletionRequest"]
    names = {field.get_attribute("name") for field in page.locator(".field [name]").all()}
    assert names == set(schema["properties"]) - {"prompt"}
    assert page.locator("#field-temperature-hint").inner_text() == "between 0 and 2; default 1; 0 is greedy"
    assert page.locator("#field-best_of-hint").inner_text().startswith("between n and 128; default n")
    assert page.locator("#field-model option").all_inner_texts() == [MODEL, "other"]


def test_only_what_was_given_is_sent(page: Any) -> None:
    """An empty field is left out; numbers keep their digits, 64 bits of a seed too."""
    bodies = sent(page)
    complete(
        page, "hi", max_tokens=3, logprobs="", seed=9007199254740993, stop='["\\n", "and"]', echo="false"
    )
    for name in ("return_token_ids", "return_candidates"):  # asked for at the beginning
        bodies[0].pop(name)
    assert bodies == [
        {"model": MODEL, "prompt": "hi", "max_tokens": 3, "seed": 9007199254740993, "stop": ["\n", "and"]}
        | {"stream": True, "echo": False}
    ]


def test_a_stream_is_stopped(page: Any, twin: str) -> None:
    """Its text grows; Stop ends it at once, here and at the server, and what has come stays."""
    page.get_by_label("Prompt", exact=True).fill("Call me Ishmael.")
    fill(page, max_tokens=4000, ignore_eos="true")
    page.get_by_role("button", name="Complete").click()
    page.locator(".token").nth(20).wait_for()
    page.get_by_role("button", name="Stop").click()
    wait_for_end(page)
    num = page.locator(".tokens .token").count()
    assert 20 < num < 4000
    assert page.locator(".end").inner_text() == "stopped"
    page.wait_for_timeout(300)
    assert page.locator(".tokens .token").count() == num
    assert "verbatim_requests_in_flight 1.0" in httpx.get(f"{twin}/metrics").text  # this one


def test_what_it_says_of_speed(page: Any) -> None:
    """Tokens, time to the first one, tokens per second."""
    complete(page, max_tokens=30, ignore_eos="true")
    facts = page.locator(".facts").inner_text()
    shape = r"30 tokens · first after \d+ ms · \d+(\.\d+)? tokens/s · .*s in all · prompt of \d+ tokens"
    assert re.fullmatch(shape, facts), facts


def test_a_whole_reply_looks_the_same(page: Any) -> None:
    """Without stream, the same seed shows the same tokens."""
    complete(page, seed=7)
    streamed = page.locator(".tokens").inner_text()
    complete(page, seed=7, stream="")
    assert page.locator(".tokens").inner_text() == streamed


def test_candidates_side_by_side(page: Any) -> None:
    """Each with its mean, the best one marked."""
    complete(page, max_tokens=10, n=3)
    cards = page.locator(".card")
    assert cards.count() == 3
    means = [float(re.search(r"mean (\S+)", text)[1].replace("−", "-")) for text in cards.all_inner_texts()]
    best = [k for k in range(3) if cards.nth(k).locator(".best").count()]
    assert best == [means.index(max(means))]
    boxes = [card.bounding_box() for card in cards.all()]
    assert boxes[0]["y"] == boxes[1]["y"]


@pytest.mark.parametrize("logprobs", ["0", ""])
def test_candidates_that_lost(page: Any, logprobs: str) -> None:
    """best_of: those that are not returned are a row, each with its mean and when it was given up; the page
    says so to a screen reader, and names all by their numbers."""
    fill(page, n=2, best_of=8, stream="", max_tokens=60, temperature=1, seed=3, logprobs=logprobs)
    with page.expect_response("**/completions") as asked:
        complete(page)
    told = asked.value.json()["candidates"]
    cards, lost = page.locator(".card"), page.get_by_role("list", name="Not returned: 6 candidates")
    for card, index in zip(cards.all(), (0, 1), strict=True):
        (one,) = (one for one in told if one["choice"] == index)
        assert card.get_attribute("aria-label") == f"Candidate {one['number'] + 1}"
        head = card.locator(".card-head").inner_text()
        assert f"{tokens(one['completion_tokens'])} · mean {shown(one['mean_logprob'])}" in head
        assert ("best" in head) is (index == 0)
    hidden = [one for one in told if one["choice"] is None]
    assert {one["given_up_after"] is None for one in hidden} == {True, False}
    for item, one in zip(lost.get_by_role("listitem").all(), hidden, strict=True):
        name, mean, end = item.inner_text().splitlines()
        assert name == f"Candidate {one['number'] + 1}"
        assert mean.startswith(f"mean {shown(one['mean_logprob'])}")
        if one["given_up_after"] is None:
            assert end == {"length": "max_tokens reached", "stop": "end of text"}[one["finish_reason"]]
        else:
            assert end == f"given up after {tokens(one['given_up_after'])}"
    boxes = [item.bounding_box() for item in lost.get_by_role("listitem").all()]
    assert boxes[0]["y"] == boxes[1]["y"]


def test_without_return_candidates(page: Any) -> None:
    """The page says what the reply leaves out, and how to see it."""
    complete(page, n=1, best_of=4, stream="", return_candidates="")
    assert page.locator(".card").count() == 1
    assert "The reply has only the 1 best of 4 candidates" in page.locator("#side-a").inner_text()


def tokens(count: int) -> str:
    return f"{count} token{'' if count == 1 else 's'}"


def shown(mean: float) -> str:
    return f"{mean:.3f}".replace("-", "−")


def test_two_settings_of_one_prompt(page: Any) -> None:
    """Compare two: settings A and B, two replies, headed by what differs."""
    page.get_by_role("button", name="Compare two").click()
    page.get_by_text("B", exact=True).click()
    fill(page, model="other", temperature=0)
    bodies = sent(page)
    complete(page, max_tokens=5)
    assert sorted((body["model"], body.get("temperature")) for body in bodies) == [
        ("other", 0),
        (MODEL, None),
    ]
    assert page.locator("#side-a h2").inner_text().startswith(f"{MODEL} · ")
    assert "temperature 0" in page.locator("#side-b h2").inner_text()
    assert page.locator("#side-b .token").count() >= 5


def test_the_prompt_is_scored(page: Any) -> None:
    """Its own tokens are shown, with a perplexity; the first one has no probability."""
    page.get_by_label("Prompt", exact=True).fill("Call me Ishmael.")
    page.get_by_role("button", name="Score the prompt").click()
    wait_for_end(page)
    tokens = page.locator(".tokens .token")
    assert "".join(tokens.all_text_contents()) == "Call me Ishmael."
    assert "perplexity" in page.locator(".card-head").inner_text()
    tokens.first.hover()
    assert "has no probability" in page.locator("#detail").inner_text()


def test_the_stop_sequence_is_marked(page: Any) -> None:
    """It is part of the text: its characters are underlined, also within a token, and it is named."""
    complete(page, temperature=0, max_tokens=60, ignore_eos="true", stop="e", seed=1)
    assert page.locator("mark").all_inner_texts() == ["e"]
    assert page.locator(".end").inner_text() == 'stop sequence "e"'
    complete(page, logprobs="")
    assert page.locator("mark").all_inner_texts() == ["e"]


def test_a_key_is_asked_for(opened: Open, twin: str) -> None:
    """Without one, the server's own words."""
    page = opened(twin)
    complete(page)
    error = page.get_by_role("alert")
    assert error.inner_text().splitlines()[0] == "401 FAILED_TO_AUTH"
    page.get_by_label("API key", exact=True).fill(KEY)
    complete(page, max_tokens=2)
    assert error.count() == 0
