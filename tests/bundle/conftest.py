from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bundle.tiny import published_pip, tiny_bundle

Install = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle, not to be changed."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def made_in_parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same in parts, not to be changed."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny-parts"), part_bytes=700_000)


@pytest.fixture(scope="session")
def made_with_published_pip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with pip's wheel as it is published, byte for byte."""
    return tiny_bundle(tmp_path_factory.mktemp("tiny-pip"), pip=published_pip())


@pytest.fixture
def whole(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "whole")


@pytest.fixture
def in_parts(made_in_parts: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made_in_parts, tmp_path / "in-parts")


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Runs a bundle's install.sh, with tmp_path/site as the prefix."""

    def run(bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
        command = ["sh", str(bundle / "install.sh"), "--prefix", str(tmp_path / "site"), *options]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    return run
