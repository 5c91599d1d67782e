"""Makes requirements/{cpu,cuda,dev,ray}.txt from pyproject.toml: `make requirements`.

It resolves with uv in a temporary virtual environment, for the oldest supported Python, so that the list
works for newer ones too. It first resolves all packages at once (engine, ours, tools; for CUDA, which pins
more). Then it resolves each list with these versions as constraints, so that a package has the same version
in every list. Last it adds the SHA-256 of every wheel that a supported Python may install; it is an error if
a package has no wheel for one of them. To add a package, use --keep: it keeps the versions that the lists
have now.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections import defaultdict
from pathlib import Path

from server.pip import GLIBC, NEWEST, OLDEST, Pin, read_pins

ROOT = Path(__file__).resolve().parent.parent
UV = "uv==0.13.9"
PYTHONS = [f"3.{minor}" for minor in range(OLDEST[1], NEWEST[1] + 1)]
PLATFORM = f"x86_64-manylinux_{GLIBC[0]}_{GLIBC[1]}"
LEAVE_OUT = {  # built for CUDA and unused for text; vLLM's V2 runner on CUDA does import torchvision
    "cpu": ["torchaudio", "torchcodec", "torchvision"],
    "cuda": ["torchaudio", "torchcodec"],
    # Packages that PEFT needs and the engine's list has, for its device: a development tool must
    # not choose it.
    "dev": [
        *("accelerate", "jinja2", "mpmath", "networkx", "regex", "safetensors", "setuptools", "sympy"),
        *("torch", "transformers"),
    ],
    "ray": [],
}
WITHOUT_BUNDLE = ("ray",)  # used beside another list, which has the rest
# These differ between the CPU and CUDA builds.
DIFFERS = re.compile(r"(torch\w*|vllm\S*|nvidia\S*|cuda\S*|setuptools)==")
# From PyTorch's CPU index for Linux x86-64, one per Python version. Written by hand, so that `make
# requirements` works where that index cannot be reached.
TORCH_CPU = {
    "torch==2.13.0+cpu": (
        "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",  # 3.11
        "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",  # 3.12
        "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",  # 3.13
        "d20fa53ee744502fa4c69818a720b05ca0d37abd055d4f6e66cae155114bc691",  # 3.14
    )
}
HEAD = """\
# Made by `make requirements` (scripts/requirements.py): exact versions, and the SHA-256 of every wheel that a
# supported Python on Linux x86-64 may take. Set-up and bundles take no other file.
"""


class Compiler:
    """uv, in an environment of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        venv.create(folder / "uv", with_pip=True)
        self.bin = folder / "uv/bin"
        subprocess.run([self.bin / "pip", "install", "-q", UV], check=True)
        self.find_links = self._pip_find_links()

    def _pip_find_links(self) -> list[str]:
        """pip's configured find-links: uv does not read pip's configuration."""
        listing = subprocess.run(
            [self.bin / "pip", "config", "list"], capture_output=True, text=True, check=True
        )
        values = re.findall(r"find-links='(.*)'", listing.stdout)
        return sorted({link for value in values for link in value.replace("\\n", " ").split()})

    def versions(self, extras: list[str], output: Path, *options: str, local_files: bool = True) -> list[str]:
        """`name==version` of everything that the project and these extras need, which is kept
        in the output."""
        command = ["pyproject.toml", "-o", str(output), "--no-annotate", "--no-header", *options]
        for extra in extras:
            command += ["--extra", extra]
        for link in self.find_links if local_files else []:
            command += ["--find-links", link]
        self._compile(PYTHONS[0], command)
        return output.read_text().splitlines()

    def digests(self, requirements: list[str]) -> dict[str, set[str]]:
        """Package name -> SHA-256 of the wheels that a supported Python may install."""
        listing, found = self.folder / "pinned.txt", defaultdict[str, set[str]](set)
        listing.write_text("".join(f"{requirement}\n" for requirement in requirements))
        for python in PYTHONS:
            lock = self.folder / f"pylock.{python.replace('.', '-')}.toml"
            self._compile(python, [str(listing), "--no-deps", "--format", "pylock.toml", "-o", str(lock)])
            for package in tomllib.loads(lock.read_text())["packages"]:
                found[package["name"]] |= {wheel["hashes"]["sha256"] for wheel in package["wheels"]}
        return found

    def _compile(self, python: str, arguments: list[str]) -> None:
        command = [str(self.bin / "uv"), "pip", "compile", "--quiet", *arguments, "--only-binary", ":all:"]
        command += ["--python-version", python, "--python-platform", PLATFORM]
        command += ["--no-emit-index-url", "--no-emit-find-links"]
        environment = {name: value for name, value in os.environ.items() if name != "PIP_FIND_LINKS"}
        subprocess.run(command, cwd=ROOT, env=environment, check=True)


def exact_torch(requirement: str) -> str:
    """`===` for torch: a `+cpu` build among pip's local files would satisfy `==` and be preferred."""
    return re.sub(r"^(torch(?:vision)?)==", r"\1===", requirement)


def pinned(compiler: Compiler, kind: str, versions: list[str]) -> list[Pin]:
    """The packages with their digests. The CPU's torch comes first: a source without it is
    noticed at once."""
    requirements = [exact_torch(one) if kind == "cuda" else one for one in versions]
    by_hand = [one for one in requirements if one.endswith("+cpu")]
    if unknown := set(by_hand) - TORCH_CPU.keys():
        sys.exit(f"error: TORCH_CPU of {__file__} lacks the digests of {', '.join(unknown)}.")
    rest = [one for one in requirements if one not in by_hand]
    digests = compiler.digests(rest)
    return [
        *(Pin(one, TORCH_CPU[one]) for one in by_hand),
        *(Pin(one, tuple(sorted(digests[one.partition("=")[0]]))) for one in rest),
    ]


def write_list(path: Path, pins: list[Pin]) -> None:
    path.write_text(HEAD + "".join(pin.line.replace(" --hash", " \\\n    --hash") + "\n" for pin in pins))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keep", action="store_true", help="add missing packages only, and upgrade nothing")
    keep = parser.parse_args().keep
    lists = {kind: ROOT / f"requirements/{kind}.txt" for kind in LEAVE_OUT}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        compiler = Compiler(folder)
        outputs = {kind: folder / f"{kind}.txt" for kind in ("everything", *lists)}
        if keep:  # uv keeps the versions that it finds in its output, if possible
            there = {kind: [pin.requirement for pin in read_pins(path)] for kind, path in lists.items()}
            there["everything"] = sorted({*there["cuda"], *there["dev"], *there["ray"]})
            for kind, output in outputs.items():
                output.write_text("".join(f"{one}\n" for one in there[kind]).replace("===", "=="))
        extras = ["cuda", "dev", "ray", "bundle"]
        everything = compiler.versions(extras, outputs["everything"], local_files=False)
        constraints = folder / "constraints.txt"
        constraints.write_text("".join(f"{one}\n" for one in everything if not DIFFERS.match(one)))
        for kind, path in lists.items():
            options = ["-c", str(constraints), *(f"--no-emit-package={one}" for one in LEAVE_OUT[kind])]
            local_files = kind != "cuda"
            extras = [kind] if kind in WITHOUT_BUNDLE else [kind, "bundle"]
            versions = compiler.versions(extras, outputs[kind], *options, local_files=local_files)
            pins = pinned(compiler, kind, versions)
            write_list(path, pins)
            num_wheels = sum(len(pin.sha256) for pin in pins)
            print(f"requirements/{kind}.txt: {len(pins)} packages, {num_wheels} wheels", flush=True)


if __name__ == "__main__":
    main()
