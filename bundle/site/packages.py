"""Installs a bundle's packages into a virtual environment: with pip, and only from the given wheels.

pip comes from the bundle too, as a wheel that runs without being installed: the interpreter needs neither pip
nor ensurepip, and the finished environment has no installer.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bundle.site.console import Console
from sealed.failures import BundleError, SiteError

HAVE_PATHS = "verbatim-have.pth"


def make_environment(folder: Path) -> None:
    """Make an empty virtual environment, without pip."""
    venv.EnvBuilder(symlinks=True, with_pip=False, clear=True).create(folder)


def let_see(folder: Path, have_paths: Iterable[str]) -> None:
    """Make packages of other folders visible, after its own. Done after pip, which would not install packages
    that it sees."""
    if paths := list(have_paths):
        (site_packages(folder) / HAVE_PATHS).write_text("".join(f"{path}\n" for path in paths))


def site_packages(folder: Path) -> Path:
    return folder / "lib" / "python{}.{}".format(*sys.version_info) / "site-packages"


def install_packages(
    environment: Path, pip: Path, wheels: Sequence[Path], lock: int, console: Console
) -> None:
    """Install exactly these wheels, which lie beside pip's own. Raises BundleError with pip's output."""
    temporary = environment / "tmp"  # not /tmp, which is small on many machines
    temporary.mkdir()
    command = [
        str(environment / "bin/python"), "-I", str(pip / "pip"), "--isolated", "--disable-pip-version-check",
        "install", "--no-index", "--no-deps", "--no-cache-dir", "--no-compile", "--no-input",
        *(f"./{wheel.name}" for wheel in wheels),
    ]  # fmt: skip
    log = environment / "pip.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=clean_environ({"TMPDIR": str(temporary)}),
            cwd=pip.parent, pass_fds=(lock,),
        )  # fmt: skip
        _wait(process, environment, len(wheels), console)
    if process.returncode:
        said = log.read_text(errors="replace")
        if "No space left on device" in said:
            raise SiteError("the disk filled up during the installation. Free some space and run it again.")
        lines = [line for line in said.splitlines() if line.startswith("ERROR")] or said.splitlines()[-3:]
        raise BundleError(
            f"pip could not install the packages: {' '.join(lines)} Its whole output is in {log}."
        )
    log.unlink()
    shutil.rmtree(temporary)


def _wait(process: subprocess.Popen[bytes], environment: Path, num_packages: int, console: Console) -> None:
    try:
        while process.poll() is None:
            done = sum(1 for _ in site_packages(environment).glob("*.dist-info"))
            console.step(f"installing packages: {done} of {num_packages}")
            time.sleep(0.2)
    finally:
        process.kill()  # only true if this program is interrupted
        process.wait()


def compile_packages(environment: Path, lock: int, console: Console) -> None:
    """Compile byte code, on all cores: the start is faster, and nothing is written here later."""
    folder = site_packages(environment)
    num_files = sum(1 for _ in folder.rglob("*.py"))
    # A package may contain a file for another Python version, which fails to compile, and is never imported.
    process = subprocess.Popen(
        [str(environment / "bin/python"), "-I", "-m", "compileall", "-q", "-j", "0", str(folder)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=clean_environ({}), pass_fds=(lock,),
    )  # fmt: skip
    try:
        while process.poll() is None:
            console.step(f"compiling: {sum(1 for _ in folder.rglob('*.pyc'))} of {num_files} files")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=1)
    finally:
        process.kill()  # as in _wait
        process.wait()


def clean_environ(more: Mapping[str, str]) -> dict[str, str]:
    """The environment without variables that would mislead Python or pip."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    return {**kept, **more}
