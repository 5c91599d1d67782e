"""What a manifest may say. Whoever signs it, its fields become names on a disk and lines of a script."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sealed.failures import BundleError
from sealed.manifest import FORMAT, MANIFEST, MOST_MANIFEST_BYTES, is_safe, parse, read_bytes, shown

DIGEST = "0" * 64
Fields = dict[str, Any]


@pytest.fixture
def fields(made: Path) -> Fields:
    """Those of a manifest that is as it should be."""
    return dict(json.loads(read_bytes(made)))


def put(*path: str) -> Callable[[Fields, object], None]:
    """Sets the field that these keys lead to."""

    def change(fields: Fields, value: object) -> None:
        for key in path[:-1]:
            fields = fields[key]
        fields[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "value"),
    [
        (put("version"), "../../../tmp/x"),  # the name of a folder
        (put("version"), "1\n2"),
        (put("version"), 1),
        (put("created"), "yesterday"),  # compared with others
        (put("recipe"), "x"),
        (put("target", "device"), "cpu; reboot"),
        (put("target", "python"), "3.12; reboot"),
        (put("target", "machine"), "x86_64\x1b[2J"),  # shown on a terminal
        (put("target", "glibc"), "new"),
        (put("target", "profile"), "../full"),
        (put("target", "gpu"), "all"),
        (put("target", "have"), {"../x": "1.0"}),
        (put("target", "have"), {"torch": "1.0\n"}),
        (put("target", "have"), ["torch"]),
        (put("environment"), {"X; touch /tmp/pwned; Y": "1"}),  # a line of bin/verbatim
        (put("environment"), {"LD_PRELOAD": "x.so"}),
        (put("environment"), {"VERBATIM_X": "a\nb"}),
        (put("environment"), {"VERBATIM_X": 1}),
        (put("installed_bytes"), -1),
        (put("installed_bytes"), 10**18),
        (put("installed_bytes"), True),
        (put("format"), True),
        (put("files"), []),  # without a pip
        (put("loose"), []),  # without an installer
        (put("extra"), 1),
    ],
)
def test_each_field_has_a_pattern(fields: Fields, change: Callable[..., None], value: object) -> None:
    """A value that is none of its field's is refused, before any of it is used."""
    change(fields, value)
    with pytest.raises(BundleError, match=r"manifest\.json (is damaged|has format)") as caught:
        parse(json.dumps(fields).encode())
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "models/../../x",
        "models/a//b",
        "models/a\\b",
        "models/m/.hidden",
        "models/m/a\nb",
        "models/m/\u202egpj.sh",
        "models/m/e\u0301",  # another spelling of é
        "models/m/NUL:",
        "models/m/$(reboot)",
        "models/m/" + "x" * 201,
        "models/m/" + "x/" * 600 + "x",
        "models/file",
        "venv/bin/python",  # would be written through the environment's link
        "bin/verbatim",
        "incoming/x",
        "installed.json",
        "manifest.json",
        "install.sh",
        "wheels/sub/a-1-py3-none-any.whl",
        "wheels/a.tar.gz",
        "wheels/pip-9-py3-none-any.whl",  # a second pip
        "MODELS.yaml",
        "models.yaml",  # twice
        "models.yaml/x",
    ],
)
def test_a_file_has_one_of_a_few_places(fields: Fields, path: str) -> None:
    """No way out of the folder, nothing that the installation makes itself, no name that reads two ways."""
    fields["files"].append({"path": path, "size": 0, "sha256": DIGEST})
    with pytest.raises(BundleError, match="damaged"):
        parse(json.dumps(fields).encode())


def test_two_names_that_some_file_system_takes_for_one(fields: Fields) -> None:
    """Letter case alone is no difference, and a file is no folder of another."""
    for first, second in (("models/m/a", "models/M/A"), ("models/m/a", "models/m/a/b")):
        entries = [{"path": path, "size": 0, "sha256": DIGEST} for path in (first, second)]
        with pytest.raises(BundleError, match=r"twice|inside another file"):
            parse(json.dumps({**fields, "files": fields["files"] + entries}).encode())


@pytest.mark.parametrize("size", [-1, True, 1.5, 1 << 50, "1"])
def test_a_size_is_a_number_of_bytes(fields: Fields, size: object) -> None:
    """Whole, not negative, and not more than any disk has."""
    fields["files"][0]["size"] = size
    with pytest.raises(BundleError, match="damaged"):
        parse(json.dumps(fields).encode())


def test_a_part_is_called_so(fields: Fields) -> None:
    """Parts have one kind of name, and add up to the files."""
    total = sum(file["size"] for file in fields["files"])
    for path, size in (("models.yaml", total), ("../part-0001", total), ("part-0001", total + 1)):
        fields["parts"] = [{"path": path, "size": size, "sha256": DIGEST}]
        with pytest.raises(BundleError, match="damaged"):
            parse(json.dumps(fields).encode())
    fields["parts"] = [{"path": "part-0001", "size": total, "sha256": DIGEST}]
    assert parse(json.dumps(fields).encode()).parts


def test_a_key_stands_once(fields: Fields) -> None:
    """Of two another program might believe the other."""
    text = json.dumps(fields).replace('"version": "0"', '"version": "0", "version": "1"')
    with pytest.raises(BundleError, match="twice"):
        parse(text.encode())


def test_names_in_any_script_are_kept() -> None:
    """What is ordinary is allowed, in every language."""
    assert all(
        map(is_safe, ("models/m/重み.safetensors", "models/m/é a+b=c,(1).json", "models/a--b/x_y-1.0"))
    )


def test_another_format_says_so(fields: Fields) -> None:
    """A newer bundle needs a newer program."""
    with pytest.raises(BundleError, match=f"format {FORMAT + 1}"):
        parse(json.dumps({**fields, "format": FORMAT + 1}).encode())


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format": 2}', b"\xff", b"[" * 100_000])
def test_what_is_no_manifest_is_one_line(data: bytes) -> None:
    """Whatever the bytes are."""
    with pytest.raises(BundleError, match=r"manifest\.json (is damaged|has format)"):
        parse(data)


def test_a_manifest_has_an_end(tmp_path: Path) -> None:
    """One that is far too large is not read to its end."""
    with (tmp_path / MANIFEST).open("wb") as file:
        file.truncate(MOST_MANIFEST_BYTES + 1)
    with pytest.raises(BundleError, match="damaged"):
        read_bytes(tmp_path)


def test_names_of_others_are_shown_escaped() -> None:
    """A terminal obeys no file name."""
    assert shown("a\x1b[2J\udcff é") == "a\\x1b[2J\\udcff é"
