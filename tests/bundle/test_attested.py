"""GET /attestation of a server that was installed from a bundle."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from sealed.installation import check_installation, find_version, seal
from sealed.manifest import identity
from server.config.settings import Settings
from server.observe.attestation import Attestation
from tests.bundle.tiny import flip
from tests.helpers import until

MANIFEST = "manifest.json"


@pytest.fixture
def installed(whole: Path) -> Path:
    """What an installation has of a bundle."""
    shutil.rmtree(whole / "wheels")
    seal(whole, identity((whole / MANIFEST).read_bytes()))
    return whole


@pytest.fixture
def installed_elsewhere(whole: Path, tmp_path: Path) -> Path:
    """An installation that is whole."""
    other = shutil.copytree(whole, tmp_path / "good")
    shutil.rmtree(other / "wheels")
    seal(other, identity((other / MANIFEST).read_bytes()))
    return other


async def attested(root: Path) -> dict[str, Any]:
    """The installation, as a server says it."""
    attestation = Attestation(Settings.model_construct(models=()), None, root)
    attestation.start()
    await until(lambda: attestation.is_complete)
    document: dict[str, Any] = attestation.document()["installation"]
    return document


async def test_an_installation_that_is_as_it_was_installed(installed: Path) -> None:
    """It is whole, and told by its manifest."""
    document = await attested(installed)
    assert (document["whole"], document["problems"]) == (True, {})
    assert document["manifest_sha256"] == identity((installed / MANIFEST).read_bytes())


async def test_an_altered_file_is_named(installed: Path) -> None:
    """One bit is enough."""
    flip(installed / "models.yaml", 0)
    document = await attested(installed)
    assert (document["whole"], list(document["problems"])) == (False, ["models.yaml"])


async def test_an_installation_of_another_manifest_is_not_whole(installed: Path) -> None:
    """What was installed says of which manifest."""
    (installed / "installed.json").write_text("{}")
    assert (await attested(installed))["whole"] is False


def test_a_bundle_is_no_installation(whole: Path, installed_elsewhere: Path) -> None:
    """A link to a good installation, put into a bundle, does not have that looked at in its place."""
    (whole / "current").symlink_to(installed_elsewhere)
    assert find_version(whole) is None


def test_an_installation_has_no_wheels(whole: Path) -> None:
    """A list that somebody has added to a bundle makes it no installation that is whole."""
    seal(whole, identity((whole / MANIFEST).read_bytes()))
    problems = check_installation(whole, [])
    assert {name.split("/")[0] for name in problems} == {"wheels"}
