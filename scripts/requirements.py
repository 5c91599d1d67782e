"""Makes requirements/{cpu,cuda,dev}.txt from pyproject.toml: `make requirements`.

Resolves with uv in a throw-away virtual environment, for the oldest Python that is supported: the list then
serves the newer ones too. First everything at once (engine, ours, tools; for CUDA, which pins more), then
each list with those versions as constraints, so that a package has one version whichever lists name it.
With --keep the versions that the lists have now are constraints as well: for adding a package.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = "uv==0.13.9"
PLATFORM = "x86_64-manylinux_2_31"  # the oldest glibc that every pinned wheel supports
LEAVE_OUT = {  # built for CUDA and unused for text; vLLM's V2 runner on CUDA does import torchvision
    "cpu": ["torchaudio", "torchcodec", "torchvision"],
    "cuda": ["torchaudio", "torchcodec"],
    "dev": [],
}
DIFFERS = re.compile(r"(torch\w*|vllm\S*|nvidia\S*|cuda\S*|setuptools)==")  # between the CPU and CUDA builds


class Compiler:
    def __init__(self, folder: Path) -> None:
        venv.create(folder / "uv", with_pip=True)
        self.bin = folder / "uv/bin"
        subprocess.run([self.bin / "pip", "install", "-q", UV], check=True)
        self.find_links = self._pip_find_links()

    def _pip_find_links(self) -> list[str]:
        """Where pip is configured to look for files: uv does not read pip's configuration."""
        listing = subprocess.run(
            [self.bin / "pip", "config", "list"], capture_output=True, text=True, check=True
        )
        values = re.findall(r"find-links='(.*)'", listing.stdout)
        return sorted({link for value in values for link in value.replace("\\n", " ").split()})

    def compile(self, extras: list[str], output: Path, *options: str, local_files: bool = True) -> str:
        command = [str(self.bin / "uv"), "pip", "compile", "pyproject.toml", "-o", str(output), "--quiet"]
        command += ["--python-version", "3.11", "--python-platform", PLATFORM, "--upgrade"]
        command += ["--no-emit-index-url", "--no-emit-find-links", "--no-annotate"]
        command += ["--custom-compile-command", "make requirements", *options]
        for extra in extras:
            command += ["--extra", extra]
        for link in self.find_links if local_files else []:
            command += ["--find-links", link]
        environment = {name: value for name, value in os.environ.items() if name != "PIP_FIND_LINKS"}
        subprocess.run(command, cwd=ROOT, env=environment, check=True)
        return output.read_text()


def exact_torch(listing: str) -> str:
    """`===` for torch: a `+cpu` build among pip's local files would satisfy `==` and be preferred."""
    return re.sub(r"^(torch(?:vision)?)==", r"\1===", listing, flags=re.MULTILINE)


def present_versions() -> str:
    """The pins of the lists as they are, but for those that differ between them."""
    lists = [(ROOT / f"requirements/{kind}.txt").read_text().splitlines() for kind in LEAVE_OUT]
    pinned = {line for lines in lists for line in lines if "==" in line and not DIFFERS.match(line)}
    return "".join(f"{line}\n" for line in sorted(pinned))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="only add what is missing; upgrade nothing")
    keep = parser.parse_args().keep
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compiler = Compiler(folder)
        present = folder / "present.txt"
        present.write_text(present_versions() if keep else "")
        everything = compiler.compile(
            ["cuda", "dev", "bundle"], folder / "everything.txt", "-c", str(present), local_files=False
        )
        constraints = folder / "constraints.txt"
        constraints.write_text(
            "".join(f"{line}\n" for line in everything.splitlines() if not DIFFERS.match(line))
        )
        for kind, packages in LEAVE_OUT.items():
            options = [f"--no-emit-package={package}" for package in packages]
            listing = compiler.compile(
                [kind, "bundle"],
                folder / f"{kind}.txt",
                "-c",
                str(constraints),
                *options,
                local_files=kind != "cuda",
            )
            (ROOT / "requirements" / f"{kind}.txt").write_text(
                exact_torch(listing) if kind == "cuda" else listing
            )
            sys.stdout.write(f"requirements/{kind}.txt: {listing.count('==')} packages\n")


if __name__ == "__main__":
    main()
