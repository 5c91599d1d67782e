"""Reading a bundle: whole, in parts, and damaged."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundle.contents import Item, entry_of
from bundle.seal import cut
from sealed import payload
from sealed.failures import BundleError
from sealed.manifest import Entry, Manifest, Target, parse
from sealed.signature import read_sealed
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
        for item in items:
            item.source.unlink()
        files = tuple(item.entry for item in items)
        manifest = Manifest("1", "", "", TARGET, 0, {}, (), files, parts)
        if parts:
            assert payload.take(folder, manifest, lambda entry: folder / "out" / entry.path) == {}
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


@pytest.mark.parametrize("kind", ["whole", "in_parts"])
def test_what_the_manifest_does_not_list_is_refused(kind: str, request: pytest.FixtureRequest) -> None:
    """A wheel, a hidden file, a link to a folder; empty folders say nothing."""
    bundle: Path = request.getfixturevalue(kind)
    (bundle / "wheels").mkdir(exist_ok=True)
    (bundle / "empty").mkdir()
    (bundle / "wheels/pip-0x-py3-none-any.whl").write_bytes(b"")
    (bundle / ".hidden").write_bytes(b"")
    (bundle / "link").symlink_to("/")
    assert list(problems(bundle)) == [".hidden", "link", "wheels/pip-0x-py3-none-any.whl"]


def test_a_link_is_no_file(whole: Path, tmp_path: Path) -> None:
    """Also not one to the right bytes: it may lead to others a moment later."""
    (whole / "models.yaml").rename(tmp_path / "elsewhere")
    (whole / "models.yaml").symlink_to(tmp_path / "elsewhere")
    assert problems(whole) == {"models.yaml": "a link, not a file"}


@pytest.mark.parametrize("name", ["models.yaml", "manifest.json", "manifest.json.sig"])
def test_a_pipe_is_not_waited_for(whole: Path, name: str) -> None:
    """Nobody would ever write to it."""
    (whole / name).unlink()
    os.mkfifo(whole / name)
    assert "not a regular file" in next(iter(problems(whole).values()))


def test_what_is_written_is_what_was_checked(whole: Path, tmp_path: Path) -> None:
    """The bundle may change as soon as it was read: nobody looks at it again."""

    def place(entry: Entry) -> Path:
        return tmp_path / "out" / entry.path

    manifest = parse(read_sealed(whole)[0])
    assert payload.take(whole, manifest, place) == {}
    shutil.rmtree(whole)
    for entry in manifest.files:
        assert hashlib.sha256(place(entry).read_bytes()).hexdigest() == entry.sha256


def test_nothing_that_is_there_is_written_over(whole: Path, tmp_path: Path) -> None:
    """No file, and no link, through which another one would be."""
    out = tmp_path / "out"
    out.mkdir()
    for target in ("file", "link", "dangling"):
        (out / "models.yaml").unlink(missing_ok=True)
        if target == "file":
            (out / "models.yaml").write_text("old")
        else:
            (out / "models.yaml").symlink_to(tmp_path / target)
        with pytest.raises(FileExistsError):
            payload.take(whole, parse(read_sealed(whole)[0]), lambda entry: out / Path(entry.path).name)
        assert not (tmp_path / "dangling").exists()
        shutil.rmtree(out)
        out.mkdir()
