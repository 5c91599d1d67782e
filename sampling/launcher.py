"""Compiles Triton's host module before there is a GPU: python -m sampling.launcher make|check CACHE

Triton compiles one C file when it first meets a GPU, with gcc and Python's headers, and keeps the result in
its cache. An image without a compiler gets this module when it is built, on a machine without a GPU. The
module is linked with the driver's library; a stand-in with the same names, which does nothing,
takes its place.

check: whether Triton would find the module. Its name depends on the system too (whether there is a program
`file`), so a module compiled in one image may not be found in another.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

LIBRARY = "libcuda.so.1"


def compile_into(cache: Path) -> None:
    """Fill the cache as Triton itself would."""
    from triton.backends.nvidia import driver

    with tempfile.TemporaryDirectory() as name:
        stand_in = make_stand_in(Path(driver.dirname, "driver.c").read_text(), Path(name))
        ctypes.CDLL(str(stand_in), ctypes.RTLD_GLOBAL)  # Triton finds it by its name when it loads its module
        os.environ |= {"TRITON_CACHE_DIR": str(cache), "TRITON_LIBCUDA_PATH": name}
        driver.CudaUtils()


def make_stand_in(source: str, folder: Path) -> Path:
    """A library that defines every name in the source that looks like a function of the driver."""
    names = sorted(set(re.findall(r"\bcu[A-Z]\w*", source)))
    (folder / "stand_in.c").write_text("".join(f"void {name}(void) {{}}\n" for name in names))
    command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY}", "-o", LIBRARY, "stand_in.c"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / LIBRARY


def is_in(cache: Path) -> bool:
    """Whether Triton would find its module in the cache here."""
    from triton.backends.nvidia import driver
    from triton.runtime.build import platform_key
    from triton.runtime.cache import get_cache_manager

    os.environ["TRITON_CACHE_DIR"] = str(cache)
    source = Path(driver.dirname, "driver.c").read_text()
    key = hashlib.sha256((source + platform_key()).encode()).hexdigest()  # as in compile_module_from_src
    name = f"cuda_utils{sysconfig.get_config_var('EXT_SUFFIX')}"
    return get_cache_manager(key).get_file(name) is not None


def main() -> None:
    what, cache = sys.argv[1], Path(sys.argv[2])
    if what == "make":
        compile_into(cache)
    elif not is_in(cache):
        sys.exit(
            f"Triton will not find its compiled module in {cache}: it was compiled on a system that differs"
        )


if __name__ == "__main__":
    main()
