"""For everybody: by keyboard, with a screen reader, in light and dark, on a phone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.conftest import ADMIN_KEY, KEY, PHONE, Open, complete, fill

axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed")


def findings(page: Any) -> list[str]:
    """What axe takes for serious: rule, and what it is about."""
    return [
        f"{violation['id']}: {node['html'][:200]}"
        for violation in axe.Axe().run(page).response["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [None, PHONE])
def test_axe_finds_nothing_serious(
    opened: Open, twin: str, scheme: str, viewport: dict[str, int] | None
) -> None:
    """On the playground with two replies, an error, and everything unfolded; and on the status page."""
    options: dict[str, Any] = {"color_scheme": scheme} | ({"viewport": viewport} if viewport else {})
    page = opened(twin, KEY, **options)
    complete(page, max_tokens=20, n=2, stop="e")
    for summary in page.locator("summary").all():
        if not summary.evaluate("one => one.parentElement.open"):
            summary.click()
    page.get_by_role("button", name="Compare two").click()
    page.locator("#which label", has_text="B").click()
    complete(page, temperature=9)
    page.locator(".token").first.focus()
    assert page.locator("#detail").is_visible()
    assert findings(page) == []
    complete(page, n=1, best_of=3, stream="", stop="", temperature=1)
    assert page.locator("#side-b .lost li").count() == 2
    assert findings(page) == []
    page.get_by_label("API key", exact=True).fill(ADMIN_KEY)
    page.goto(f"{twin}/status")
    page.wait_for_selector("#keys td")
    assert findings(page) == []


def test_keyboard_alone(opened: Open, twin: str) -> None:
    """From the key to the alternatives of a token, with Tab, arrows, Enter and letters."""
    page = opened(twin)

    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement.matches({selector!r})"):
                return
        raise AssertionError(f"Tab does not lead to {selector}")

    tab_to("#key")
    page.keyboard.type(KEY)
    tab_to("#prompt")
    page.keyboard.press("Control+a")
    page.keyboard.type("Call me Ishmael.")
    tab_to("#complete")
    page.keyboard.press("Enter")
    page.wait_for_selector(".end")
    tab_to(".token")
    page.keyboard.press("ArrowRight")
    assert page.locator("#detail tr").count() >= 5
    tab_to("#code summary")
    page.keyboard.press("Enter")
    tab_to("[name=language]")
    page.keyboard.press("ArrowRight")
    assert page.locator("#snippet").inner_text().startswith("import os")


def test_control_enter_asks(page: Any) -> None:
    """As in other places where one writes."""
    page.get_by_label("Prompt", exact=True).press("Control+Enter")
    page.wait_for_selector(".end")


def test_stop_by_keyboard(page: Any) -> None:
    """Who has asked by keyboard finds Stop where Complete was, and Complete again in the end."""
    fill(page, max_tokens=4000, ignore_eos="true")
    page.get_by_role("button", name="Complete").focus()
    page.keyboard.press("Enter")
    page.locator(".token").nth(5).wait_for()
    assert page.evaluate("document.activeElement.id") == "stop"
    page.keyboard.press("Enter")
    page.wait_for_selector(".end")
    assert page.evaluate("document.activeElement.id") == "complete"


def test_what_a_screen_reader_is_told(page: Any) -> None:
    """That it began, and how it ended; each input has a name."""
    complete(page, max_tokens=3, ignore_eos="true")
    assert page.locator("#outcome").inner_text().startswith("Done: 3 tokens")
    nameless = "all => all.filter((one) => !one.labels.length && !one.ariaLabel).length"
    assert page.locator("input, select, textarea").evaluate_all(nameless) == 0


def test_on_a_phone(opened: Open, twin: str) -> None:
    """Nothing is wider than the window, the detail of the last token either."""
    page = opened(twin, KEY, viewport=PHONE, has_touch=True)
    page.get_by_role("button", name="Compare two").click()
    complete(page, max_tokens=30, n=2)
    for summary in page.locator("summary").all():
        if not summary.evaluate("one => one.parentElement.open"):
            summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.locator(".tokens .token").last.tap()
    box = page.locator("#detail").bounding_box()
    assert 0 <= box["x"] <= box["x"] + box["width"] <= PHONE["width"]
