"""What the page shows when something fails: the server's own words, and what had come until then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from server.http import streaming
from tests.browser.conftest import Open, complete, fill, wait_for_end
from tests.server.http.test_resuming import Mortal


def fails_once(twin: str, fault: str) -> None:
    """The next completion of the twin does."""
    rules = {"rules": [{"fault": fault, "times": 1}]}
    httpx.put(f"{twin}/simulator/faults", json=rules).raise_for_status()


def test_a_refused_field(page: Any) -> None:
    """The message names field and range, and the field is marked until it is changed."""
    complete(page, temperature=9)
    error = page.get_by_role("alert")
    assert error.locator("h3").inner_text() == "400 INVALID_REQUEST_BODY"
    assert error.locator("p").inner_text() == "temperature (current value: 9) must be between 0 and 2"
    field = page.locator("#field-temperature")
    assert field.get_attribute("aria-invalid") == "true"
    fill(page, temperature=1)
    assert field.get_attribute("aria-invalid") == "false"


def test_what_is_no_number_is_the_servers_to_refuse(page: Any) -> None:
    """The page sends it as it stands; a field out of sight is brought to sight."""
    complete(page, min_p="much")
    assert 'min_p (current value: "much") must be a number' in page.get_by_role("alert").inner_text()
    assert page.locator("#field-min_p").is_visible()


def test_a_stream_that_fails_keeps_its_text(page: Any, twin: str) -> None:
    """The error frame is shown above what had come."""
    fails_once(twin, "error_frame after=3")
    complete(page, max_tokens=30, ignore_eos="true")
    assert page.get_by_role("alert").inner_text().startswith("500 INTERNAL_ERROR")
    assert 1 <= page.locator(".tokens .token").count() < 30


@pytest.mark.parametrize("fault", ["cut_after_tokens=80", "no_done"])
def test_a_connection_that_is_cut(page: Any, twin: str, fault: str) -> None:
    """Nothing passes for whole that is not: a stream ends with [DONE]. What had come stays."""
    fails_once(twin, fault)
    complete(page, max_tokens=100, ignore_eos="true")
    assert page.get_by_role("alert").inner_text().startswith("No reply")
    assert page.locator(".tokens .token").count() >= 1


def test_an_engine_is_lost_while_it_streams(
    opened: Open, here: Any, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page says that the stream waits, then goes on to the same end as if nothing had happened."""
    monkeypatch.setattr(streaming, "ALIVE_S", 0.05)
    mortal = Mortal(directory)
    with here(app=mortal.app) as (url, portal):
        page = opened(url)
        ask = {"max_tokens": 40, "ignore_eos": "true", "seed": 5, "logprobs": 2}
        complete(page, "hello", **ask)
        undisturbed = page.locator(".tokens .token").all_text_contents()
        for engine in mortal.engines:
            engine.step_s = 0.05
        page.get_by_role("button", name="Complete").click()
        page.locator(".token").nth(8).wait_for()
        portal.call(mortal.loses)
        page.get_by_text("The engine was lost.").wait_for()
        portal.call(mortal.may_start.set)
        wait_for_end(page)
        assert page.locator(".waiting").inner_text() == ""
        assert page.locator(".tokens .token").all_text_contents() == undisturbed
        assert page.get_by_role("alert").count() == 0


def test_no_description(twin: str, browser: Any) -> None:
    """A page without its fields says so, and what to do."""
    page = browser.new_page()
    page.route("**/openapi.json", lambda route: route.abort())
    page.goto(twin)
    page.get_by_text("Reload the page to try again").wait_for()
    page.close()


def test_no_server_any_more(opened: Open, here: Any, directory: Path) -> None:
    """What the browser says, and what that may mean."""
    mortal = Mortal(directory)
    with here(app=mortal.app) as (url, _):
        page = opened(url)
    complete(page)
    assert "Does the server still run?" in page.get_by_role("alert").inner_text()
