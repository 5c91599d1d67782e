"""Reading a bundle: whole, in parts, and damaged."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.sealing import Item, cut, entry_of, part_sizes
from bundle.site import payload
from bundle.site.manifest import Manifest, Target, parse, read_bytes
from bundle.site.signature import read_sealed
from server.errors import BundleError, ConfigurationError
from tests.bundle.tiny import every, flip

TARGET = Target(device="cpu", python="3.12", machine="x86_64", glibc="2.31", profile="text")


def problems(bundle: Path) -> payload.Problems:
    """As verify and install.sh find them; a bad manifest counts under its name."""
    try:
        return payload.check(bundle, parse(read_sealed(bundle)[0]))
    except BundleError as error:
        return {error.message.partition(":")[0]: error.message}


@given(
    contents=st.lists(st.binary(max_size=50), min_size=1, max_size=6),
    part_bytes=st.integers(1, 40),
    first=st.integers(1, 40),
)
@settings(max_examples=150)
def test_any_part_size_reassembles(contents: list[bytes], part_bytes: int, first: int) -> None:
    """Files of any size, empty ones too, cut anywhere, are put together as they were."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        items = []
        for number, data in enumerate(contents):
            (folder / f"{number}.in").write_bytes(data)
            items.append(Item(entry_of(f"a/{number}", data), folder / f"{number}.in"))

        def sizes() -> Iterator[int]:
            yield first
            yield from every(part_bytes)

        parts = tuple(cut(items, folder, sizes(), lambda _: None))
        files = tuple(item.entry for item in items)
        manifest = Manifest("1", "", "", TARGET, 0, 0, {}, (), files, parts)
        if parts:
            assert payload.unpack(folder, manifest, folder / "out") == {}
            assert [(folder / f"out/a/{n}").read_bytes() for n in range(len(contents))] == contents
            assert all((folder / part.path).stat().st_size <= max(first, part_bytes) for part in parts)


@given(data=st.data())
@settings(max_examples=60)
def test_any_altered_byte_is_refused_by_name(made: Path, data: st.DataObject) -> None:
    """One bit of one byte of any file of a bundle: that file is named, and no other."""
    with TemporaryDirectory() as name:
        bundle = shutil.copytree(made, Path(name) / "b")
        files = sorted(path for path in bundle.rglob("*") if path.is_file() and path.stat().st_size)
        path = data.draw(st.sampled_from(files))
        flip(path, data.draw(st.integers(0, path.stat().st_size - 1)))
        named = path.relative_to(bundle).as_posix().removesuffix(".sig")
        assert list(problems(bundle)) == [named]


def test_an_altered_part_is_named(in_parts: Path) -> None:
    """The part, which can be copied again, and not the files that it damages."""
    flip(in_parts / "part-0002", 5)
    assert list(problems(in_parts)) == ["part-0002"]
    assert "altered" in problems(in_parts)["part-0002"]


def test_every_bad_file_is_named(in_parts: Path) -> None:
    """A missing, a shortened and a lengthened one at once."""
    (in_parts / "part-0001").unlink()
    (in_parts / "part-0002").write_bytes((in_parts / "part-0002").read_bytes()[:-1])
    with (in_parts / "install.pyz").open("ab") as file:
        file.write(b"x")
    found = problems(in_parts)
    assert found["part-0001"] == "missing"
    assert found["part-0002"].startswith("cut short: ")
    assert found["install.pyz"].startswith("too long: ")
    assert len(found) == 3


def test_a_whole_bundle_has_no_problems(made: Path, made_in_parts: Path) -> None:
    """Neither in one piece nor in parts."""
    assert problems(made) == problems(made_in_parts) == {}
    assert not (made_in_parts / "wheels").exists()


def test_a_manifest_names_no_way_out(whole: Path) -> None:
    """A path out of the bundle's folder is no path of a bundle."""
    data = read_bytes(whole)
    for path in (b"/etc/passwd", b"../x", b"a/../x", b"a//b", b"a\\\\b"):
        with pytest.raises(BundleError, match="damaged"):
            parse(data.replace(b'"models.yaml"', b'"' + path + b'"'))


def test_a_manifest_of_another_format_says_so(whole: Path) -> None:
    """A newer bundle needs a newer program."""
    with pytest.raises(BundleError, match="format 2"):
        parse(read_bytes(whole).replace(b'"format": 1', b'"format": 2'))


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format": 1}', b"\xff"])
def test_what_is_no_manifest_is_one_line(data: bytes) -> None:
    """Whatever the bytes are."""
    with pytest.raises(BundleError, match=r"manifest\.json is (damaged|of format)"):
        parse(data)


def test_the_first_part_leaves_room_for_the_installer() -> None:
    """The first carrier takes what lies beside the parts as well; a size that has no room is refused."""
    sizes = part_sizes(1000, 300)
    assert [next(sizes) for _ in range(3)] == [700, 1000, 1000]
    with pytest.raises(ConfigurationError, match="--part-size"):
        next(part_sizes(300, 300))
