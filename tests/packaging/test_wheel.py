"""The project as a wheel, in an environment that has its dependencies and no checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

import httpx
import pytest

from bundle.wheels import build_ours
from tests.helpers import ASK, URL, byte_level, model_directory
from tests.serving import serving

ROOT = Path(__file__).parents[2]


@dataclass
class Installed:
    """An environment with our wheel, and a folder with a configuration where its commands run."""

    verbatim: Path
    folder: Path
    environ: dict[str, str]

    def run(self, *words: str) -> tuple[int, str]:
        """(exit code, what it printed)"""
        pipe, both = subprocess.PIPE, subprocess.STDOUT
        command = [self.verbatim, *words]
        ran = subprocess.run(
            command, cwd=self.folder, env=self.environ, stdout=pipe, stderr=both, text=True, check=False
        )
        return ran.returncode, ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    return build_ours(ROOT, folder, folder)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The dependencies are those of the environment that runs the tests: its folder, but not its .pth files,
    one of which names the checkout."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv/bin/python"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*pip, str(wheel)], check=True)
    (site,) = folder.glob("venv/lib/python3*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    model_directory(folder / "weights", byte_level())
    (folder / "models.yaml").write_text("models: [{id: m, path: weights, engine: simulated}]\n")
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return Installed(python.with_name("verbatim"), folder, environ)


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def test_every_package_of_the_checkout_is_in_it_with_its_types_and_data(names: set[str]) -> None:
    """Each with py.typed; what is no Python, such as bundle/site/install.sh; the licence; no tests. Files of
    deploy/ are data beside the packages (tests/bundle/test_make.py)."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    packages = {name.split("/")[0] for name in tracked.splitlines() if name.endswith("py.typed")}
    ours = {name for name in tracked.splitlines() if name.split("/")[0] in packages}
    assert {name.split("/")[0] for name in names if not name.startswith("verbatim-")} == packages
    assert ours - names == set()
    assert [name for name in names if name.endswith("licenses/LICENSE")]


def test_its_metadata_names_no_address(wheel: Path) -> None:
    """What it is, for which Python, under which licence."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("METADATA"))
        metadata = Parser().parsestr(archive.read(name).decode())
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert metadata["License-Expression"] == "Apache-2.0"
    assert not [key for key in metadata if "url" in key.lower() or key.lower() == "home-page"]


def test_it_serves(installed: Installed) -> None:
    """A simulated model answers, and SIGTERM ends it well."""
    model = {"id": "m", "path": str(installed.folder / "weights"), "engine": "simulated"}
    with serving(
        installed.folder, {"models": [model]}, verbatim=[installed.verbatim], environ=installed.environ
    ) as server:
        server.wait_ready()
        answer = httpx.post(server.url() + URL, json=ASK, headers={"Authorization": "Bearer k"}, timeout=30)
        assert answer.status_code == 200
    assert server.process.returncode == 0


def test_it_checks(installed: Installed) -> None:
    """The configuration in the folder where it is called."""
    code, said = installed.run("check")
    assert code == 0, said


def test_a_bundle_wants_a_checkout(installed: Installed) -> None:
    """In a sentence, with the way to one."""
    code, said = installed.run("bundle")
    assert (code, said.count("\n")) == (2, 1)
    assert "made in a checkout" in said


def test_twin_answers_from_the_wheel(installed: Installed) -> None:
    """Its language is in the wheel, and nothing else is needed."""
    verbatim = [installed.verbatim]
    config = {"models": [{"id": "m", "path": "not-here"}]}
    environ = installed.environ
    with serving(
        installed.folder / "twin", config, verbatim=verbatim, environ=environ, command="simulate"
    ) as server:
        server.wait_ready()
        asked = {"model": "m", "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0}
        answer = httpx.post(server.url() + URL, json=asked, headers={"authorization": "Bearer any"})
        assert answer.json()["choices"][0]["text"].startswith(" Paris")
