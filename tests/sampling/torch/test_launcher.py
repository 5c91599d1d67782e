from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="needs Triton")
if shutil.which("gcc") is None or not Path(sysconfig.get_path("include"), "Python.h").is_file():
    pytest.skip("needs gcc and Python's headers", allow_module_level=True)

LOAD = "from triton.backends.nvidia.driver import CudaUtils; print(CudaUtils().launch)"


def load(cache: Path, driver: Path) -> subprocess.CompletedProcess[str]:
    """Triton's host module, in a process that finds a driver's library and whose compiler fails."""
    environment = {**os.environ, "CC": "false", "TRITON_CACHE_DIR": str(cache)}
    environment |= {"LD_LIBRARY_PATH": str(driver), "TRITON_LIBCUDA_PATH": str(driver)}
    return subprocess.run(
        [sys.executable, "-c", LOAD], env=environment, capture_output=True, text=True, check=False
    )


def launcher(what: str, cache: Path) -> int:
    command = [sys.executable, "-m", "sampling.launcher", what, str(cache)]
    return subprocess.run(command, check=False, cwd=Path(__file__).parents[3]).returncode


@pytest.fixture
def driver(tmp_path: Path) -> Path:
    """A directory with a library that stands in for the driver's."""
    from triton.backends.nvidia import driver

    from sampling.launcher import make_stand_in

    folder = tmp_path / "driver"
    folder.mkdir()
    make_stand_in(Path(driver.dirname, "driver.c").read_text(), folder)
    return folder


def test_triton_then_needs_no_compiler(tmp_path: Path, driver: Path) -> None:
    """With what was compiled before, Triton starts where nothing can be compiled; without it, it does not."""
    assert launcher("make", tmp_path / "cache") == 0
    assert "built-in function launch" in load(tmp_path / "cache", driver).stdout
    assert "CalledProcessError" in load(tmp_path / "empty", driver).stderr


def test_the_module_is_all_there_is(tmp_path: Path) -> None:
    """One file: no kernel's launcher is compiled, so none can be missing later."""
    assert launcher("make", tmp_path) == 0
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert file.name.startswith("cuda_utils.")


def test_what_triton_would_not_find_is_noticed(tmp_path: Path) -> None:
    """The check passes for the cache that was made here, and for no other."""
    assert launcher("make", tmp_path / "cache") == 0
    assert launcher("check", tmp_path / "cache") == 0
    assert launcher("check", tmp_path / "empty") == 1
