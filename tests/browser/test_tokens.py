"""What is shown of a token: its colour, and beside it what else could have stood there."""

from __future__ import annotations

import math
from typing import Any

import httpx
import pytest

from tests.browser.conftest import KEY, MODEL, Open, complete
from tests.helpers import byte_level, model_directory, talking


def asked(twin: str, **fields: Any) -> dict[str, Any]:
    """The same request without a browser: its log-probabilities."""
    body = {"model": MODEL, "prompt": "Call me Ishmael.", "logprobs": 5} | fields
    headers = {"authorization": f"Bearer {KEY}"}
    reply = httpx.post(f"{twin}/v1/completions", json=body, headers=headers, timeout=30).json()
    logprobs: dict[str, Any] = reply["choices"][0]["logprobs"]
    return logprobs


def shown(name: str) -> str:
    return name.replace(" ", "␣").replace("\n", "↵") or "(no text)"


def test_alternatives_on_hover(page: Any, twin: str) -> None:
    """The token's probability, its bytes and the five most likely ones, best first; gone with the pointer."""
    expected = asked(twin, seed=3, max_tokens=12)
    complete(page, seed=3, max_tokens=12)
    detail = page.locator("#detail")
    assert not detail.is_visible()
    page.locator(".token").nth(4).hover()
    top = sorted(expected["top_logprobs"][4].items(), key=lambda item: -item[1])
    rows = [row.inner_text().split("\t") for row in detail.locator("tr").all()]
    assert [row[0] for row in rows] == [shown(name) for name, _ in top]
    token, own = expected["tokens"][4], expected["token_logprobs"][4]
    assert detail.locator(".detail-head code").inner_text() == shown(token)
    assert f"log-probability {own:.3f}".replace("-", "−", 2).replace("log−", "log-") in detail.inner_text()
    assert f"bytes {token.encode().hex(' ')}" in detail.inner_text()
    assert detail.locator(".chosen code").inner_text() == shown(token)
    page.mouse.move(5, 5)
    assert not detail.is_visible()


def test_alternatives_by_keyboard(page: Any) -> None:
    """The reply is one stop of the Tab key; arrows, Home and End move in it, Escape hides the detail."""
    complete(page, seed=3, max_tokens=12, ignore_eos="true")
    page.locator(".token").first.focus()
    detail = page.locator("#detail")
    assert detail.is_visible()
    first = detail.inner_text()
    page.keyboard.press("ArrowRight")
    assert detail.inner_text() != first
    assert page.evaluate("document.activeElement.dataset.number") == "1"
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.dataset.number") == "11"
    assert page.evaluate("document.activeElement.getAttribute('aria-describedby')") == "detail"
    page.keyboard.press("Escape")
    assert not detail.is_visible()
    page.keyboard.press("Home")
    assert page.evaluate("document.activeElement.dataset.number") == "0"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.classList.contains('token')") is False


def test_ids(page: Any) -> None:
    """Where a reply has them, beside the bytes; those of an echoed prompt come first."""
    logprobs = {
        "tokens": ["Call", " me", " Ishmael"],
        "token_logprobs": [None, -1.0, -2.0],
        "top_logprobs": [None, {" me": -1.0}, {" Ishmael": -2.0}],
        "text_offset": [0, 4, 7],
    }
    choice = {"index": 0, "text": "Call me Ishmael", "logprobs": logprobs, "finish_reason": "length"}
    choice |= {"token_ids": [33], "prompt_token_ids": [11, 22]}
    usage = {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3}
    page.route("**/completions", lambda route: route.fulfill(json={"choices": [choice], "usage": usage}))
    complete(page, "Call me", echo="true", stream="")
    for number, shown_id in enumerate((11, 22, 33)):
        page.locator(".tokens .token").nth(number).hover()
        assert f"id {shown_id} · bytes" in page.locator("#detail").inner_text()


def test_the_less_likely_the_stronger(page: Any, twin: str) -> None:
    """Shades follow probabilities."""
    expected = asked(twin, seed=3, max_tokens=40)["token_logprobs"]
    complete(page, seed=3, max_tokens=40)
    colours = page.locator(".tokens .token").evaluate_all("all => all.map((one) => one.dataset.shade)")
    least = [0.9, 0.7, 0.5, 0.25, 0.1, 0.01]
    assert colours == [
        str(next((k for k, one in enumerate(least) if math.exp(value) >= one), -1)) for value in expected
    ]
    assert len(set(colours)) > 2


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_character_of_several_tokens(
    opened: Open, here: Any, tmp_path_factory: pytest.TempPathFactory, stream: str
) -> None:
    """Each part shows its bytes; the text has the character once, also one beyond 16 bits."""
    model = talking(model_directory(tmp_path_factory.mktemp("m"), byte_level()), "🦊 he 世")
    with here(model) as (url, _):
        page = opened(url)
        complete(page, "hello", max_tokens=20, stream=stream, logprobs=2)
        texts = page.locator(".tokens .token").all_text_contents()
        assert "".join(texts) == "🦊 he 世"
        assert texts.count("🦊") == 1
        page.locator(".tokens .token").nth(1).hover()
        assert "bytes 9f\n" in page.locator("#detail").inner_text()


def test_text_is_never_markup(opened: Open, here: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever a model says, it is shown letter by letter."""
    said = "<img src=x onerror=alert(1)><b>he</b>"
    model = talking(model_directory(tmp_path_factory.mktemp("m"), byte_level()), said)
    with here(model) as (url, _):
        page = opened(url)
        for logprobs in ("2", ""):
            complete(page, "<i>hello</i>", max_tokens=45, logprobs=logprobs)
            assert page.locator(".tokens, .text").text_content() == said
            assert page.locator("main img, main i, .choices b").count() == 0
