"""What outlasts a request: the link, the history, the key."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from tests.browser.conftest import KEY, Open, complete, fill


def test_a_link_has_the_request_and_no_key(opened: Open, twin: str) -> None:
    """Who opens it finds prompt and settings, has to ask by themselves, and with a key of their own."""
    page = opened(twin, KEY)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_label("Prompt", exact=True).fill("Grüße # % 🦊\n")
    page.get_by_role("button", name="Compare two").click()
    fill(page, temperature=0.5)
    page.get_by_role("button", name="Copy link").click()
    page.get_by_text("is in the clipboard").wait_for()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    assert link.startswith(f"{twin}/#")
    assert KEY not in link
    other = opened(link)
    assert other.get_by_label("Prompt", exact=True).input_value() == "Grüße # % 🦊\n"
    assert other.locator("#field-temperature").input_value() == "0.5"
    assert other.get_by_role("button", name="Compare two").get_attribute("aria-pressed") == "true"
    assert other.get_by_label("API key", exact=True).input_value() == ""
    assert other.locator(".card, .error").count() == 0


@pytest.mark.parametrize(
    "fragment", ["x", "%", quote("{}"), quote('{"prompt": "p", "a": null}'), quote("[1]")]
)
def test_a_broken_link_is_the_plain_page(opened: Open, twin: str, fragment: str) -> None:
    """It begins as without one."""
    page = opened(f"{twin}/#{fragment}")
    assert page.get_by_label("Prompt", exact=True).input_value() == "The capital of France is"


def test_history_is_in_this_browser(page: Any, opened: Open, twin: str) -> None:
    """It survives a reload, brings a request back, is nobody else's, has no key, and can be forgotten."""
    complete(page, "the first", max_tokens=2, top_k=7)
    complete(page, "the second", max_tokens=3)
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.get_by_text("History").click()
    past = page.locator("#past button")
    assert past.all_inner_texts() == ["the second", "the first"]
    past.nth(1).click()
    assert page.get_by_label("Prompt", exact=True).input_value() == "the first"
    assert page.locator("#field-max_tokens").input_value() == "2"
    assert KEY not in page.evaluate("JSON.stringify(localStorage)")
    assert opened(twin).locator("#past li").count() == 0
    page.get_by_role("button", name="Forget all").click()
    assert past.count() == 0
    assert page.evaluate("localStorage.length") == 0


def test_the_key_stays_in_the_tab(page: Any, twin: str) -> None:
    """A reload and the status page have it; another tab of the same browser does not."""
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.get_by_label("API key", exact=True).input_value() == KEY
    page.goto(f"{twin}/status")
    page.wait_for_selector("html[data-ready]")
    assert page.get_by_label("API key", exact=True).input_value() == KEY
    tab = page.context.new_page()
    tab.goto(twin)
    tab.wait_for_selector("html[data-ready]")
    assert tab.get_by_label("API key", exact=True).input_value() == ""
    assert page.context.cookies() == []
