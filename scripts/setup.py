"""Prepares .venv and the built-in model. Most targets of the Makefile call it first.

    python -m scripts.setup [--device auto|cpu|cuda] [--this-python] [runtime] [dev] [model]

It uses the standard library alone, because it runs before anything is installed. .venv/verbatim.json records
what was installed, with a digest of the list of packages: if the record is up to date, setup does nothing and
uses no network. While pip changes packages, the record says so; if setup is killed then, its next run makes
.venv anew, with the packages from pip's cache. VERBATIM_VENV names another folder than .venv.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import platform
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from scripts.packages import ROOT, VENV, Installer, Progress, SetupError
from server.pip import NEWEST, OLDEST, explain, read_pins

NOTE = VENV / "verbatim.json"
DRIVER = 580  # the CUDA 13 for which vLLM and torch are built needs at least this driver
# For the installed packages, the downloads, and the copy in pip's cache
FREE_GIB = {"cpu": 5, "cuda": 16, "dev": 1, "ray": 1}


def check_python() -> None:
    version = tuple(sys.version_info[:2])
    wanted = "{}.{} to {}.{}".format(*OLDEST, *NEWEST)
    if not OLDEST <= version <= NEWEST:
        raise SetupError(
            f"Verbatim needs Python {wanted}, and {sys.executable} is Python {platform.python_version()}. "
            "Name another one, for example: make serve PYTHON=python3.12"
        )
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise SetupError(
            f"The pinned packages are for Linux on x86-64; this is {sys.platform} on {platform.machine()}."
        )
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        raise SetupError(
            f"{sys.executable} cannot make virtual environments: its module {error.name} is missing. On "
            "Debian and Ubuntu: apt install python3-venv"
        ) from None


def nvidia_driver() -> str | None:
    """The version of the NVIDIA driver if a GPU is visible, from nvidia-smi or its library."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
        if found := re.search(r"^\d+(\.\d+)+", answer, re.MULTILINE):
            return found[0]
    with contextlib.suppress(OSError):
        nvml, count, version = (
            ctypes.CDLL("libnvidia-ml.so.1"),
            ctypes.c_uint(),
            ctypes.create_string_buffer(96),
        )
        failed = nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        if not failed and count.value and not nvml.nvmlSystemGetDriverVersion(version, 96):
            return version.value.decode()
    return None


def choose_device(wanted: str, installed: str | None) -> str:
    driver = None if wanted == "cpu" else nvidia_driver()
    if driver and int(driver.split(".")[0]) < DRIVER:
        raise SetupError(
            f"This machine's NVIDIA driver is {driver}, and the CUDA build needs {DRIVER} or newer. Update "
            "the driver, or run on the CPU with DEVICE=cpu."
        )
    if wanted == "cuda" and not driver:
        print(
            "warning: DEVICE=cuda, but no NVIDIA GPU is visible: installing the CUDA build, which will not"
            " run here"
        )
    if wanted == "auto" and not driver and installed == "cuda":
        print("warning: no NVIDIA GPU is visible; keeping the CUDA build in .venv (DEVICE=cpu replaces it)")
        return installed
    return wanted if wanted != "auto" else "cuda" if driver else "cpu"


def digest(*paths: Path) -> str:
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).hexdigest()


def read_note() -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        note: dict[str, Any] = json.loads(NOTE.read_text())
        return note
    return {}


def write_note(note: dict[str, Any]) -> None:
    temporary = NOTE.with_suffix(".tmp")
    temporary.write_text(json.dumps(note, indent=1))
    temporary.replace(NOTE)


@contextlib.contextmanager
def only_one() -> Iterator[int]:
    """A lock that pip inherits, so that a second set-up also waits for the pip of a killed first one."""
    with (ROOT / "pyproject.toml").open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another set-up to finish", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def check_space(name: str) -> None:
    free_gib = shutil.disk_usage(ROOT).free / 2**30
    if free_gib < FREE_GIB[name]:
        raise SetupError(
            f"The disk is too full: installing requirements/{name}.txt needs about {FREE_GIB[name]} GiB in "
            f"{VENV}, and {free_gib:.1f} GiB are free. Free some space and run the same command again."
        )


def make_venv() -> None:
    print(f"making {VENV.name} with Python {platform.python_version()}", flush=True)
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    progress = Progress(f"{VENV.name} with Python {platform.python_version()}", 1, "making")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            while process.poll() is None:  # it says little: no pipe fills up
                progress.show()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=0.5)
        except BaseException:
            process.kill()
            raise
        printed, _ = process.communicate()
    progress.clear()
    if process.returncode:
        raise SetupError(explain(printed, ROOT))


def install(name: str, note: dict[str, Any], lock: int) -> None:
    """Install requirements/NAME.txt, unless the record says that this very list is installed."""
    requirements = ROOT / "requirements" / f"{name}.txt"
    kind = name if name in ("dev", "ray") else "runtime"
    wanted = digest(requirements) if kind != "runtime" else digest(requirements, ROOT / "pyproject.toml")
    if note.get(kind) == wanted:
        return
    if kind not in note:
        check_space(name)

    def changing(begins: bool) -> None:
        note.update({kind: None, "working": begins})
        write_note(note)

    started_at, installer = time.monotonic(), Installer(lock, changing)
    installer.install_list(requirements)
    if kind == "runtime":
        installer.install_project()
    note[kind] = wanted
    write_note(note)
    seconds, num_packages = time.monotonic() - started_at, len(read_pins(requirements))
    print(f"installed requirements/{name}.txt: {num_packages} packages in {seconds:.0f} s", flush=True)


def set_up(targets: list[str], wanted_device: str, this_python: bool) -> None:
    with only_one() as lock:
        note = read_note()
        device: str | None = note.get("device")
        names = []
        if "runtime" in targets:
            device = choose_device(wanted_device, device)
            names.append(device)
        names += ["dev", "ray"] if "dev" in targets else []
        if note.get("working"):
            print("the last set-up was interrupted while it installed", flush=True)
        if not is_usable(note, device, this_python):
            make_venv()
            note = {"root": str(ROOT), "python": platform.python_version()}
        note["device"] = device
        for name in names:
            install(name, note, lock)
    if "model" in targets:
        made = subprocess.run([VENV / "bin/python", "-m", "server.weights.builtin"], cwd=ROOT, check=False)
        if made.returncode:
            sys.exit(made.returncode)


def is_usable(note: dict[str, Any], device: str | None, this_python: bool) -> bool:
    """Whether .venv can be kept: complete, not moved, with its interpreter, made for this
    device and Python."""
    python = ".".join(str(note.get("python")).split(".")[:2])
    return (
        not note.get("working")
        and note.get("root") == str(ROOT)
        and (VENV / "bin/python").exists()
        and note.get("device") in (None, device)
        and (not this_python or python == "{}.{}".format(*sys.version_info))
    )


def stop(*_: object) -> NoReturn:
    sys.exit(143)  # so that SIGTERM ends pip too


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("targets", nargs="+", choices=["runtime", "dev", "model"])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument(
        "--this-python", action="store_true", help="make .venv anew if its Python has another version"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    try:
        check_python()
        set_up(options.targets, options.device, options.this_python)
    except SetupError as error:
        sys.exit(textwrap.fill(f"error: {error}", 100, break_long_words=False, break_on_hyphens=False))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        sys.exit(textwrap.fill(f"error: {explain(str(error), ROOT)}", 100, break_long_words=False))
    except KeyboardInterrupt:
        sys.exit("\\ninterrupted; run the same command to continue")


if __name__ == "__main__":
    main()
