"""A Prometheus with the rules of deploy/prometheus, in which what takes minutes takes seconds."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.servers import free_port
from tests.deploy.configuration import CONFIG, RULES
from tests.serving import wait_for

PROGRAM = "prometheus"
EVERY = "1s"  # as long as a busy server may take to answer


@dataclass(frozen=True)
class Prometheus:
    url: str

    def get(self, path: str, **params: str) -> Any:
        """What its API answers."""
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=params, timeout=30, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def value(self, expression: str) -> float | None:
        """Of an expression with one sample, or none."""
        found = self.query(expression)
        assert len(found) < 2, found
        return float(found[0]["value"][1]) if found else None

    def query(self, expression: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def alerts(self, name: str) -> dict[str, str]:
        """Those of that name that are pending or firing: their states, by what they are about."""
        return {
            one["labels"].get("model", one["labels"].get("job", "")): one["state"]
            for one in self.get("alerts")["alerts"]
            if one["labels"]["alertname"] == name
        }


def becomes(look: Callable[[], object], expected: object, within_s: float = 60) -> object:
    """What is seen once it is as expected, or at the end: no test fails because one scrape came too late."""
    end = time.monotonic() + within_s
    while (seen := look()) != expected and time.monotonic() < end:
        time.sleep(0.2)
    return seen


def shortened(rules: str) -> str:
    """Alerts that wait for minutes wait for a second: an engine is back after a few."""
    return re.sub(r"\bfor: \d+m\b", "for: 1s", rules)


@contextmanager
def prometheus(folder: Path, jobs: list[dict[str, Any]]) -> Iterator[Prometheus]:
    """Runs while the block does. jobs: instead of the configuration's own."""
    config = yaml.safe_load(CONFIG.read_text("utf-8"))
    config["global"] = {"scrape_interval": EVERY, "scrape_timeout": EVERY, "evaluation_interval": EVERY}
    config["scrape_configs"] = jobs
    (folder / CONFIG.name).write_text(yaml.safe_dump(config), "utf-8")
    (folder / RULES.name).write_text(shortened(RULES.read_text("utf-8")), "utf-8")
    address, log = f"127.0.0.1:{free_port()}", folder / "prometheus.log"
    command = [PROGRAM, f"--config.file={folder / CONFIG.name}", f"--storage.tsdb.path={folder / 'data'}"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, f"--web.listen-address={address}"], stdout=out, stderr=subprocess.STDOUT, cwd=folder
        )
    try:
        wait_for(lambda: process.poll() is not None or _is_ready(address), 60, every_s=0.1)
        assert process.poll() is None, log.read_text()
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/-/ready", timeout=5, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
