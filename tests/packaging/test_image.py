"""Dockerfile.cuda, built and run: the very file, with another base and the CPU bundle."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from server import __version__
from tests.packaging.conftest import DOCKERFILE, PLACES, VOLUMES, Seen
from tests.packaging.engine import Buildah, Built

pytestmark = [pytest.mark.engine, pytest.mark.image, pytest.mark.long, pytest.mark.timeout(900)]

COMPILERS = ("*cc", "*cc-[0-9]*", "*g++*", "clang*", "tcc", "as", "ld", "make", "nvcc")


def test_a_base_without_a_digest_is_refused(buildah: Buildah, base: str, tmp_path: Path) -> None:
    """A tag alone may be another image tomorrow: the build stops at once and says what to give."""
    tag = base.split("@")[0] + ":test"
    built = buildah.build(DOCKERFILE, tmp_path, "localhost/refused", BASE=tag)
    assert built.code != 0
    assert f"BASE={tag} has no digest: give it as NAME:TAG@sha256:" in built.said


def test_a_missing_base_is_refused(buildah: Buildah, tmp_path: Path) -> None:
    """There is no default that would be built on by mistake."""
    built = buildah.build(DOCKERFILE, tmp_path, "localhost/refused")
    assert built.code != 0


def test_it_is_installed_from_the_bundle(built: Built) -> None:
    """install.sh did it, after every check, where there was no network."""
    assert re.search(r"installed \d+ packages", built.said)
    assert "is installed in /opt/verbatim" in built.said


def test_it_answers(seen: Seen) -> None:
    """Started by its own entry point, the model completes, whole and streamed; /docs is there."""
    assert seen.answers["whole"].startswith(" Paris.")
    assert seen.answers["streamed"] == seen.answers["whole"]
    assert set(seen.answers["docs"].values()) == {200}


def test_mounted_models_are_the_bundles(seen: Seen) -> None:
    """The models come from outside, and are what the manifest inside says: the installation is whole."""
    assert seen.answers["attestation"]["installation"]["problems"] == {}
    assert seen.answers["attestation"]["installation"]["whole"] is True


def test_the_image_has_no_models(root: Path) -> None:
    """Their place is there to be mounted over, and empty."""
    assert list((root / "opt/verbatim/current/models").iterdir()) == []


def test_it_runs_as_nobody_in_particular(seen: Seen, config: dict[str, Any]) -> None:
    """A fixed user without rights, by number, so that an engine can see that it is not root."""
    assert config["User"] == "10001:10001"
    assert seen.uid == 10001


def test_nothing_can_be_written_but_cache_and_tmp(seen: Seen) -> None:
    """The root file system is read-only, and so are the models; everything else has its volume."""
    said = {path: "Read-only file system" in said or said for path, said in seen.refused.items()}
    assert said == dict.fromkeys(PLACES, True) | {f"{volume}/new": "" for volume in VOLUMES}


def test_volumes_are_named(config: dict[str, Any]) -> None:
    """What has to be writable is declared, so that an engine provides it."""
    assert set(config["Volumes"]) == set(VOLUMES)


def test_health_is_readiness(seen: Seen) -> None:
    """The image's own health check fails until the model answers, and then passes."""
    assert seen.health_before == 1
    assert seen.health == 0


def test_process_1_reaps(seen: Seen) -> None:
    """Orphans are waited for by tini."""
    assert seen.init == "tini"
    assert (seen.orphans, seen.zombies) == (3, 0)


def test_sigterm_ends_it_in_order(seen: Seen) -> None:
    """What `docker stop` sends: the server drains, stops and is successful."""
    assert "SIGTERM: no new requests" in seen.log
    assert seen.exit_code == 0


def test_no_compiler_is_inside(root: Path) -> None:
    """Nor pip: what is in the image is what was put there."""
    folders = [root / name for name in ("usr/bin", "usr/local/bin", "opt/verbatim/current/venv/bin")]
    found = [
        path.name for folder in folders for pattern in (*COMPILERS, "pip*") for path in folder.glob(pattern)
    ]
    assert found == []


def test_labels_say_the_versions(config: dict[str, Any], base: str) -> None:
    """Of the server, of what it stands on, and the base by its digest."""
    labels = config["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.base.name"] == base
    assert labels["verbatim.vllm.version"] == "0.32.0"
