"""What was ordered: the lists, the profile, the target's chip, what the target has, the size of parts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bundle.models import Configuration
from bundle.order import (
    ROOT,
    FileRule,
    Have,
    Order,
    check_gpu,
    left_out,
    load_profile,
    name_of,
    parse_have,
    parse_size,
)
from server.errors import ConfigurationError
from server.pip import read_pins

DEVICES = ["cpu", "cuda"]


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
        ("/no/such/list", "No such file"),
        ("torch", "neither NAME==VERSION nor a readable file"),
    ],
)
def test_what_is_not_understood_is_told(value: str, words: str) -> None:
    """In one sentence with an example."""
    with pytest.raises(ConfigurationError, match=words):
        parse_have([value])


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


def listed(device: str) -> set[str]:
    return {name_of(pin.requirement) for pin in read_pins(ROOT / f"requirements/{device}.txt")}


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


@pytest.mark.parametrize("device", DEVICES)
def test_with_ray_comes_all_that_ray_needs(tmp_path: Path, device: str) -> None:
    """In the text profile too, which leaves some of it out for others; each package once."""
    ray = {pin.requirement for pin in read_pins(ROOT / "requirements/ray.txt")}

    def pins(*, with_ray: bool) -> list[str]:
        return Order(
            device=device,  # type: ignore[arg-type]
            python="3.12",
            out=tmp_path,
            profile=load_profile("text", device, ROOT / "requirements"),
            configuration=Configuration("", {}, {}),
            checksums={},
            ray=with_ray,
        ).pins

    assert ray <= set(pins(with_ray=True))
    assert set(pins(with_ray=True)) - set(pins(with_ray=False)) <= ray
    assert not [pin for pin in pins(with_ray=False) if pin.startswith("ray==")]
    names = [name_of(pin) for pin in pins(with_ray=True)]
    assert len(names) == len(set(names))


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


@pytest.mark.parametrize(
    ("text", "size"), [("60MiB", 62914560), ("650 MB", 650_000_000), ("4gib", 4 << 30), ("1048576", 1 << 20)]
)
def test_a_part_size(text: str, size: int) -> None:
    """Powers of ten and of two, each by its own name."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "60TB", "-1", "1KiB"])
def test_no_part_size(text: str) -> None:
    """What it should look like is said."""
    with pytest.raises(ConfigurationError, match="--part-size"):
        parse_size(text)
