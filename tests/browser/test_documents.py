"""The documents in a browser: from the server under its policy, and from a disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from server.http.documents import add_documents
from tests.browser.conftest import Here, is_wrong
from tests.helpers import Engine, app_of, served

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "scripts.site", "--site-dir", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


def search(browser: Any, address: str, words: str) -> int:
    """How many pages are found. Nothing may go wrong, or be asked of another host."""
    context = browser.new_context()
    page, wrong, asked = context.new_page(), [], []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if is_wrong(message) else None)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.locator("[data-md-component=search-query]").click()
    page.keyboard.type(words)
    results = page.locator(".md-search-result__item")
    results.first.wait_for()
    num_found = int(results.count())
    context.close()
    assert wrong == []
    folder = address.rpartition("/")[0]
    assert [url for url in asked if not url.startswith((folder, "blob:", "data:", "about:"))] == []
    return num_found


def test_from_the_server(browser: Any, here: Here, directory: Path, site: Path) -> None:
    """Its policy refuses nothing of the pages, whose search is a worker of their own."""
    app = app_of(served(directory, Engine()))
    app.router.routes = [route for route in app.router.routes if getattr(route, "path", "")[:6] != "/docs/"]
    add_documents(app, site)
    with here(app=app) as (url, _):
        assert search(browser, f"{url}/docs/", "adapters") > 2


def test_from_a_disk(browser: Any, site: Path) -> None:
    """The same, of a folder that no server serves."""
    assert search(browser, f"file://{site}/index.html", "adapters") > 2
