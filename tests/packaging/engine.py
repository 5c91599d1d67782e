"""A container engine for one image, where none is installed: buildah builds it, namespaces run it.

What an engine would do is done by hand, with what the image itself says: its user, environment, entry point
and health check; the root file system read-only, its volumes writable, a network with nothing but loopback, a
process 1.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

# Debian's release that has this Python: the base has to have the one that the bundle is made for.
SUITES = {(3, 11): "bookworm", (3, 13): "trixie"}
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
STORAGE_BYTES = 10 << 30  # twice what is stored at most: an image is written several times on its way
PROGRAMS = ("buildah", "debootstrap", "ip", "nsenter", "unshare")

# Everything that is mounted, then the image's process. Arguments: root file system, uid, gid, a directory
# that is mounted read-only and where, command. /tmp is noexec, as Docker's tmpfs is.
START = """
set -eu
root=$1 uid=$2 gid=$3 models=$4 place=$5; shift 5
ip link set lo up
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t tmpfs -o "uid=$uid,gid=$gid,mode=755" tmpfs "$root/cache"
mount -t tmpfs -o mode=1777,nosuid,nodev,noexec tmpfs "$root/tmp"
mount --bind "$models" "$root$place"
mount -o remount,bind,ro "$root$place"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount -t tmpfs tmpfs "$root/dev"
mkdir "$root/dev/shm" && chmod 1777 "$root/dev/shm"
for name in null zero full random urandom; do
    touch "$root/dev/$name" && mount --bind "/dev/$name" "$root/dev/$name"
done
mount -o remount,bind,ro "$root"
exec chroot --userspec="$uid:$gid" --groups="" "$root" "$@"
"""


def why_not() -> str | None:
    """What is missing to build and run an image; None when nothing is."""
    if os.geteuid() != 0:
        return "not root: building and running an image by hand need it"
    for program in PROGRAMS:
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: buildah, debootstrap, iproute2, util-linux)"
    if sys.version_info[:2] not in SUITES:
        return "no Debian release has this Python, so none could be the base of an image for it"
    probe = subprocess.run(
        ["unshare", "-m", "-n", "-p", "--fork", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
        capture_output=True,
        check=False,
    )
    return "this kernel or container allows no namespaces" if probe.returncode else None


@dataclass(frozen=True, slots=True)
class Built:
    """How a build ended: its exit status, and all that it said."""

    code: int
    said: str


def storage() -> Path:
    """A new directory, in memory where there is plenty of it: a build then takes half the time."""
    return Path(tempfile.mkdtemp(prefix="verbatim-", dir=SHARED_MEMORY if _fits_in_memory() else None))


def _fits_in_memory() -> bool:
    if not SHARED_MEMORY.is_dir() or os.statvfs(SHARED_MEMORY).f_flag & (os.ST_NOEXEC | os.ST_NODEV):
        return False
    free = shutil.disk_usage(SHARED_MEMORY).free
    return min(free, psutil.virtual_memory().available) > STORAGE_BYTES


class Buildah:
    """buildah with a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self._environment = {**os.environ, "TMPDIR": str(folder)}
        for driver in ("overlay", "vfs"):  # vfs copies every layer whole, but works wherever there is a disk
            places = ["--root", f"{folder}/{driver}", "--runroot", f"{folder}/{driver}-run"]
            self._command = ["buildah", *places, "--storage-driver", driver]
            if self._works():
                return
        raise RuntimeError("buildah can store nothing here")

    def _works(self) -> bool:
        for words in (["from", "--name", "probe", "scratch"], ["mount", "probe"], ["rm", "probe"]):
            if subprocess.run([*self._command, *words], capture_output=True, check=False).returncode:
                return False
        return True

    def __call__(self, *words: str | Path) -> str:
        ran = subprocess.run(
            [*self._command, *words], env=self._environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    def build(self, file: Path, context: Path, image: str, **arguments: str) -> Built:
        """Build in a network namespace that has no network."""
        command = ["unshare", "-n", *self._command, "bud", "--isolation", "chroot", "--format", "docker"]
        command += ["--pull=never", "-f", str(file), "-t", image]
        command += [f"--build-arg={name}={value}" for name, value in arguments.items()]
        ran = subprocess.run(
            [*command, str(context)], env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, check=False,
        )  # fmt: skip
        return Built(ran.returncode, ran.stdout)

    def config(self, image: str) -> dict[str, Any]:
        """What the image says of how it wants to be run."""
        config: dict[str, Any] = json.loads(self("inspect", "--type", "image", image))["Docker"]["config"]
        return config

    def root(self, image: str) -> Path:
        """A root file system of the image."""
        return Path(self("mount", self("from", "--pull=never", image)))

    def base(self, suite: str, *packages: str) -> str:
        """An image of a minimal Debian: its name and digest. Raises LookupError where none can be had."""
        container = self("from", "scratch")
        command = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", suite]
        ran = subprocess.run(
            [*command, self("mount", container)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise LookupError(f"debootstrap failed: {ran.stdout.strip().splitlines()[-1]}")
        self("commit", "--rm", container, "localhost/base:test")
        digest = self("inspect", "--type", "image", "--format", "{{.FromImageDigest}}", "localhost/base:test")
        return f"localhost/base@{digest}"


@dataclass
class Container:
    """A running image."""

    process: subprocess.Popen[bytes]
    config: Mapping[str, Any]
    init: int  # process 1, by the number that it has outside
    log: Path
    environment: dict[str, str] = field(default_factory=dict)

    def inside(self, *command: str, user: str | None = None) -> list[str]:
        """The command, to be run in the container as its user."""
        uid, gid = (user or self.config["User"]).split(":")
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        enter = ["nsenter", "-t", str(self.init), "-m", "-n", "-p", "-r", "-w", "-S", uid, "-G", gid]
        # Nothing of this process's environment goes along: vLLM's LD_PRELOAD, for one, names a file out here.
        return ["env", "-i", f"PATH={os.environ['PATH']}", *enter, "env", "-i", *settings, *command]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.inside(*command), capture_output=True, text=True, check=False)

    def beside(self, *command: str) -> list[str]:
        """The command, to be run on the host with the container's network."""
        return ["nsenter", "-t", str(self.init), "-n", *command]
