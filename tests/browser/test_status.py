"""The status page: what operators want to see at a glance, live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.browser.conftest import KEY, MODEL, Open, complete
from tests.helpers import byte_level, model_directory
from tests.server.http.test_resuming import Mortal
from tests.serving import serving


def test_models_and_keys(page: Any, twin: str) -> None:
    """Each model with its phase; each key with its use, as soon as a request has ended."""
    complete(page, max_tokens=5, ignore_eos="true")
    page.goto(f"{twin}/status")
    page.wait_for_selector("#keys td")
    assert page.get_by_role("heading", level=1).inner_text() == "The server is ready"
    rows = page.locator("#models tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == [MODEL, "other"]
    assert rows[0].split("\t")[1].startswith("ready, for ")
    (alice,) = (row for row in page.locator("#keys tbody tr").all_inner_texts() if row.startswith("alice"))
    assert int(alice.split("\t")[1].replace(",", "")) >= 1
    assert int(alice.split("\t")[4].replace(",", "")) >= 5


def test_keys_are_for_who_has_one(opened: Open, twin: str) -> None:
    """Without a key, no names of keys; with one, at once."""
    complete(opened(twin, KEY), max_tokens=1)  # so that there is something to hide
    page = opened(f"{twin}/status")
    assert page.locator("#models td").count() > 0
    assert not page.get_by_text("alice").is_visible()
    assert "the API key is wrong" in page.locator("#keys-note").inner_text()
    page.get_by_label("API key", exact=True).fill(KEY)
    page.get_by_label("API key", exact=True).press("Tab")
    page.get_by_text("alice").wait_for()
    assert page.locator("#keys-note").inner_text() == ""


def test_replicas(opened: Open, tmp_path: Path) -> None:
    """Each engine of a model has a line below it."""
    folder = model_directory(tmp_path / "m", byte_level())
    model = {"id": "m", "path": str(folder), "engine": "simulated", "replicas": 2}
    with serving(tmp_path, {"models": [model]}) as server:
        server.wait_ready()
        page = opened(f"{server.url()}/status")
        rows = [row.split("\t") for row in page.locator("#models tbody tr").all_inner_texts()]
    assert [row[0] for row in rows] == ["m", "· engine 0", "· engine 1"]
    assert [row[1].split(",")[0] for row in rows] == ["ready"] * 3


def test_a_fault_is_seen(opened: Open, here: Any, directory: Path) -> None:
    """An engine that dies, and what went on after it, are listed as they happen."""
    mortal = Mortal(directory)
    with here(app=mortal.app) as (url, portal):
        page = opened(f"{url}/status")
        page.wait_for_timeout(2500)  # it has looked twice
        portal.call(mortal.loses)
        page.get_by_text("The server is degraded").wait_for()
        portal.call(mortal.may_start.set)
        page.get_by_text("m: ready").wait_for()
        listed = page.locator("#events").inner_text()
    assert "m: restarting" in listed or "m: waiting" in listed
