"""A machine without a network that believes to have one: whatever leaves it is seen.

A network namespace of its own with loopback and one more device, over which both default routes and the name
server lead, and behind which there is nothing. tcpdump sees what is sent, and the kernel drops it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

DEVICE = "out0"
KINDS = ("dummy", "ifb")  # ifb drops what nobody redirects to it: for kernels without the dummy driver
NAMESERVER = "192.0.2.53"  # of a network for documentation, as are the addresses below
QUIET_S, SETTLE_S = 4.0, 30.0


def why_not() -> str | None:
    """What is missing for a namespace and a capture; None when nothing is."""
    if os.geteuid() != 0:
        return "not root: network namespaces and captures need it"
    for program in ("ip", "tcpdump"):
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: iproute2, tcpdump)"
    probe = subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False)
    return "this kernel or container allows no network namespaces" if probe.returncode else None


class Namespace:
    def __init__(self) -> None:
        self.name = f"verbatim-{os.getpid()}"
        self._etc = Path("/etc/netns") / self.name

    def __enter__(self) -> Namespace:
        self._etc.mkdir(parents=True)  # `ip netns exec` puts what is in it over /etc
        (self._etc / "resolv.conf").write_text(f"nameserver {NAMESERVER}\noptions timeout:1 attempts:1\n")
        _ip("netns", "add", self.name)
        self._ip("link", "set", "lo", "up")
        self._add_device()
        for key, value in {"accept_ra": 0, "router_solicitations": 0, "dad_transmits": 0}.items():
            self.run("sysctl", "-qw", f"net.ipv6.conf.{DEVICE}.{key}={value}")  # the kernel's own packets
        self._ip("link", "set", DEVICE, "addrgenmode", "none", "up")
        self._ip("addr", "add", "192.0.2.2/24", "dev", DEVICE)
        self._ip("addr", "add", "2001:db8::2/64", "dev", DEVICE, "nodad")
        self._ip("route", "add", "default", "via", "192.0.2.1", "dev", DEVICE)
        self._ip("-6", "route", "add", "default", "via", "2001:db8::1", "dev", DEVICE)
        return self

    def __exit__(self, *_: object) -> None:
        _ip("netns", "del", self.name)
        shutil.rmtree(self._etc)

    def _ip(self, *words: str) -> None:
        _ip("-n", self.name, *words)

    def _add_device(self) -> None:
        for kind in KINDS:
            with contextlib.suppress(subprocess.CalledProcessError):
                self._ip("link", "add", DEVICE, "type", kind)
                return
        raise RuntimeError(f"this kernel has no device of the kinds {', '.join(KINDS)}")

    def inside(self, *command: str) -> list[str]:
        """The command, to be run in the namespace."""
        return ["ip", "netns", "exec", self.name, *command]

    def run(self, *command: str) -> str:
        return subprocess.run(self.inside(*command), capture_output=True, text=True, check=True).stdout

    @contextlib.contextmanager
    def captured(self, file: Path) -> Iterator[Capture]:
        """Everything that is sent over the device meanwhile, without any filter.

        The kernel itself announces its IPv6 address in the first seconds: the capture begins after that.
        """
        self._settle(file.with_suffix(".settling"))
        with self._tcpdump(file):
            yield Capture(file)

    def _settle(self, file: Path) -> None:
        with self._tcpdump(file):
            capture, end = Capture(file), time.monotonic() + SETTLE_S
            size, since = -1, time.monotonic()
            while time.monotonic() < end and time.monotonic() - since < QUIET_S:
                if file.stat().st_size != size:
                    size, since = file.stat().st_size, time.monotonic()
                time.sleep(0.1)
            assert time.monotonic() < end, f"the device does not become quiet: {capture.packets()}"

    @contextlib.contextmanager
    def _tcpdump(self, file: Path) -> Iterator[None]:
        command = ["tcpdump", "-i", DEVICE, "-n", "-U", "--immediate-mode", "-Z", "root", "-w", str(file)]
        with subprocess.Popen(self.inside(*command), stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr
            while "listening on" not in (line := process.stderr.readline()):
                assert line, "tcpdump did not start"
            try:
                yield
            finally:
                process.send_signal(signal.SIGINT)
                process.wait()


class Capture:
    """A file of tcpdump's, which may still be growing."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def packets(self) -> list[str]:
        """A line for each."""
        read = ["tcpdump", "-n", "-Z", "root", "-r", str(self.file)]
        return subprocess.run(read, capture_output=True, text=True, check=False).stdout.splitlines()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, check=True)
