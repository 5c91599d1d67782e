"""A shell in which a test types what a page shows."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.docs.blocks import ROOT

OPENAI_NODE = "openai@6.49.0"
ENDS = "--- that was"
# What is typed in a terminal of its own: it goes on until the next one comes.
SERVER = re.compile(r"(verbatim (serve|simulate|watch)|make serve)\b")
VERBATIM = f'exec {sys.executable} -c "from server.cli import main; main()"'
COMMANDS = {
    "verbatim": f'{VERBATIM} "$@"',
    "python": f'exec {sys.executable} "$@"',
    "curl": f'exec {shutil.which("curl")} -sS "$@"',  # to a terminal it shows no progress
    # What is installed is what these tests run with; tests/scripts/test_setup.py has the set-up.
    "make": f'test "$1" = serve || exit 2; shift; {VERBATIM} serve "$@"',
}
PORTS = ("8000", "8001")  # that pages name: `verbatim watch` listens on the second


class Shell:
    """One shell for all commands, in a folder of its own; `verbatim` and `python` are those of this run.

    ports: free ones, in the place of those that pages name.
    """

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        """environ: more variables."""
        commands = folder / ".bin"
        commands.mkdir()
        for name, line in COMMANDS.items():
            (commands / name).write_text(f"#!/bin/sh\n{line}\n")
            (commands / name).chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("VERBATIM_")}
        if cache := os.environ.get("VERBATIM_CACHE"):
            kept["VERBATIM_CACHE"] = cache
        path = f"{commands}:{os.environ['PATH']}"
        self.folder = folder
        self.ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        self._num_servers = 0
        self.process = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={
                **kept,
                "PATH": path,
                "PYTHONPATH": str(ROOT),
                "COLUMNS": "200",
                "VERBATIM_PORT": self.ports["8000"],
                "VERBATIM_URL": f"http://127.0.0.1:{self.ports['8000']}",
                **environ,
            },
        )

    def here(self, text: str) -> str:
        """With addresses that are free, and on loopback."""
        for port, free in self.ports.items():
            text = re.sub(rf"\b(?:localhost|127\.0\.0\.1|0\.0\.0\.0):{port}\b", f"127.0.0.1:{free}", text)
            text = text.replace(f"--port {port}", f"--port {free}").replace(
                f"localhost:{port}", f"127.0.0.1:{free}"
            )
        return text.replace("--host 0.0.0.0", "--host 127.0.0.1")

    def type(self, command: str) -> tuple[int, str]:
        """The exit code and all that it says. A server is waited for until it is ready, and goes on
        in the background; one without & ends when the next one of that kind is started."""
        if SERVER.match(command) or command.endswith(" &"):
            self._num_servers += 1
            log = f".server-{self._num_servers}.log"
            own_terminal = not command.endswith(" &")
            command = re.sub(r"\s+#.*$", "", command.removesuffix(" &"))
            if "--port" not in command and "--host unix:" not in command:
                command += f" --port {self.ports['8001' if command.startswith('verbatim watch') else '8000']}"
            waited = (
                f"until grep -qs 'Ready' {log} || ! kill -0 $!; do sleep 0.05; done; sleep 0.2; cat {log}"
            )
            before = 'test -z "$last" || { kill $last; wait $last; }; ' if own_terminal else ""
            after = "; last=$!" if own_terminal else ""
            command = f"{before}{command} > {log} 2>&1 &\n{waited}{after}"
        return self._run(command)

    def _run(self, command: str) -> tuple[int, str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{command}\necho; echo {ENDS} $?\n")
        self.process.stdin.flush()
        said = ""
        for line in self.process.stdout:
            if line.startswith(ENDS):
                return int(line.removeprefix(ENDS)), said.removesuffix("\n")
            said += line
        raise AssertionError(f"the shell has ended: {said}")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("kill $(jobs -p); wait; exit\n")
        self.process.stdin.close()
        self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()


def free_ports(num: int) -> list[int]:
    """As many, none of them twice."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def install_node_package(folder: Path) -> bool:
    """Whether there is Node, and a registry."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return False
    command = ["npm", "install", "--no-save", "--no-audit", "--no-fund", OPENAI_NODE]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0
