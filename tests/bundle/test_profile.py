"""What profile text leaves out, and how a wheel loses files."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bundle.order import ROOT, check_gpu, name_of
from bundle.profile import FileRule, load_profile
from bundle.prune import prune, removable
from scripts.packages import pins
from server.errors import ConfigurationError
from tests.bundle.tiny import make_wheel

DEVICES = ["cpu", "cuda"]


def listed(device: str) -> set[str]:
    return {name_of(pin) for pin in pins(ROOT / f"requirements/{device}.txt")}


@pytest.mark.parametrize("device", DEVICES)
def test_only_what_is_in_the_list_is_left_out_of_it(device: str) -> None:
    """No entry of requirements/text.toml is stale, and each has a reason."""
    profile = load_profile("text", device, ROOT / "requirements")
    assert profile.packages.keys() - listed(device) == set()
    assert all(len(reason) > 3 for reason in profile.packages.values())


def test_file_rules_are_of_packages_that_stay() -> None:
    """Each names a package of some list that the profile keeps, and says why."""
    for rule in load_profile("text", "cuda", ROOT / "requirements").files:
        assert rule.package in listed("cuda")
        assert rule.package not in load_profile("text", "cuda", ROOT / "requirements").packages
        assert rule.reason


@pytest.mark.parametrize("device", DEVICES)
def test_the_server_keeps_what_it_imports(device: str) -> None:
    """Every package that pyproject.toml names as the server's own stays in the text profile."""
    text = (ROOT / "pyproject.toml").read_text()
    own = re.findall(r'^    "([a-z-]+)[>=]', text.split("dependencies = [")[1].split("]")[0], re.MULTILINE)
    assert len(own) > 10
    assert set(own) & load_profile("text", device, ROOT / "requirements").packages.keys() == set()


def test_a_rule_applies_where_nothing_needs_the_files() -> None:
    """Not to a chip that needs them, nor to any chip when none is named, nor with a model that needs them."""
    rule = FileRule("p", ["a/*"], "why", gpus=["9.0"], keys=["lora"])
    assert rule.applies("8.0", {"x"})
    assert not rule.applies("9.0", {"x"})
    assert not rule.applies("", {"x"})
    assert not rule.applies("8.0", {"lora"})
    assert FileRule("p", ["a/*"], "why").applies("", set())


@pytest.mark.parametrize(
    ("gpu", "device", "profile", "words"),
    [
        ("9.0", "cpu", "text", "--device cuda"),
        ("9.0", "cuda", "full", "--profile text"),
        ("7.5", "cuda", "text", "known are 8.0, 8.6"),
    ],
)
def test_a_chip_has_to_be_known(gpu: str, device: str, profile: str, words: str) -> None:
    """And to make a difference."""
    with pytest.raises(ConfigurationError, match=words):
        check_gpu(gpu, device, load_profile(profile, device, ROOT / "requirements"))


def test_a_thinned_wheel_installs(tmp_path: Path) -> None:
    """What is left out is gone from RECORD too, the rest is as it was, and pip takes the wheel."""
    wheel = make_wheel(tmp_path, "demo", {"demo/a.py": "x = 1\n", "demo/big.so": "b" * 10_000})
    (tmp_path / "thin").mkdir()
    thin = tmp_path / "thin" / wheel.name
    rules = [FileRule("demo", ["demo/*.so"], "big")]
    assert list(removable(wheel, rules)) == ["demo/big.so"]
    prune(wheel, ["demo/big.so"], thin)
    with zipfile.ZipFile(thin) as archive, zipfile.ZipFile(wheel) as before:
        assert archive.testzip() is None
        assert archive.read("demo/a.py") == before.read("demo/a.py")
        rows = list(csv.reader(archive.read("demo-1.0.dist-info/RECORD").decode().splitlines()))
        assert sorted(row[0] for row in rows) == sorted(archive.namelist())
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-index",
        "--target",
        str(tmp_path / "to"),
        str(thin),
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "to/demo/a.py").is_file()
    assert not (tmp_path / "to/demo/big.so").exists()


def test_thinning_gives_the_same_bytes_every_time(tmp_path: Path) -> None:
    """A second run of a bundle has the digests of the first."""
    wheel = make_wheel(tmp_path, "demo", {"demo/a.py": "x = 1\n", "demo/b.so": "b"})
    for name in ("one", "two"):
        prune(wheel, ["demo/b.so"], tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
