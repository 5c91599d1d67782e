"""What the target has already, and what therefore stays behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundle.have import Have, left_out, matching, orphans, parse_have
from server.errors import ConfigurationError

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


@pytest.mark.parametrize(
    "text",
    [
        "Package Version Location\n------- -------\ntorch   2.11.0+cu130\nPyYAML  6.0.3 /x\n",
        "torch==2.11.0+cu130\nPyYAML==6.0.3\n-e git+x\n",
        '[{"name": "torch", "version": "2.11.0+cu130"}, {"name": "PyYAML", "version": "6.0.3"}]',
    ],
)
def test_a_pip_list_in_each_of_its_formats(tmp_path: Path, text: str) -> None:
    """Columns, freeze and JSON say the same."""
    (tmp_path / "list").write_text(text)
    have = parse_have([str(tmp_path / "list"), "triton==3.6.0, numpy==2.5"])
    assert have == Have({"triton": "3.6.0", "numpy": "2.5"}, {"torch": "2.11.0+cu130", "pyyaml": "6.0.3"})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("torch==", "not NAME==VERSION"),
        ("torch==new", "not a version"),
        ("/no/such/list", "cannot"),
        ("torch", "neither NAME==VERSION nor a file"),
    ],
)
def test_what_is_not_understood_is_told(value: str, words: str) -> None:
    """In one sentence with an example."""
    with pytest.raises(ConfigurationError) as caught:
        parse_have([value])
    assert words in caught.value.message or "neither" in caught.value.message


def test_a_file_that_is_no_list_is_told(tmp_path: Path) -> None:
    """Text without a package, JSON of another shape, bytes."""
    for data in (b"hello there\n", b"[1]", b"\xff\xff"):
        (tmp_path / "list").write_bytes(data)
        with pytest.raises(ConfigurationError, match="pip list"):
            parse_have([str(tmp_path / "list")])


def test_a_stated_version_is_believed_and_a_listed_one_has_to_be_equal() -> None:
    """Whoever states torch 2.11 means it; of a list only what is pinned takes a package's place."""
    pinned = {"torch": "2.13.0", "numpy": "2.3.5", "pyyaml": "6.0.3"}
    have = Have({"torch": "2.11.0"}, {"numpy": "2.5.0", "pyyaml": "6.0.3", "other": "1"})
    assert left_out(pinned, have) == {"torch": "2.11.0", "pyyaml": "6.0.3"}
    with pytest.raises(ConfigurationError, match="other would not be in the bundle"):
        left_out(pinned, Have({"other": "1"}, {}))


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
