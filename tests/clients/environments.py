"""An environment for each client, made with its own pins: `python -m tests.clients.environments [NAME…]`.

A virtual environment or a folder of npm under .venv-clients/, from requirements/NAME.txt or NAME.json. One
whose list has not changed is left alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

HERE = Path(__file__).parent
LISTS = HERE / "requirements"
FOLDER = HERE.parent.parent / ".venv-clients"

WITHOUT_SCRIPTS = {
    "continue"
}  # of its packages, which fetch binaries from elsewhere that autocomplete does without
BESIDE_OURS = {"guidellm"}  # finds torch, which is gigabytes, in the environment of the server
PROGRAMS = ("curl", "nginx", "node", "npm")  # of the system
PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"  # where nginx is


def folder_of(name: str) -> Path:
    return FOLDER / name


def python_of(name: str) -> Path:
    return folder_of(name) / "bin" / "python"


def names() -> list[str]:
    return sorted(file.stem if file.suffix == ".txt" else file.name[:-5] for file in LISTS.iterdir())


def list_of(name: str) -> Path:
    """The packages of an environment: of pip, or of npm."""
    file = LISTS / f"{name}.txt"
    return file if file.exists() else LISTS / f"{name}.json"


def version_of(name: str) -> str:
    """Of the client itself: the first that its list pins."""
    found = re.search(r'==(\S+)|": "([\d.]+)"', list_of(name).read_text("utf-8"))
    assert found, f"{list_of(name)} pins nothing"
    return found[1] or found[2]


def is_made(name: str) -> bool:
    note = folder_of(name) / "made-from"
    return note.exists() and note.read_bytes() == list_of(name).read_bytes()


def make(name: str) -> None:
    """Anew: nothing of an older one is left."""
    folder, packages = folder_of(name), list_of(name)
    shutil.rmtree(folder, ignore_errors=True)
    if packages.suffix == ".txt":
        run([sys.executable, "-m", "venv", folder])
        if name in BESIDE_OURS:
            (site,) = folder.glob("lib/python*/site-packages")
            (site / "ours.pth").write_text(sysconfig.get_path("purelib"))
        run([python_of(name), "-m", "pip", "install", "--disable-pip-version-check", "-q", "-r", packages])
    else:
        folder.mkdir(parents=True)
        shutil.copyfile(packages, folder / "package.json")
        flags = ["--ignore-scripts"] if name in WITHOUT_SCRIPTS else []
        run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", *flags, "--prefix", folder])
    (folder / "made-from").write_bytes(packages.read_bytes())


def run(command: list[str | Path]) -> None:
    """PYTHONPATH, and an environment that is active, are none of the new one's."""
    environ = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    subprocess.run(command, check=True, env=environ)


def main(wanted: list[str]) -> int:
    if unknown := set(wanted) - set(names()):
        print(f"error: no client {', '.join(sorted(unknown))}; there are {', '.join(names())}")
        return 2
    if lacking := [program for program in PROGRAMS if not shutil.which(program, path=PATH)]:
        print(f"error: install {', '.join(lacking)} first, with apt-get on Debian and Ubuntu")
        return 2
    missing = [name for name in wanted or names() if not is_made(name)]
    for number, name in enumerate(missing, 1):
        print(f"client {number} of {len(missing)}: {name} {version_of(name)} …", end=" ", flush=True)
        started = time.monotonic()
        try:
            make(name)
        except subprocess.CalledProcessError as error:
            print(f"\nerror: {name} could not be installed: {error}")
            return 1
        print(f"installed in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
