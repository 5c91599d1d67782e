"""A real browser, Debian's Chromium driven by Playwright, before the twin or an application of this process.

A test's page fails it where anything went wrong that nobody looked for: an exception, or what the page's own
policy has refused.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi import FastAPI

from server.access.keys import digest
from server.engine.served import ServedModel
from tests.helpers import app_of, running
from tests.server.http.sockets import listening
from tests.serving import serving
from twin.language.store import DATA

MODEL = "verbatim-twin"
KEY, ADMIN_KEY = "sk-browser", "sk-admin"
WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}


# Playwright runs an event loop in this thread as long as it is there, and other tests want one of their own:
# so each module has a browser, and no more than that.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where `verbatim simulate` listens: two models, and two keys, of which one is an admin's."""
    folder = tmp_path_factory.mktemp("twin")
    config: dict[str, Any] = {
        "models": [{"id": name, "path": str(DATA), "engine": "simulated"} for name in (MODEL, "other")]
    }
    keys = folder / "keys.txt"
    words = "requests_per_minute=5000 concurrent_requests=40"
    keys.write_text(f"alice {digest(KEY)} {words}\nops {digest(ADMIN_KEY)} roles=admin\n")
    config["api_keys_file"] = str(keys)
    with serving(folder, config, "--speed", "4", command="simulate") as server:
        server.wait_ready()
        yield server.url()


Open = Callable[..., Any]


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """Opens a page in a browser of its own: opened(url, **options of the context)."""
    contexts, wrong = [], []

    def open_page(url: str, key: str = "", **options: Any) -> Any:
        context = browser.new_context(**{"viewport": WIDE} | options)
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text) if is_wrong(message) else None)
        page.goto(url)
        page.wait_for_selector("html[data-ready]")
        if key:
            page.get_by_label("API key", exact=True).fill(key)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def is_wrong(message: Any) -> bool:
    """Not the browser's own line on each reply of 4xx, which tests ask for."""
    return message.type == "error" and not message.text.startswith("Failed to load resource")


@pytest.fixture
def page(opened: Open, twin: str) -> Any:
    """The playground of the twin, its key filled in."""
    return opened(twin, KEY)


def complete(page: Any, prompt: str = "Call me Ishmael.", **fields: object) -> None:
    """Fill in what is given, ask, and wait for the end."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    fill(page, **fields)
    page.get_by_role("button", name="Complete").click()
    wait_for_end(page)


def fill(page: Any, **fields: object) -> None:
    for name, value in fields.items():
        field = page.locator(f"#field-{name}")
        if not field.is_visible():
            page.get_by_text("More fields").click()
        if field.evaluate("field => field.tagName") == "SELECT":
            field.select_option(str(value))
        else:
            field.fill(str(value))


def wait_for_end(page: Any) -> None:
    page.wait_for_selector("#stop", state="hidden")


Here = Callable[..., AbstractContextManager[tuple[str, BlockingPortal]]]


@pytest.fixture
def here() -> Here:
    """Serves an application, or one of these models, in this process: its address, and a way to call what has
    to run beside it."""

    @contextmanager
    def serve(*models: ServedModel, app: FastAPI | None = None) -> Iterator[tuple[str, BlockingPortal]]:
        app = app or app_of(*models)
        with (
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(running(app)),
            portal.wrap_async_context_manager(listening(app)) as port,
        ):
            yield f"http://127.0.0.1:{port}", portal

    return serve
