"""Checks that this machine is the kind that a bundle was made for, before anything is written."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from sealed.failures import SiteError
from sealed.manifest import Target

DRIVER = 580  # the oldest NVIDIA driver for CUDA 13, which vLLM and torch are built for
SPARE_BYTES = 200_000_000  # in addition to the installation: pip's temporary files and the manifest's own

PROBE = """
import importlib.metadata, json, re, site, sysconfig
names = {re.sub("[-_.]+", "-", d.metadata["Name"]).lower(): d.version for d in
importlib.metadata.distributions()}
paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
print(json.dumps([names, list(dict.fromkeys(paths))]))
"""


def check_machine(target: Target) -> None:
    """Raise SiteError for an interpreter or a machine on which the wheels do not run."""
    found = "{}.{}".format(*sys.version_info)
    if found != target.python or sys.implementation.name != "cpython":
        raise SiteError(
            f"this bundle is for CPython {target.python}, and {sys.executable} is"
            f" {platform.python_implementation()} {platform.python_version()}. Name another interpreter with"
            f" --python, or make the bundle with --python {found}."
        )
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise SiteError(
            f"{sys.executable} is a free-threaded build of Python, for which this bundle has no wheels. Name"
            " an ordinary one with --python."
        )
    if sys.platform != "linux" or platform.machine() != target.machine:
        raise SiteError(
            f"this bundle is for Linux on {target.machine}; this is {sys.platform} on {platform.machine()}."
        )
    glibc = glibc_version()
    if glibc is None or _numbers(glibc) < _numbers(target.glibc):
        raise SiteError(
            f"this bundle needs glibc {target.glibc} or newer, and this system has"
            f" {glibc or 'another C library'}. Use a newer system, such as Debian 11, Ubuntu 20.04 or RHEL 9."
        )
    if importlib.util.find_spec("venv") is None:
        raise SiteError(
            f"{sys.executable} cannot make virtual environments: its module venv is missing. Install it with"
            " the system's package manager (Debian and Ubuntu: python3-venv), or name another interpreter"
            " with --python."
        )


def glibc_version() -> str | None:
    with contextlib.suppress(ValueError, OSError, AttributeError):
        name, _, version = str(os.confstr("CS_GNU_LIBC_VERSION")).partition(" ")
        return version if name == "glibc" else None
    return None


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def check_space(prefix: Path, needed: int) -> None:
    """Raise SiteError unless that many bytes fit below `prefix`, which need not exist."""
    existing = next(path for path in (prefix, *prefix.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed + SPARE_BYTES:
        raise SiteError(
            f"the disk of {prefix} is too full: the installation needs {(needed + SPARE_BYTES) / 1e6:.0f}"
            f" MB, and {free / 1e6:.0f} MB are free. Free some space, remove an old directory under"
            f" {prefix / 'versions'}, or name another place with --prefix."
        )


def packages_of_interpreter(target: Target) -> list[str]:
    """The folders of this interpreter's own packages, which the bundle relies on.

    Raises SiteError, which names what is missing or has another version.
    """
    answer = subprocess.run(
        [sys.executable, "-I", "-c", PROBE], capture_output=True, text=True, check=True
    ).stdout
    found, paths = json.loads(answer)
    wrong = [
        f"{name} {version} (found: {found.get(name, 'none')})"
        for name, version in sorted(target.have.items())
        if not same_version(found.get(name, ""), version)
    ]
    if wrong:
        raise SiteError(
            f"this bundle was made for a machine with {', '.join(wrong)}. Name the interpreter that has them"
            " with --python, or make the bundle again with this machine's versions in --have."
        )
    return list(paths)


def same_version(found: str, wanted: str) -> bool:
    """Whether versions match. A local part, such as that of 2.11.0+cu130, only counts if it was asked for."""
    return found == wanted or ("+" not in wanted and found.split("+")[0] == wanted)


def driver_warning() -> str | None:
    """What is wrong with this machine's NVIDIA driver; the installation itself does not need one."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return "no NVIDIA driver is loaded: the server cannot start before one is (580 or newer)."
    found = re.search(r"\b(\d{3})\.\d+", text)
    if found and int(found[1]) < DRIVER:
        return f"the NVIDIA driver is {found[0]}, but CUDA 13 needs {DRIVER} or newer."
    return None
