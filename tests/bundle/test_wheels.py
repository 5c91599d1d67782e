"""Looking up, weighing and fetching: what pip says, and what is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bundle import wheels as module
from bundle.wheels import (
    BATCH_BYTES,
    BatchProgress,
    Wheel,
    batches,
    explain,
    license_of,
    plan_wheels,
    required,
    target_options,
    weigh,
)
from server.errors import ConfigurationError


def wheel(name: str, size: int, index: str = "") -> Wheel:
    return Wheel(name, "1", f"{name}.whl", "0" * 64, size, index=index)


@pytest.mark.parametrize(
    ("printed", "words"),
    [
        ("Temporary failure in name resolution\nNo matching distribution found for six==1", "cannot reach"),
        ("ERROR: No matching distribution found for six==9", "no wheel of six==9 for Python 3.12"),
        ("ERROR: Cannot install six==9 because these package versions", "no wheel of six==9"),
        ("hello\nERROR: hm\nbye", "ERROR: hm"),
    ],
)
def test_a_failure_of_pip_is_one_paragraph(printed: str, words: str) -> None:
    """The target is named where it has no wheel; the rest is as at set-up."""
    message = explain(printed, "3.12", Path("out")).message
    assert words in message
    assert "\n" not in message


def test_the_target_is_not_this_machine() -> None:
    """Its Python, and systems from the oldest supported glibc on."""
    options = target_options("3.13")
    assert options[options.index("--python-version") + 1] == "3.13"
    assert {"manylinux_2_31_x86_64", "manylinux2014_x86_64", "manylinux_2_28_x86_64"} <= set(options)
    assert "manylinux_2_32_x86_64" not in options


def test_torch_for_the_cpu_comes_from_its_own_index_where_it_must(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configured sources first; that one file from PyTorch's index; the rest as before."""
    asked: list[tuple[list[str], bool]] = []

    def report(pins: list[str], python: str, work: Path, *more: str) -> tuple[bool, str]:
        asked.append((list(pins), bool(more)))
        return len(asked) > 1, "ERROR: No matching distribution found for torch==2+cpu"

    monkeypatch.setattr(module, "_report", report)
    monkeypatch.setattr(module, "_wheels", lambda work, python, index: [wheel(index or "rest", 1, index)])
    found = plan_wheels(["six==1", "torch==2+cpu"], "3.12", tmp_path)
    assert asked == [(["six==1", "torch==2+cpu"], False), (["torch==2+cpu"], True), (["six==1"], False)]
    assert [one.index for one in found] == ["", module.TORCH_CPU_INDEX]


def test_a_package_that_is_nowhere_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources alone are no wheel: nothing is compiled at a site."""
    said = "ERROR: No matching distribution found for sdist-only==1"
    monkeypatch.setattr(module, "_report", lambda *_: (False, said))
    with pytest.raises(ConfigurationError, match=r"sdist-only==1 for Python 3\.12"):
        plan_wheels(["sdist-only==1"], "3.12", tmp_path)


def test_a_size_that_is_not_told_is_zero(tmp_path: Path) -> None:
    """A local file has its own; an index that does not answer tells none."""
    (tmp_path / "a b.whl").write_bytes(b"123")
    assert weigh((tmp_path / "a b.whl").as_uri()) == 3
    assert weigh("http://127.0.0.1:1/a.whl") == 0
    assert weigh((tmp_path / "none").as_uri()) == 0


def test_requirements_of_the_target_count() -> None:
    """Markers are read for the target, extras count, and what cannot be read is passed over."""
    metadata = {
        "requires_dist": [
            "A_b>=1",
            "old; python_version < '3.12'",
            "win; sys_platform == 'win32'",
            "more; extra == 'x'",
            "(?",
        ],
        "provides_extra": ["x"],
    }
    assert required(metadata, "3.12") == {"a-b", "more"}
    assert required(metadata, "3.11") == {"a-b", "more", "old"}


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        ({"license_expression": "MIT"}, "MIT"),
        ({"license": "Apache"}, "Apache"),
        ({"license": "a\nb", "classifier": ["License :: OSI Approved :: MIT License"]}, "MIT License"),
        ({}, ""),
    ],
)
def test_a_licence_is_one_line(metadata: dict[str, object], said: str) -> None:
    """The expression, else the field, else the classifiers."""
    assert license_of(metadata) == said


def test_small_files_are_fetched_together() -> None:
    """Large ones alone, and never two indexes in one call."""
    wheels = [wheel("big", BATCH_BYTES), wheel("a", 1), wheel("b", 2), wheel("torch", 3, "index")]
    assert [[one.name for one in batch] for batch in batches(wheels)] == [["a", "b"], ["big"], ["torch"]]


def test_progress_adds_up() -> None:
    """Over the files of one call."""
    heard: list[int] = []
    progress = BatchProgress(heard.append)
    for line in (
        "Downloading a",
        "Progress 5 of 10",
        "Progress 10 of 10",
        "Downloading b",
        "Progress 1 of 3",
    ):
        progress.line(line)
    assert heard == [5, 10, 11]
