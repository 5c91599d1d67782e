"""The pages, command by command, as a reader would type them: each says what the page says that it does."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.weights.builtin import builtin_path
from tests.docs.blocks import ROOT, Step, blocks, pattern
from tests.docs.shell import Shell, install_node_package
from tests.helpers import byte_level, model_directory
from tests.serving import SMOL

Prepare = Callable[[Path], None]


@dataclass(frozen=True)
class Page:
    """What a page takes for granted.

    prepare: writes files into the folder where commands are typed. server: a command that runs before the
    page's first. environ: variables. elsewhere: words of the page, and what they are here. before: what
    happens before a command, where the page says it in words. is_long: its test is `long`.
    """

    prepare: Prepare = lambda folder: None
    server: str = ""
    environ: Mapping[str, str] = field(default_factory=dict)
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)
    node: bool = False
    is_long: bool = False


def built_in(folder: Path) -> None:
    """The built-in model as one of the reader's own, models/my-model."""
    subprocess.run([sys.executable, "-m", "server.weights.builtin"], check=True)
    shutil.copytree(builtin_path(SMOL), folder / "models/my-model")


def changes(folder: Path) -> None:
    """Two configurations on simulated engines, as docs/deployment.md changes one into the other."""
    path = model_directory(folder / "model", byte_level(), context_size=4096)

    def model(name: str, **keys: Any) -> dict[str, Any]:
        return {"id": name, "path": str(path), "engine": "simulated", **keys}

    for name, models in {
        "models": [model("old"), model("large")],
        "next": [model("large", max_num_seqs=2), model("small")],
    }.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"models": models}))


def models(folder: Path) -> None:
    """The folders of docs/models.md: two models, three that are large there, and adapters of one of these."""

    def run(code: str) -> None:  # in a process of its own, which imports torch
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)

    smol, tiny = folder / "models" / "smollm2-135m", folder / "models" / "tiny-llama"
    run("from server.weights.builtin import main; main()")
    shutil.copytree(builtin_path(SMOL), smol, ignore=shutil.ignore_patterns("checksums.json"))
    run(f"from tests.tiny_llama import *; make_tiny_llama(Path({str(tiny)!r}), Path({str(smol)!r}))")
    for name in ("llama-3.1-8b", "qwen-3-8b", "mistral-7b"):
        shutil.copytree(tiny, folder / "large" / name)
    run(
        "from tests.engine.test_adapters import *\n"
        "for seed, name in enumerate(('support-tone', 'legal', 'support-tone-2')):\n"
        f"    path = Path({str(folder)!r}) / 'adapters' / name\n"
        f"    base = Path({str(folder)!r}) / 'large' / 'llama-3.1-8b'\n"
        "    make_adapter(path, base, seed, r=4, lora_alpha=8, target_modules=ATTENTION)"
    )


SIMULATOR = "verbatim simulate --profile none &"
AS_SERVED = "verbatim simulate --profile none --model smollm2-135m-instruct &"  # what `make serve` serves
# Every page with a console block that has no mark; tests/docs/test_blocks.py holds that.
PAGES = {
    "README.md": Page(),
    "docs/calling/curl.md": Page(server=AS_SERVED),
    "docs/calling/node.md": Page(server=AS_SERVED, node=True),
    "docs/calling/python.md": Page(server=AS_SERVED),
    "docs/conform.md": Page(server=SIMULATOR),
    "docs/deployment.md": Page(
        changes,
        server="verbatim serve",
        elsewhere={"/run/verbatim/": "./"},
        before={
            "verbatim reload": "cp next.yaml models.yaml",
            "curl --unix-socket": "verbatim simulate --profile none --host unix:./verbatim.sock &",
        },
    ),
    "docs/faults.md": Page(server=SIMULATOR),
    "docs/journal.md": Page(
        before={"verbatim journal": "sleep 1"}
    ),  # a record comes a moment after its reply
    "docs/running/first-hour.md": Page(built_in),
    "docs/models.md": Page(
        models,
        elsewhere={  # a CPU for the GPU, and a second for the minute
            "    min_loaded_s: 60\n": "    min_loaded_s: 1\n    memory_gib: 2\n",
            "    gpu_memory_utilization: 0.45\n": "    size_gib: 1\n    kv_cache_gib: 0.25\n",
        },
        is_long=True,
    ),
    "docs/testing-clients.md": Page(node=True),
    "docs/twin.md": Page(),
    "docs/verdict.md": Page(server=SIMULATOR),
    "docs/watch.md": Page(server=SIMULATOR, environ={"KEY": "any"}),
}


@pytest.fixture
def shell(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Shell]:
    shell = Shell(tmp_path, PAGES[request.getfixturevalue("page")].environ)
    yield shell
    shell.close()


@pytest.mark.timeout(1200)  # docs/models.md starts six engines one after the other
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.long if PAGES[page].is_long else ()) for page in PAGES]
)
def test_every_command(page: str, shell: Shell) -> None:
    """Each ends well and says what the page shows; a block that is a file is written as it stands."""
    needs = PAGES[page]
    needs.prepare(shell.folder)
    has_node = needs.node and install_node_package(shell.folder)
    if needs.server:
        shell.type(needs.server)
    text = (ROOT / page).read_text("utf-8")
    for words, others in needs.elsewhere.items():
        text = text.replace(words, others)
    for block in blocks(text):
        if block.kind != "console" and block.file:
            (shell.folder / block.file).write_text(shell.here(block.content))
        elif block.kind == "console" and not block.runner and not block.reason:
            for step in block.steps():
                if has_node or not step.command.startswith("node "):
                    follow(shell, needs, step, f"{page}, line {block.line}")
    if needs.node and not has_node:
        pytest.skip("openai for Node cannot be installed")


def follow(shell: Shell, needs: Page, step: Step, where: str) -> None:
    for command, first in needs.before.items():
        if step.command.startswith(command):
            shell.type(first)
    code, said = shell.type(shell.here(step.command))
    seen = f"{where}: $ {step.command}\n{said}"
    assert pattern(shell.here(step.expected)).search(said), f"{seen}\n--- and not\n{step.expected}"
    assert code == 0, seen
