"""One image, built of Dockerfile.cuda and the CPU bundle, and one container of it, for all tests here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.weights.builtin import builtin_path
from tests.bundle.real import real_bundle
from tests.packaging.engine import START, SUITES, Buildah, Built, Container, storage, why_not
from tests.serving import SMOL, wait_for

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "tests/airgap/client.py"
DOCKERFILE = ROOT / "Dockerfile.cuda"
IMAGE = "localhost/verbatim:test"
MODELS = "/opt/verbatim/current/models"
VOLUMES = ("/cache", "/tmp")  # noqa: S108
PLACES = ("/new", "/opt/verbatim/current/new", f"{MODELS}/new", "/home/new")  # where nothing may be written
# What an engine adds to what the image says.
GIVEN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "VERBATIM_API_KEYS": "key"}


@dataclass
class Seen:
    """What one run of the image showed. refused: what was said to a write, by place; '' where it worked.
    orphans: processes whose parent has ended. zombies: those of them that nobody waited for at their end."""

    health_before: int
    health: int
    answers: dict[str, Any]
    uid: int
    init: str
    refused: dict[str, str]
    orphans: int
    zombies: int
    exit_code: int
    log: str


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_bundle(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def buildah() -> Iterator[Buildah]:
    if reason := why_not():
        pytest.skip(reason)
    folder = storage()
    buildah = Buildah(folder)
    try:
        yield buildah
    finally:
        buildah("umount", "--all")
        buildah("rm", "--all")
        shutil.rmtree(folder)  # a gigabyte or two


@pytest.fixture(scope="session")
def base(buildah: Buildah) -> str:
    """A small Debian with what Dockerfile.cuda asks of its base, by digest."""
    try:
        return buildah.base(SUITES[sys.version_info[:2]], "python3", "tini", "libnuma1")
    except LookupError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def built(buildah: Buildah, base: str, bundle: Path) -> Built:
    """The image, built without a network as its users build it; on the CPU."""
    built = buildah.build(DOCKERFILE, bundle, IMAGE, BASE=base, DEVICE="cpu")
    assert built.code == 0, built.said
    return built


@pytest.fixture(scope="session")
def config(buildah: Buildah, built: Built) -> dict[str, Any]:
    """What the image says of itself."""
    return buildah.config(IMAGE)


@pytest.fixture(scope="session")
def root(buildah: Buildah, built: Built) -> Path:
    """Its root file system."""
    return buildah.root(IMAGE)


@pytest.fixture(scope="session")
def seen(root: Path, config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """The image starts, answers and stops."""
    folder = tmp_path_factory.mktemp("container")
    container = start(root, config, models_at(folder), folder / "log")
    try:
        return visit(container)
    except BaseException:
        print(container.log.read_text("utf-8", "replace"))
        raise
    finally:
        container.process.kill()  # and with it, by --kill-child, all that runs inside
        container.process.wait()


def models_at(folder: Path) -> Path:
    """The directory that is mounted: what the bundle has in models/."""
    source = builtin_path(SMOL)
    shutil.copytree(source, folder / "models" / source.name, copy_function=link_or_copy)
    return folder / "models"


def link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def start(root: Path, config: dict[str, Any], models: Path, log: Path) -> Container:
    environment = GIVEN | dict(setting.split("=", 1) for setting in config["Env"])
    uid, gid = config["User"].split(":")
    command = [
        "env",
        "-i",
        "-C",
        config["WorkingDir"],
        *(f"{name}={value}" for name, value in environment.items()),
    ]
    command += [*config["Entrypoint"], *config["Cmd"]]
    unshare = ["unshare", "-m", "-n", "-p", "--fork", "--kill-child", "sh", "-c", START, "start"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*unshare, str(root), uid, gid, str(models), MODELS, *command],
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    (init,) = wait_for(lambda: psutil.Process(process.pid).children(), 30)
    wait_for(lambda: init.name() == "tini", 30)
    return Container(process, config, init.pid, log, environment)


def visit(container: Container) -> Seen:
    wait_for(lambda: b"listens on" in container.log.read_bytes() or container.process.poll() is not None, 120)
    check = container.config["Healthcheck"]["Test"][1:]
    health_before = container.run(*check).returncode
    client = container.beside(sys.executable, str(CLIENT), "http://127.0.0.1:8000")
    asked = subprocess.run(client, capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    health = container.run(*check).returncode
    refused = {
        path: container.run("touch", path).stderr.strip()
        for path in (*PLACES, *(f"{volume}/new" for volume in VOLUMES))
    }
    inside = psutil.Process(container.init)
    container.run("sh", "-c", "for n in 1 2 3; do (sleep 2 >/dev/null 2>&1 &) ; done")
    orphans = [one for one in inside.children() if one.name() == "sleep"]
    _, left = psutil.wait_procs(orphans, timeout=30)
    uid, name = inside.uids().effective, inside.name()
    os.kill(container.init, signal.SIGTERM)
    exit_code = container.process.wait(120)
    return Seen(
        health_before, health, json.loads(asked.stdout), uid, name, refused,
        len(orphans), len(left), exit_code, container.log.read_text("utf-8", "replace"),
    )  # fmt: skip
