"""install.sh, from a tiny bundle, as it is run at a site."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import typing_extensions

from bundle.keys import make_keys, read_private_key
from sealed.installation import check_installation, complete_versions
from tests.bundle.conftest import Install
from tests.bundle.tiny import MODEL, PYTHON, SAYS, flip, reseal, tiny_bundle
from tests.wheels import make_wheel


def no_passphrase(key: Path) -> str:
    raise AssertionError(f"{key} has none")


def told(site: Path) -> str:
    """What the installed command prints."""
    command = [str(site / "current/bin/verbatim")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def versions(site: Path) -> list[str]:
    return sorted(path.name for path in (site / "versions").iterdir())


@pytest.mark.parametrize("kind", ["made", "made_in_parts", "made_with_published_pip"])
def test_an_installation(kind: str, install: Install, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The command works; models, configuration and deploy/ are in place; the last lines say how to start."""
    done = install(request.getfixturevalue(kind))
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site"
    assert told(site) == SAYS
    assert (site / "current" / MODEL / "model.safetensors").read_bytes() == b"weights" * 1000
    assert (site / "current/models.yaml").is_file()
    assert (site / "current/deploy/prometheus/alerts.yml").is_file()
    assert not list((site / "current").glob("incoming"))
    assert f"{site}/current/bin/verbatim serve" in done.stdout
    assert check_installation((site / "current").resolve(), []) == {}


def test_nothing_is_left_of_pip(made: Path, install: Install, tmp_path: Path) -> None:
    """The packages of the bundle and no others: the environment cannot install anything."""
    install(made)
    site_packages = next((tmp_path / "site/current/venv/lib").glob("python*/site-packages"))
    assert sorted(path.stem for path in site_packages.glob("*.dist-info")) == ["tinydep-1.0", "verbatim-1.0"]


def test_the_command_brings_its_environment(made: Path, install: Install, tmp_path: Path) -> None:
    """Variables of the bundle are set, unless somebody set them before; quotes in them do no harm."""
    install(made)
    command = tmp_path / "site/current/bin/verbatim"
    text = command.read_text()
    command.write_text(text[: text.index("exec")] + 'echo "$VERBATIM_TINY,$VERBATIM_CONFIG"\n')
    printed = subprocess.run([command], capture_output=True, text=True, check=True).stdout
    assert printed == f"it's set,{(tmp_path / 'site/current').resolve()}/models.yaml\n"
    environ = {**os.environ, "VERBATIM_TINY": "mine", "VERBATIM_CONFIG": "mine"}
    printed = subprocess.run([command], capture_output=True, text=True, check=True, env=environ).stdout
    assert printed == "mine,mine\n"


def test_twice_is_once(made: Path, install: Install, tmp_path: Path) -> None:
    """The second run finds all of it whole and changes nothing."""
    install(made)
    before = (tmp_path / "site/current/installed.json").stat().st_mtime_ns
    second = install(made)
    assert second.returncode == 0
    assert "already installed and undamaged" in second.stdout
    assert (tmp_path / "site/current/installed.json").stat().st_mtime_ns == before


def test_a_damaged_installation_is_replaced(made: Path, install: Install, tmp_path: Path) -> None:
    """A second run installs the version anew beside the damaged one and switches to it."""
    install(made)
    flip(tmp_path / "site/current" / MODEL / "model.safetensors", 3)
    second = install(made)
    assert "is damaged (models/tiny/model.safetensors" in second.stdout
    assert check_installation((tmp_path / "site/current").resolve(), []) == {}
    assert len(versions(tmp_path / "site")) == 2


@pytest.mark.parametrize("kind", ["whole", "in_parts"])
def test_nothing_is_installed_from_a_damaged_bundle(
    kind: str, install: Install, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """One altered byte, one missing and one shortened file: named, exit code 1, no version left behind."""
    bundle: Path = request.getfixturevalue(kind)
    names = ["part-0001", "part-0002"] if kind == "in_parts" else ["models/tiny/config.json", "models.yaml"]
    flip(bundle / names[0], 1)
    (bundle / names[1]).unlink()
    done = install(bundle)
    assert done.returncode == 1
    assert "nothing was installed" in done.stderr
    assert f"  {names[0]}: altered" in done.stderr
    assert f"  {names[1]}: missing" in done.stderr
    assert not (tmp_path / "site/current").exists()
    assert complete_versions(tmp_path / "site") == []


@pytest.mark.parametrize("name", ["install.pyz", "manifest.json", "manifest.json.sig"])
def test_the_installer_is_checked_first(name: str, whole: Path, install: Install) -> None:
    """An altered or missing file of the installer is named before it is used."""
    flip(whole / name, 40)
    done = install(whole)
    assert (done.returncode, name.removesuffix(".sig") in done.stderr) == (1, True)
    (whole / name).unlink()
    done = install(whole)
    assert done.returncode == 1
    assert name in done.stderr
    assert "issing" in done.stderr or "has no" in done.stderr


@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_script_that_was_cut_short_does_nothing(share: float, whole: Path, install: Install) -> None:
    """The whole of install.sh is one function, called in its last line."""
    script = whole / "install.sh"
    script.write_bytes(script.read_bytes()[: int(script.stat().st_size * share)])
    done = install(whole)
    assert "installed" not in done.stdout
    assert not (whole.parent / "site").exists()


def test_an_altered_script_is_named(whole: Path, install: Install, tmp_path: Path) -> None:
    """Where it still runs, the manifest's digest of it shows the change."""
    script = whole / "install.sh"
    script.write_text(script.read_text().replace("# Needs a POSIX", "# needs a POSIX"))
    done = install(whole)
    assert done.returncode == 1
    assert "install.sh: altered" in done.stderr
    assert not (tmp_path / "site/current").exists()


def test_a_required_signature(install: Install, tmp_path: Path) -> None:
    """Wrong key: refused. Right key: told and installed. None: refused, unless none is required."""
    for name in ("right", "wrong"):
        make_keys(tmp_path / name)
    signed = tiny_bundle(tmp_path / "a", keys=[read_private_key(tmp_path / "right.key", no_passphrase)])
    wrong = install(signed, "--require-signature", str(tmp_path / "wrong.pub"))
    assert (wrong.returncode, "somebody else" in wrong.stderr) == (1, True)
    unsigned = tiny_bundle(tmp_path / "b")
    none = install(unsigned, "--require-signature", str(tmp_path / "right.pub"))
    assert (none.returncode, "not signed" in none.stderr) == (1, True)
    assert not (tmp_path / "site/current").exists()
    right = install(signed, "--require-signature", str(tmp_path / "right.pub"))
    assert right.returncode == 0
    assert "signed by" in right.stdout


def test_check_installs_nothing(made: Path, install: Install, tmp_path: Path) -> None:
    """--check reads the bundle and nothing else."""
    done = install(made, "--check")
    assert (done.returncode, "whole: " in done.stdout) == (0, True)
    assert not (tmp_path / "site").exists()


def test_an_update_and_the_way_back(made: Path, install: Install, tmp_path: Path) -> None:
    """A second bundle becomes current, --rollback makes the first current again, and forth."""
    install(made)
    first = (tmp_path / "site/current").resolve()
    none = install(made, "--rollback")
    assert (none.returncode, "before the current one to go back to" in " ".join(none.stderr.split())) == (
        2,
        True,
    )
    install(tiny_bundle(tmp_path / "newer", created="2027-01-01T00:00:00+00:00"))
    second = (tmp_path / "site/current").resolve()
    assert second != first
    # from the installation itself: the bundle may be gone
    script = tmp_path / "site/current/install.sh"
    for expected in (first, second):
        command = ["sh", str(script), "--prefix", str(tmp_path / "site"), "--rollback"]
        assert subprocess.run(command, check=False).returncode == 0
        assert (tmp_path / "site/current").resolve() == expected
        assert told(tmp_path / "site") == SAYS


def test_an_update_shares_the_weights(made: Path, install: Install, tmp_path: Path) -> None:
    """Unchanged model files are the same file on the disk, and changed ones are not."""
    install(made)
    first = (tmp_path / "site/current").resolve()
    for part_bytes in (0, 700_000):
        newer = tiny_bundle(
            tmp_path / f"newer{part_bytes}", part_bytes=part_bytes, created="2027-01-01T00:00:00+00:00"
        )
        install(newer)
        now = tmp_path / "site/current" / MODEL
        assert now.joinpath("model.safetensors").samefile(first / MODEL / "model.safetensors")
    install(tiny_bundle(tmp_path / "other", weights=b"other", created="2028-01-01T00:00:00+00:00"))
    assert (tmp_path / "site/current" / MODEL / "model.safetensors").read_bytes() == b"other"
    assert (first / MODEL / "model.safetensors").read_bytes() == b"weights" * 1000


@pytest.mark.parametrize("num_kills", [3, pytest.param(12, marks=pytest.mark.long)])
def test_killed_at_any_moment_the_next_run_finishes(
    num_kills: int, made_in_parts: Path, install: Install, tmp_path: Path
) -> None:
    """kill -9 at random moments, one in each part of an installation: a second run always makes it whole."""
    site, rng = tmp_path / "site", random.Random(5)
    started = time.monotonic()
    assert install(made_in_parts).returncode == 0
    took = time.monotonic() - started
    num_killed = 0
    for number in range(num_kills):
        shutil.rmtree(site)
        command = ["sh", str(made_in_parts / "install.sh"), "--prefix", str(site)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(took * 0.95 * (number + rng.random()) / num_kills)
        process.send_signal(signal.SIGKILL)
        num_killed += process.wait() == -signal.SIGKILL
        if (site / "current").exists():
            assert told(site) == SAYS  # current never leads to something half done
        second = install(made_in_parts)
        assert second.returncode == 0, second.stderr
        assert check_installation((site / "current").resolve(), []) == {}
        assert len(versions(site)) == 1
        assert told(site) == SAYS
    assert num_killed >= num_kills // 2  # of the others the installation was faster


def test_a_killed_update_leaves_the_old_version(made: Path, install: Install, tmp_path: Path) -> None:
    """While a new version is installed, and after a kill in the middle, the old one is current and whole."""
    install(made)
    first, site = (tmp_path / "site/current").resolve(), tmp_path / "site"
    newer = tiny_bundle(tmp_path / "newer", created="2027-01-01T00:00:00+00:00")
    command = ["sh", str(newer / "install.sh"), "--prefix", str(site)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while len(versions(site)) < 2:
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert (site / "current").resolve() == first
    assert told(site) == SAYS
    assert install(newer).returncode == 0
    assert (site / "current").resolve() != first


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"machine": "riscv64"}, "is for Linux on riscv64"),
        ({"glibc": "99.1"}, "needs glibc 99.1 or newer"),
        ({"have": {"no-such-package": "1.0"}}, r"no-such-package 1.0 \(found: none\)"),
    ],
)
def test_another_machine_is_told(
    target: dict[str, object], words: str, install: Install, tmp_path: Path
) -> None:
    """What the bundle needs and what is here, exit code 2, nothing written."""
    done = install(tiny_bundle(tmp_path / "b", **target))
    assert done.returncode == 2
    assert re.search(words, " ".join(done.stderr.split()))
    assert not (tmp_path / "site").exists()


def test_another_python_is_told(whole: Path, install: Install, tmp_path: Path) -> None:
    """An interpreter of another version, or none at all, is told in a line with what to do."""
    old = tmp_path / "python-of-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for name, words in ((str(old), f"is not Python {PYTHON}"), ("no-such-python", "there is no interpreter")):
        done = install(whole, "--python", name)
        assert (done.returncode, words in done.stderr) == (2, True)
    script = whole / "install.sh"
    script.write_text(script.read_text().replace(f"PYTHON_VERSION={PYTHON}", "PYTHON_VERSION=3.99"))
    done = install(whole)
    assert done.returncode == 2
    assert "Python 3.99 is needed" in done.stderr


def test_the_targets_own_packages_are_used(install: Install, tmp_path: Path) -> None:
    """With `have` the environment sees the interpreter's packages; its own go first. Also those of a venv."""
    version = metadata.version("typing-extensions")
    bundle = tiny_bundle(tmp_path / "b", have={"typing-extensions": version})
    done = install(bundle, "--python", sys.executable)
    assert done.returncode == 0, done.stderr
    code = "import tinydep, typing_extensions; print(typing_extensions.__file__)"
    python = str(tmp_path / "site/current/venv/bin/python")
    printed = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    assert Path(printed.strip()) == Path(typing_extensions.__file__)


def test_what_the_bundle_carries_is_installed_though_the_target_has_it(
    install: Install, tmp_path: Path
) -> None:
    """Also in the very same version: the target may lose it tomorrow."""
    target = tmp_path / "target"
    venv.EnvBuilder(with_pip=False).create(target)
    (theirs,) = target.glob("lib/python*/site-packages")
    bundle = tiny_bundle(tmp_path / "b", have={"other": "1.0"})
    for wheel in (*bundle.glob("wheels/tinydep-*"), make_wheel(tmp_path, "other", {"other.py": ""})):
        zipfile.ZipFile(wheel).extractall(theirs)
    done = install(bundle, "--python", str(target / "bin/python"))
    assert done.returncode == 0, done.stderr
    python = str(tmp_path / "site/current/venv/bin/python")
    code = "import other, tinydep; print(other.__file__, tinydep.__file__)"
    printed = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    ours = (tmp_path / "site/current").resolve()
    assert [Path(path).resolve().is_relative_to(ours) for path in printed] == [False, True]


def test_a_place_that_cannot_be_written_is_told(made: Path, tmp_path: Path) -> None:
    """One line with what to do, exit code 2."""
    (tmp_path / "file").write_text("")
    command = ["sh", str(made / "install.sh"), "--prefix", str(tmp_path / "file/site")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, "--prefix" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_told_before_anything_is_written(install: Install, tmp_path: Path) -> None:
    """The manifest knows what the installation takes."""
    bundle = tiny_bundle(tmp_path / "b")
    manifest = json.loads((bundle / "manifest.json").read_text())
    reseal(bundle, json.dumps({**manifest, "installed_bytes": 10**13}).encode())
    done = install(bundle)
    assert (done.returncode, "too full" in " ".join(done.stderr.split())) == (2, True)
    assert versions(tmp_path / "site") == []


# ---- forged bundles ----------------------------------------------------------------------------------------


def change(bundle: Path, **fields: object) -> None:
    """Another manifest, sealed as it should be: what somebody can do with the key, or without one."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    reseal(bundle, json.dumps({**manifest, **fields}).encode())


def trap(folder: Path, name: str, mark: Path) -> None:
    """A wheel whose pip, when it runs, leaves a mark."""
    with zipfile.ZipFile(folder / name, "w") as archive:
        archive.writestr("pip/__main__.py", f"open({str(mark)!r}, 'w')\n")


def test_a_pip_that_the_manifest_does_not_list_never_runs(install: Install, tmp_path: Path) -> None:
    """Added to a signed bundle it was the one that a look at the folder found first."""
    make_keys(tmp_path / "release")
    bundle = tiny_bundle(tmp_path / "b", keys=[read_private_key(tmp_path / "release.key", no_passphrase)])
    for path in (bundle / "wheels").glob("pip-*"):
        path.touch()
    trap(bundle / "wheels", "pip-0x-py3-none-any.whl", tmp_path / "mark")
    done = install(bundle, "--require-signature", str(tmp_path / "release.pub"))
    assert done.returncode == 1
    assert "wheels/pip-0x-py3-none-any.whl: not part of the bundle" in done.stderr
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "site/current").exists()


def test_a_wheel_that_is_exchanged_after_the_check_is_not_used(whole: Path, tmp_path: Path) -> None:
    """pip reads the copy that was written while it was checked, and the bundle no more."""
    site = tmp_path / "site"
    command = ["sh", str(whole / "install.sh"), "--prefix", str(site)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not list(site.glob("versions/*/venv/bin/python")):  # the check has ended
        assert process.poll() is None
        time.sleep(0.001)
    shutil.rmtree(whole)
    assert process.wait() == 0
    assert told(site) == SAYS


def test_an_installer_that_is_exchanged_after_the_check_is_not_used(
    whole: Path, install: Install, tmp_path: Path
) -> None:
    """install.sh reads install.pyz once: what a disk says the second time does not matter."""
    program = (whole / "install.pyz").read_bytes()
    (whole / "install.pyz").unlink()
    os.mkfifo(whole / "install.pyz")  # can be read once only

    def feed() -> None:
        (whole / "install.pyz").write_bytes(program)

    thread = threading.Thread(target=feed)
    thread.start()
    done = install(whole, "--help")
    thread.join()
    assert (done.returncode, "--require-signature" in done.stdout) == (0, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"version": "../../../escaped"},
        {"environment": {'X}" ]; touch MARK #': "1"}},
        {"environment": {"PYTHONPATH": "x"}},
    ],
)
def test_a_manifest_does_not_get_out_of_its_fields(
    fields: dict[str, object], whole: Path, install: Install, tmp_path: Path
) -> None:
    """No folder elsewhere, no command of its own, no variable that leads a program elsewhere."""
    change(whole, **fields)
    done = install(whole)
    assert (done.returncode, "is damaged" in done.stderr) == (1, True)
    assert not list(tmp_path.rglob("*escaped*"))
    assert not (tmp_path / "site/current").exists()


@pytest.mark.parametrize("path", ["venv/bin/verbatim", "venv/lib64/x", "bin/verbatim", "installed.json"])
def test_no_file_takes_the_place_of_the_installations_own(
    path: str, whole: Path, install: Install, tmp_path: Path
) -> None:
    """Nor venv/bin/python, a link to the system's interpreter, which only test_manifest dares to try."""
    data = b"forged"
    (whole / path).parent.mkdir(parents=True, exist_ok=True)
    (whole / path).write_bytes(data)
    files = json.loads((whole / "manifest.json").read_text())["files"]
    entry = {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change(whole, files=[*files, entry])
    done = install(whole)
    assert (done.returncode, "may not be in a bundle" in " ".join(done.stderr.split())) == (1, True)
    assert not (tmp_path / "site/versions").exists()


def test_what_is_unfinished_is_nobody_elses(made: Path, install: Install, tmp_path: Path) -> None:
    """Until it is checked and complete only its owner gets in; then everybody may run it."""
    site = tmp_path / "site"
    command = ["sh", str(made / "install.sh"), "--prefix", str(site)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (found := list(site.glob("versions/*"))):
        time.sleep(0.001)
    assert stat.S_IMODE(found[0].stat().st_mode) == 0o700
    assert process.wait() == 0
    assert stat.S_IMODE(found[0].stat().st_mode) == 0o755


def test_an_older_bundle_is_told(made: Path, install: Install, tmp_path: Path) -> None:
    """Signed long ago, with the faults of then: it goes on only where that is meant."""
    install(tiny_bundle(tmp_path / "newer", created="2027-01-01T00:00:00+00:00"))
    current = (tmp_path / "site/current").resolve()
    done = install(made)
    assert (done.returncode, (tmp_path / "site/current").resolve()) == (2, current)
    assert "is older than what is installed" in done.stderr
    assert "--allow-older" in done.stderr
    assert install(made, "--allow-older").returncode == 0
    assert (tmp_path / "site/current").resolve() != current


def test_an_installation_of_another_format_is_no_obstacle(
    made: Path, install: Install, tmp_path: Path
) -> None:
    """An update goes on beside a version whose manifest this installer cannot read."""
    install(made)
    manifest = (tmp_path / "site/current").resolve() / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 2', '"format": 1'))
    done = install(tiny_bundle(tmp_path / "newer", created="2027-01-01T00:00:00+00:00"))
    assert done.returncode == 0, done.stderr
    assert len(versions(tmp_path / "site")) == 2


def test_links_in_the_prefix_lead_nowhere(made: Path, install: Install, tmp_path: Path) -> None:
    """Neither the lock nor a version is written through a link that lies there."""
    site = tmp_path / "site"
    (site / "versions").mkdir(parents=True)
    (tmp_path / "victim").write_text("mine")
    (site / ".lock").symlink_to(tmp_path / "victim")
    done = install(made)
    assert (done.returncode, "cannot write" in done.stderr) == (2, True)
    (site / ".lock").unlink()
    (site / "versions/leftover").symlink_to(tmp_path)
    assert install(made).returncode == 0
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("lost", ["manifest.json", "installed.json"])
def test_a_damaged_version_is_no_obstacle(made: Path, install: Install, tmp_path: Path, lost: str) -> None:
    """The same bundle is installed anew beside a version whose own papers cannot be read."""
    install(made)
    damaged = (tmp_path / "site/current").resolve() / lost
    damaged.unlink() if lost == "manifest.json" else damaged.write_text("{")
    done = install(made)
    assert done.returncode == 0, done.stderr
    assert "installing it again" in done.stdout
    assert told(tmp_path / "site") == SAYS
