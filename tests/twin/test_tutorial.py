"""docs/testing-clients.md, command by command, as a reader would type it."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "testing-clients.md"
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
FILE = re.compile(r"in `([\w.]+)`:\s*$", re.IGNORECASE)
ENDS = "--- that was"
OPENAI_NODE = "openai@6.49.0"


@dataclass
class Step:
    """command: to be typed. expected: what is shown after it, where … is anything."""

    command: str
    expected: str


def steps(text: str) -> Iterator[Step | tuple[str, str]]:
    """In order: commands, and files with their names."""
    for block in BLOCK.finditer(text):
        kind, content = block.groups()
        if kind == "console":
            for part in re.split(r"^\$ ", content, flags=re.MULTILINE)[1:]:
                lines = part.split("\n")
                num = next(k for k, line in enumerate(lines) if not line.endswith("\\")) + 1
                yield Step("\n".join(lines[:num]), "\n".join(lines[num:]).strip("\n"))
        elif kind in ("python", "js"):
            name = FILE.search(text[: block.start()])
            assert name is not None, f"which file is this? {content[:60]}"
            yield name[1], content


def pattern(expected: str) -> re.Pattern[str]:
    return re.compile(re.escape(expected).replace("…", "(?s:.*?)"))


class Shell:
    """One shell for all commands, in a folder of its own; `verbatim` and `python` are those of this run."""

    def __init__(self, folder: Path) -> None:
        commands = folder / "bin"
        commands.mkdir()
        run = f'exec {sys.executable} -c "from server.cli import main; main()" "$@"\n'
        for name, line in (("verbatim", run), ("python", f'exec {sys.executable} "$@"\n')):
            (commands / name).write_text(f"#!/bin/sh\n{line}")
            (commands / name).chmod(0o755)
        path = f"{commands}:{os.environ['PATH']}"
        self.folder = folder
        self.num_servers = 0
        self.process = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        )

    def type(self, command: str) -> tuple[int, str]:
        """The exit code and all that it says. A server in the background is waited for."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if command.endswith(" &"):
            self.num_servers += 1
            log = f"server-{self.num_servers}.log"
            started = f"until grep -qs Ready {log}; do sleep 0.05; done; sleep 0.2; cat {log}"
            command = f"{command[:-2]} > {log} 2>&1 & {started}"
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
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    shell.close()


def test_every_command(shell: Shell) -> None:
    """Each says what the page says that it does."""
    port, other = free_port(), free_port()
    text = PAGE.read_text("utf-8").replace(
        "simulate --profile none &", f"simulate --profile none --port {port} &"
    )
    text = text.replace("localhost:8000", f"127.0.0.1:{port}").replace("8001", str(other))
    has_node = install_node_package(shell.folder)
    for step in steps(text):
        if isinstance(step, tuple):
            (shell.folder / step[0]).write_text(step[1])
        elif has_node or not step.command.startswith("node "):
            code, said = shell.type(step.command)
            assert pattern(step.expected).search(said), (
                f"$ {step.command}\n{said}\n--- and not\n{step.expected}"
            )
            assert code == 0, f"$ {step.command}\n{said}"
    if not has_node:
        pytest.skip("openai for Node cannot be installed")


def install_node_package(folder: Path) -> bool:
    """Whether there is Node, and a registry."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        return False
    command = ["npm", "install", "--no-save", "--no-audit", "--no-fund", OPENAI_NODE]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0
