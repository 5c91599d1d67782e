"""The run's own rules: what --fast leaves out, and which skips --expected-skips lets pass."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import tiers

pytest_plugins = ["pytester"]

README = (Path(__file__).parent / "README.md").read_text("utf-8")
PASSES = "def test_passes(): pass\n"


@pytest.fixture
def folder(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A folder of tests with our two plugins."""
    monkeypatch.setattr(tiers, "HERE", pytester.path)
    pytester.makeconftest('pytest_plugins = ["tests.skips", "tests.tiers"]')
    return pytester


def make(folder: pytest.Pytester, path: str, text: str) -> None:
    file = folder.path / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(("options", "passed"), [((), 3), (("--fast",), 2)])
def test_fast_leaves_out_what_needs_more(folder: pytest.Pytester, options: tuple[str], passed: int) -> None:
    """A folder that is on the list is not looked at, its neighbours are."""
    for number, path in enumerate(("sampling", "sampling/torch", "server")):
        make(folder, f"{path}/test_{number}.py", PASSES)
    folder.runpytest(*options).assert_outcomes(passed=passed)


@pytest.mark.parametrize(("options", "passed"), [((), 1), (("--clients",), 2)])
def test_some_are_asked_for(folder: pytest.Pytester, options: tuple[str], passed: int) -> None:
    """What takes others' programs from a registry is no part of a run that does not name it."""
    for name in ("clients", "server"):
        make(folder, f"{name}/test_{name}.py", PASSES)
    folder.runpytest(*options).assert_outcomes(passed=passed)


@pytest.mark.parametrize(
    ("options", "passed"), [((), 1), (("--long",), 2), (("--long", "-m", "long"), 1)], ids=str
)
def test_long_ones_are_asked_for(folder: pytest.Pytester, options: tuple[str], passed: int) -> None:
    """A test by its marker, wherever it is."""
    folder.makeini("[pytest]\nmarkers = long: takes minutes")
    make(folder, "server/test_1.py", f"import pytest\n@pytest.mark.long\n{PASSES}def test_short(): pass\n")
    folder.runpytest(*options).assert_outcomes(passed=passed)


def test_fast_ones_come_first(folder: pytest.Pytester) -> None:
    """In a run of all tests, whatever their folders are called."""
    for name in ("airgap", "server"):
        make(folder, f"{name}/test_{name}.py", PASSES)
    result = folder.runpytest("-v")
    result.stdout.fnmatch_lines(["server/*", "airgap/*"])


def test_fast_imports_nothing_heavy(folder: pytest.Pytester) -> None:
    """A fast test that imports a heavy package, or a part of it, fails, installed or not."""
    names = sorted({*tiers.HEAVY, *(f"{name}.x" for name in tiers.HEAVY)})
    tests = [f"def test_{number}():\n    import {name}\n" for number, name in enumerate(names)]
    make(folder, "test_heavy.py", "\n".join(tests))
    result = folder.runpytest("--fast")
    result.assert_outcomes(failed=len(names))
    result.stdout.fnmatch_lines([f"*import of {name} halted*" for name in sorted(tiers.HEAVY)])


WAYS_TO_SKIP = """
import pytest

def test_it():
    pytest.skip({reason!r})

@pytest.mark.skip(reason={reason!r})
def test_mark():
    pass
"""
SKIPS_ITSELF = "import pytest\n\npytest.skip({reason!r}, allow_module_level=True)\n"


@pytest.mark.parametrize(
    ("reason", "options", "num_unexpected"),
    [
        ("there is no NVIDIA GPU", ("--expected-skips",), 0),
        ("tcpdump is not installed", ("--expected-skips",), 3),
        ("tcpdump is not installed", (), 0),
    ],
)
def test_skip_that_is_not_expected_fails(
    folder: pytest.Pytester, reason: str, options: tuple[str], num_unexpected: int
) -> None:
    """Where it is asked for, whichever way a test or a file is skipped; each is named with its reason."""
    make(folder, "test_ways.py", WAYS_TO_SKIP.format(reason=reason))
    make(folder, "test_file.py", SKIPS_ITSELF.format(reason=reason))
    make(folder, "test_passes.py", PASSES)
    result = folder.runpytest(*options)
    assert result.ret == bool(num_unexpected)
    named = [line for line in result.outlines if re.fullmatch(rf"test_\w+\.py.*: .*{reason}", line)]
    assert len(named) == num_unexpected


def test_expected_failure_is_no_skip(folder: pytest.Pytester) -> None:
    """pytest reports it as skipped."""
    make(folder, "test_x.py", "import pytest\n\n@pytest.mark.xfail\ndef test_it(): assert False\n")
    assert folder.runpytest("--expected-skips").ret == 0


def test_tests_that_share_an_engine_are_of_one_process(
    folder: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a run of two, though their folders are two; the others are another one's."""
    monkeypatch.setattr(tiers, "HERE", folder.path / "tests")
    paths = ("engine/test_a", "engine/test_b", "twin/contract/test_c", "server/test_d")
    for path in paths:
        make(folder, f"tests/{path}.py", "def test_1(): pass\ndef test_2(): pass\n")
    result = folder.runpytest("-n", "2", "-v")
    result.assert_outcomes(passed=2 * len(paths))
    found = re.findall(r"\[(gw\d)\].* PASSED tests/(\w+)/", result.stdout.str())
    workers = {name: {worker for worker, there in found if there == name} for _, name in found}
    assert workers["engine"] == workers["twin"] != workers["server"]


WAITS = """
import time
from pathlib import Path

def test_it():
    while not Path({!r}).exists():
        time.sleep(0.01)

""" + "".join(f"def test_{number}(): pass\n" for number in range(5))


def test_a_process_that_has_nothing_left_helps(folder: pytest.Pytester) -> None:
    """Where one is held up by a file of tests, the other one goes on to the next, after its engines."""
    there = folder.path / "there"
    make(folder, "engine/test_a.py", PASSES)
    make(folder, "server/test_b.py", WAITS.format(str(there)))
    make(
        folder, "server/test_c.py", f"from pathlib import Path\ndef test_it(): Path({str(there)!r}).touch()\n"
    )
    folder.runpytest("-n", "2", "--timeout", "20").assert_outcomes(passed=8)


def test_every_folder_is_described() -> None:
    """tests/README.md says of each folder what it needs, as the list of the slow ones does."""
    there = {path.parent.relative_to(tiers.HERE).parts[0] for path in tiers.HERE.glob("*/**/test_*.py")}
    assert [name for name in sorted(there | set(tiers.SLOW)) if f"| `{name}` |" not in README] == []
    assert [needs for needs in tiers.SLOW.values() if needs not in README] == []
