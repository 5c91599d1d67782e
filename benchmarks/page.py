"""How large the playground is, and how soon it can be used: in Chromium, on a running server.

    $ verbatim simulate &
    $ python -m benchmarks.page http://127.0.0.1:8000

Cold: the browser's cache is empty. Warm: the files are in the cache, and the browser revalidates them (304).
1/4: Chromium slows the processor down to a quarter, about that of a phone.
"""

from __future__ import annotations

import os
import shutil
import statistics
from typing import Annotated, Any

import typer
from playwright.sync_api import Browser, BrowserContext, sync_playwright
from rich.console import Console
from rich.table import Table

ROUNDS = 9
# By an attribute the page says that it can be used; this is when, in milliseconds after the navigation.
WATCH = """
new MutationObserver((_, watch) => {
  if (document.documentElement?.dataset.ready === undefined) return;
  window.readyAt = performance.now();
  watch.disconnect();
}).observe(document, {attributes: true, subtree: true});
"""
LOADED = "['resource', 'navigation'].flatMap((kind) => performance.getEntriesByType(kind))"


def measure(url: Annotated[str, typer.Argument(help="URL of the server.")]) -> None:
    """Measure and print the table."""
    table = Table("cache", "processor", "requests", "kB sent", "kB in all", "to interactive, ms", "longest")
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
        for slowdown in (1, 4):
            for is_warm in (False, True):
                pages = loads(browser, url, slowdown, is_warm=is_warm)
                times = [page["ready"] for page in pages]
                last = pages[-1]
                table.add_row(
                    "warm" if is_warm else "cold",
                    f"1/{slowdown}",
                    str(last["requests"]),
                    f"{last['sent'] / 1000:.1f}",
                    f"{last['whole'] / 1000:.1f}",
                    f"{statistics.median(times):.0f}",
                    f"{max(times):.0f}",
                )
        browser.close()
    Console().print(table)


def loads(browser: Browser, url: str, slowdown: int, *, is_warm: bool) -> list[dict[str, Any]]:
    """Several visits: each with a new browser, or all with one that has visited the page before."""
    found = []
    context = browser.new_context()
    if is_warm:
        load(context, url, slowdown)
    for _ in range(ROUNDS):
        if not is_warm:
            context.close()
            context = browser.new_context()
        found.append(load(context, url, slowdown))
    context.close()
    return found


def load(context: BrowserContext, url: str, slowdown: int) -> dict[str, Any]:
    page = context.new_page()
    context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": slowdown})
    page.add_init_script(WATCH)
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    entries = page.evaluate(f"{LOADED}.map((entry) => [entry.transferSize, entry.decodedBodySize])")
    ready = page.evaluate("window.readyAt")
    page.close()
    sent, whole = (sum(sizes) for sizes in zip(*entries, strict=True))
    return {"ready": ready, "requests": len(entries), "sent": sent, "whole": whole}


if __name__ == "__main__":
    typer.run(measure)
