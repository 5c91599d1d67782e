"""What stays behind with what the target has, and how a wheel loses files."""

from __future__ import annotations

import csv
import subprocess
import sys
import zipfile
from pathlib import Path

from bundle.contents import matching, orphans, thin
from bundle.order import FileRule
from tests.wheels import make_wheel

GRAPH = {
    "vllm": {"torch", "numpy", "pillow"},
    "torch": {"nvidia-cublas", "sympy", "numpy"},
    "nvidia-cublas": {"nvidia-nvrtc"},
    "nvidia-nvrtc": set(),
    "sympy": {"mpmath"},
    "mpmath": set(),
    "numpy": set(),
    "pillow": set(),
}


def test_what_only_torch_needs_stays_behind_with_it() -> None:
    """Its CUDA libraries and its algebra, but not what something else needs too."""
    assert orphans(GRAPH, {"numpy"}, {"torch"}) == {"nvidia-cublas", "nvidia-nvrtc", "sympy", "mpmath"}
    assert orphans(GRAPH, {"sympy"}, {"torch"}) == {"nvidia-cublas", "nvidia-nvrtc"}
    assert orphans(GRAPH, set(), set()) == set()


def test_torchvision_follows_the_targets_torch() -> None:
    """Its binaries load under one torch alone."""
    assert matching("torchvision===0.28.0", {"torch": "2.11.0+cu130"}) == "torchvision==0.26.*"
    assert matching("torchvision===0.28.0", {"torch": "2.13.0"}) == "torchvision==0.28.*"
    assert matching("torchvision===0.28.0", {}) == "torchvision===0.28.0"
    assert matching("numpy==2", {"torch": "2.11.0"}) == "numpy==2"


def test_a_thinned_wheel_installs(tmp_path: Path) -> None:
    """What is left out is gone from RECORD too, the rest is as it was, and pip takes the wheel."""
    wheel = make_wheel(tmp_path, "demo", {"demo/a.py": "x = 1\n", "demo/big.so": "b" * 10_000})
    (tmp_path / "thin").mkdir()
    thinned = tmp_path / "thin" / wheel.name
    rules = [FileRule("demo", ["demo/*.so"], "big")]
    assert thin(wheel, rules, thinned) == ["demo/big.so"]
    with zipfile.ZipFile(thinned) as archive, zipfile.ZipFile(wheel) as before:
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
        str(thinned),
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "to/demo/a.py").is_file()
    assert not (tmp_path / "to/demo/big.so").exists()


def test_thinning_gives_the_same_bytes_every_time(tmp_path: Path) -> None:
    """A second run of a bundle has the digests of the first."""
    wheel = make_wheel(tmp_path, "demo", {"demo/a.py": "x = 1\n", "demo/b.so": "b"})
    for name in ("one", "two"):
        thin(wheel, [FileRule("demo", ["demo/b.so"], "b")], tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
