"""One installation of one bundle, one server for all tests of this directory: on the real engine, on the CPU.

Where namespaces can be made, the site is one that has no network. Elsewhere it is installed all the same, to
show that the text profile is enough, and the tests of silence say why they are skipped.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.airgap.namespace import Namespace, why_not
from tests.bundle.real import real_bundle
from tests.serving import VERBATIM, wait_for

HERE = Path(__file__).parent
CLIENT_S = 600


@dataclass
class Site:
    """What an air-gapped site saw. packets: that left it; None where nothing could be captured."""

    prefix: Path
    answers: dict[str, Any]
    log: str
    exit_code: int
    packets: list[str] | None


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_bundle(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def namespace() -> Iterator[Namespace | None]:
    if why_not():
        yield None
        return
    with Namespace() as namespace:
        yield namespace


def clean(home: Path) -> dict[str, str]:
    """An environment that says nothing of this project, nor of any cache."""
    home.mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LD_LIBRARY_PATH")}
    return {**kept, "HOME": str(home)}


@pytest.fixture(scope="session")
def site(bundle: Path, namespace: Namespace | None, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Installs, serves, answers and stops, at a site without a network where one can be made."""
    folder = tmp_path_factory.mktemp("site")
    if namespace is None:
        return visit(bundle, None, folder)
    with namespace.captured(folder / "capture") as capture:
        seen = visit(bundle, namespace, folder)
    seen.packets = capture.packets()  # now that tcpdump has ended, and written down all
    return seen


@pytest.fixture(scope="session")
def checkout(namespace: Namespace | None, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The same but for the installation: what serves is this checkout, in its own environment."""
    folder = tmp_path_factory.mktemp("checkout")
    environ = dict(os.environ) | {"PYTHONPATH": str(HERE.parents[1])}
    command = list(map(str, VERBATIM))
    if namespace is None:
        return ask(command, None, folder, environ)
    with namespace.captured(folder / "capture") as capture:
        seen = ask(command, namespace, folder, environ)
    seen.packets = capture.packets()
    return seen


@pytest.fixture(params=["checkout", pytest.param("installed", marks=pytest.mark.long)])
def served(request: pytest.FixtureRequest) -> Site:
    """What a server at such a site answers, and what leaves it meanwhile."""
    site: Site = request.getfixturevalue("checkout" if request.param == "checkout" else "site")
    return site


def _inside(namespace: Namespace | None, *command: str) -> list[str]:
    return namespace.inside(*command) if namespace else list(command)


def visit(bundle: Path, namespace: Namespace | None, folder: Path) -> Site:
    environ = clean(folder / "home")
    install = ["sh", str(bundle / "install.sh"), "--prefix", str(folder / "verbatim")]
    install += ["--python", sys.executable, "--require-signature", str(bundle.parent / "release.pub")]
    ran = subprocess.run(
        _inside(namespace, *install), env=environ, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    seen = ask([str(folder / "verbatim/current/bin/verbatim")], namespace, folder, environ)
    seen.prefix = folder / "verbatim"
    return seen


def ask(command: list[str], namespace: Namespace | None, folder: Path, environ: dict[str, str]) -> Site:
    """Serve, answer and stop."""
    log = folder / "log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            _inside(namespace, *command, "serve", "--port", "8000"),
            env=environ,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    try:
        found = wait_for(lambda: re.search(r"listens on (http://\S+)", log.read_text()), 180)
        client = [sys.executable, str(HERE / "client.py"), found[1]]
        asked = subprocess.run(
            _inside(namespace, *client),
            env=environ,
            capture_output=True,
            text=True,
            timeout=CLIENT_S,
            check=False,
        )
        assert asked.returncode == 0, asked.stderr + log.read_text()
    finally:
        server.send_signal(signal.SIGTERM)
        try:
            exit_code = server.wait(120)
        finally:
            server.kill()
            server.wait()
    answers = json.loads(asked.stdout)
    return Site(folder, answers, log.read_text("utf-8", "replace"), exit_code, None)


@pytest.fixture(scope="session")
def talkative(namespace: Namespace | None, tmp_path_factory: pytest.TempPathFactory) -> list[str] | None:
    """What leaves such a site when plain vLLM starts there with its defaults, its default model too.

    Its usage report would be caught as well, but only its CUDA build sends one.
    """
    if namespace is None:
        return None
    folder = tmp_path_factory.mktemp("plain")
    code = "from vllm import LLM, EngineArgs; LLM(EngineArgs.model)"
    environ = clean(folder / "home")
    with namespace.captured(folder / "capture") as capture, (folder / "log").open("wb") as out:
        process = subprocess.Popen(
            namespace.inside(sys.executable, "-c", f"if __name__ == '__main__':\n    {code}"),
            env=environ, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            while not capture.packets() and process.poll() is None:
                time.sleep(0.5)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return capture.packets()
