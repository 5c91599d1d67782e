"""The status page: what operators want to see at a glance, live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.browser.conftest import ADMIN_KEY, KEY, MODEL, Open, complete
from tests.helpers import Engine, app_of, byte_level, model_directory, served
from tests.server.http.test_resuming import Mortal
from tests.serving import serving


def test_models_and_keys(page: Any, twin: str) -> None:
    """Each model with its phase; each key with its use, as soon as a request has ended."""
    complete(page, max_tokens=5, ignore_eos="true")
    page.get_by_label("API key", exact=True).fill(ADMIN_KEY)
    page.goto(f"{twin}/status")
    page.wait_for_selector("#keys td")
    assert page.get_by_role("heading", level=1).inner_text() == "The server is ready"
    rows = page.locator("#models tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == [MODEL, "other"]
    assert rows[0].split("\t")[1].startswith("ready, for ")
    keys = [row.split("\t") for row in page.locator("#keys tbody tr").all_inner_texts()]
    (alice,), (ops,) = ([row for row in keys if row[0] == name] for name in ("alice", "ops"))
    assert alice[1] == "infer"
    used, _, limit = alice[2].partition(" of ")
    assert (int(used.replace(",", "")) >= 1, limit) == (True, "5,000")
    assert alice[3:5] == ["no limit", "0 of 40"]
    assert int(alice[5].replace(",", "")) >= 1
    assert int(alice[8].replace(",", "")) >= 5
    assert ops[1:6] == ["admin", "no limit", "no limit", "no limit", "0"]


def test_keys_are_for_admins(opened: Open, twin: str) -> None:
    """Without an admin's key no names of keys, and how to make one; with one, at once. A key that is refused
    is not tried again."""
    complete(opened(twin, KEY), max_tokens=1)  # so that there is something to hide
    page = opened(f"{twin}/status")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "details" in request.url else None)
    assert page.locator("#models td").count() > 0
    assert "the API key is wrong" in page.locator("#keys-note").inner_text()
    enter(page, KEY)
    page.get_by_text("verbatim keys new NAME --role admin").wait_for()
    page.wait_for_timeout(2500)  # it has looked again
    assert len(asked) == 1
    assert not page.locator("#keys").get_by_text("alice").is_visible()
    enter(page, ADMIN_KEY)
    page.locator("#keys").get_by_text("alice").wait_for()
    assert page.locator("#keys-note").inner_text() == ""


def enter(page: Any, key: str) -> None:
    page.get_by_label("API key", exact=True).fill(key)
    page.get_by_label("API key", exact=True).press("Tab")


def test_nodes(opened: Open, here: Any, directory: Path) -> None:
    """In a cluster each replica says which node it is on."""
    model = served(directory, Engine())
    model.engine.add(1)
    app = app_of(model)
    app.state.server.nodes = lambda: {"m": {0: "10.0.0.7"}}
    with here(app=app) as (url, _):
        page = opened(f"{url}/status")
        page.get_by_text("· engine 0 on 10.0.0.7").wait_for()
        names = [row.split("\t")[0] for row in page.locator("#models tbody tr").all_inner_texts()]
    assert names == ["m", "· engine 0 on 10.0.0.7", "· engine 1"]


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


def test_what_was_before(opened: Open, here: Any, directory: Path) -> None:
    """An admin sees what happened before the page was opened, the latest first, each once; and
    what happens then."""
    mortal = Mortal(directory)
    losses = mortal.app.state.server.metrics.losses.of("m", 0)
    with here(app=mortal.app) as (url, portal):
        portal.call(losses.recovered, 2.5)
        portal.call(losses.resumed, 3)
        page = opened(f"{url}/status")
        events = page.locator("#events li")
        events.nth(1).wait_for()
        page.wait_for_timeout(2500)  # it has looked again
        words = [text.partition("m, engine 0: ")[2] for text in events.all_inner_texts()]
        assert words == ["3 candidates continued on another engine", "the next engine is ready after 2.5 s"]
        portal.call(losses.resumed, 4)
        page.get_by_text("4 candidates continued").wait_for()


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
