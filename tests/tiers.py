"""What the tests of a folder need, and `--fast`: only those that need the server's own packages and no more.

With --fast the heavy packages cannot be imported, whether they are installed or not: a test that imports one,
or runs code that does, fails here as it would where they are missing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
HEAVY = frozenset({"cryptography", "torch", "transformers", "triton", "vllm"})
# Folders whose tests need more than the server's own packages, and what, or take long. All others are fast.
SLOW = {
    "airgap": "vLLM, root, tcpdump, network namespaces",
    "browser": "Chromium",
    "bundle": "cryptography",
    "chaos": "vLLM, root, gcc",
    "cluster": "vLLM, Ray",
    "clients": "vLLM, nginx, npm, 3 GB of disk for the clients",
    "engine": "vLLM",
    "families": "vLLM, transformers",
    "gpu": "an NVIDIA GPU",
    "hostgpu": "vLLM for CUDA on a pretended GPU: gcc, 9 GB of disk",
    "packaging": "vLLM, root, buildah, debootstrap",
    "sealed": "cryptography",
    "server/process": "time: servers in processes of their own",
    "sampling/torch": "torch, Triton, vLLM",
    "twin/contract": "vLLM: the models of `engine`",
}
# In a run of two processes (`make test`) one has these, one after another, and the other one all the rest:
# they wait for engines to start for much of their time, and two engines at once would share the cores.
ENGINES = ("airgap", "chaos", "cluster", "engine", "families", "server/process", "twin/contract")

# Folders that a run has only with an option: its name, and the folder.
ASKED_FOR = {"clients": "clients", "outages": "cluster/outages"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="only the tests that need neither vLLM nor torch")
    for name, folder in ASKED_FOR.items():
        parser.addoption(f"--{name}", action="store_true", help=f"the tests of tests/{folder} too")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fast"):
        for name in HEAVY:
            sys.modules[name] = None  # type: ignore[assignment]  # Python's own way: there is none


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the folders that nobody has asked for, and with --fast those that are not; None lets pytest
    decide."""
    unasked = [folder for name, folder in ASKED_FOR.items() if not config.getoption(name)]
    left_out = _is_in(collection_path, unasked) or (config.getoption("--fast") and is_slow(collection_path))
    return left_out or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The fast ones first, so that most mistakes show within a minute."""
    items.sort(key=lambda item: is_slow(item.path))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which process has which tests. (Its own --dist loadgroup does nothing with pytest 9.2, whose items keep
    their names.)"""
    from xdist.scheduler import LoadScopeScheduling

    class ByEngines(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = HERE.parent / nodeid.partition("::")[0]
            return "engines" if _is_in(file, ENGINES) else "others"

    return ByEngines(config, log)


def is_slow(path: Path) -> bool:
    return _is_in(path, SLOW)


def _is_in(path: Path, folders: Iterable[str]) -> bool:
    return any(path.is_relative_to(HERE / folder) for folder in folders)
